"""The denoising loop, the same for every model: noise in, one step after another out.

A model is anything with `denoise(x, t, conditioning, guidance) -> (B, C, H, W)`; see `model.Model`.
"""

import copy
import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import diffusers
import torch
from torch.utils.checkpoint import checkpoint

from explorer.mixture import Gates, Held, Mixture
from explorer.supernet import NoiseEstimate


class ExactDDIM(diffusers.DDIMScheduler):
    """DDIM (Song et al. 2021, eq. 12, eta 0) that steps to the true next timestep.

    diffusers steps to `t - 1000 // steps`, which misses it when steps do not divide 1000; otherwise both are the same.
    """

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.config.num_train_timesteps % self.num_inference_steps == 0:
            return super().step(model_output, timestep, sample, *args, **kwargs)
        later = self.timesteps[self.timesteps < timestep]
        alpha_prod = self.alphas_cumprod[later[0]] if len(later) else self.final_alpha_cumprod
        estimate = NoiseEstimate.of(self)
        x0 = estimate.clean(model_output, sample, timestep)
        epsilon = estimate.reusable(model_output, sample, timestep)
        if self.config.clip_sample:
            x0 = x0.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        moved = alpha_prod**0.5 * x0 + (1 - alpha_prod) ** 0.5 * epsilon
        return diffusers.schedulers.scheduling_ddim.DDIMSchedulerOutput(moved.to(sample.dtype), x0)


SAMPLERS: dict[str, tuple[type, dict[str, Any]]] = {
    "ddim": (ExactDDIM, {}),
    "dpm++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "variance_type": None}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "deis": (diffusers.DEISMultistepScheduler, {}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "lcm": (diffusers.LCMScheduler, {}),
}
STOCHASTIC = (diffusers.LCMScheduler,)  # they draw noise at each step


def sampler(name: str, config: Any, solver: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """A fresh diffusers scheduler with the noise levels of `config`, and settings of its own (`solver`) such as
    `solver_order` or `timestep_spacing`. Raises ValueError for an unknown name or setting."""
    if name not in SAMPLERS:
        raise ValueError(f"sampler {name!r} is unknown; choose one of {', '.join(SAMPLERS)}")
    scheduler_class, overrides = SAMPLERS[name]
    known = inspect.signature(scheduler_class.__init__).parameters
    if foreign := [setting for setting in solver if setting not in known]:
        raise ValueError(f"the sampler {name} has no setting {foreign[0]!r}")
    return scheduler_class.from_config(config, **overrides | dict(solver))


def calls_of(name: str, config: Any, steps: int, solver: Mapping[str, Any] = MappingProxyType({})) -> int:
    """How often the denoiser is called in `steps` steps: PNDM makes one call more. Raises ValueError if it cannot."""
    scheduler = sampler(name, config, solver)
    trained = scheduler.config.num_train_timesteps
    if not 1 <= steps <= trained:
        raise ValueError(f"steps must be between 1 and {trained}, got {steps}")
    try:
        scheduler.set_timesteps(steps)
    except (ValueError, IndexError, RuntimeError) as error:
        raise ValueError(f"the sampler {name} cannot make {steps} steps: {error}") from error
    return len(scheduler.timesteps)


def equal_steps(sampler: str, scheduler_config: Any, calls: float) -> tuple[int, int]:
    """Steps (and calls) of a few-step sampler that come nearest to `calls` calls of the denoiser."""
    wished = max(1, round(calls))
    steps = max(1, wished - (calls_of(sampler, scheduler_config, 4) - 4))  # PNDM makes one call more
    return steps, calls_of(sampler, scheduler_config, steps)


class Step(NamedTuple):
    """What the loop has after one call."""

    call: int  # counted from 0
    timestep: float
    latents: torch.Tensor  # (B, C, H, W)
    clean: torch.Tensor  # (B, C, H, W), the estimate of x0: what a preview decodes


@torch.no_grad()
def denoise(
    model: Any, scheduler: Any, steps: int, noise: torch.Tensor, conditioning: dict, guidance: float, generators: Any
) -> Iterator[Step]:
    """Yield every step from `noise` (B, C, H, W; unit variance) on. Guidance of at most 1 is no guidance."""
    scheduler.set_timesteps(steps, device=noise.device)
    extra = {"generator": generators} if isinstance(scheduler, STOCHASTIC) else {}
    estimate = NoiseEstimate.of(scheduler)
    latents = noise * scheduler.init_noise_sigma
    for call, timestep in enumerate(scheduler.timesteps):
        x = scheduler.scale_model_input(latents, timestep)
        output = model.denoise(x, timestep, conditioning, guidance)
        latents = scheduler.step(output, timestep, latents, return_dict=False, **extra)[0]
        yield Step(call, float(timestep), latents, estimate.clean(output, x, timestep))


Memory = Literal["plain", "step", "nested"]


class _Moment(NamedTuple):
    """All that one step hands on to the next."""

    latents: torch.Tensor  # (B, C, H, W)
    scheduler: Any  # with the solver's history and its index
    held: Held


def rollout(
    model: Any,
    scheduler: Any,
    steps: int,
    noise: torch.Tensor,
    conditioning: dict,
    guidance: float,
    net: Mixture | None = None,
    gates: Gates | None = None,
    memory: Memory = "step",
) -> torch.Tensor:
    """Final latents (B, C, H, W) of the whole chain, differentiable in `gates` of a `net`, and in whatever else the
    denoiser's output depends on, as long as that stays the same until the way back is over.

    memory: `plain` keeps every activation; `step` keeps what goes from one call to the next and computes the rest again
    on the way back; `nested` keeps that at every sqrt(T)-th call only, for one more forward. Raises ValueError for a
    sampler that draws noise of its own, and where the gates are for another number of calls.
    """
    if isinstance(scheduler, STOCHASTIC):
        raise ValueError(
            f"{type(scheduler).__name__} draws noise at each step; choose a deterministic sampler to learn"
        )
    scheduler.set_timesteps(steps, device=noise.device)
    timesteps = scheduler.timesteps
    if gates is not None and len(timesteps) != len(gates.own):
        raise ValueError(f"the sampler makes {len(timesteps)} calls, but there are gates for {len(gates.own)}")

    def step(moment: _Moment, call: int) -> _Moment:
        solver = _copied(moment.scheduler)
        x = solver.scale_model_input(moment.latents, timesteps[call])
        with net.at(call, gates, moment.held) if net else nullcontext():
            output = model.denoise(x, timesteps[call], conditioning, guidance)
        latents = solver.step(output, timesteps[call], moment.latents, return_dict=False)[0]
        return _Moment(latents, solver, net.held if net else {})

    def stretch(moment: _Moment, calls: range) -> _Moment:
        for call in calls:
            moment = step(moment, call) if memory == "plain" else again(step, moment, call)
        return moment

    def again(function: Any, *args: Any) -> _Moment:
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)

    moment = _Moment(noise * scheduler.init_noise_sigma, scheduler, {})
    if memory != "nested":
        return stretch(moment, range(len(timesteps))).latents
    length = math.isqrt(len(timesteps) - 1) + 1
    for first in range(0, len(timesteps), length):
        moment = again(stretch, moment, range(first, min(first + length, len(timesteps))))
    return moment.latents


def _copied(scheduler: Any) -> Any:
    """A scheduler in the same state, whose steps leave this one as it is."""
    other = copy.copy(scheduler)
    vars(other).update({name: list(value) for name, value in vars(other).items() if isinstance(value, list)})
    return other
