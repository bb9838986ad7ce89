"""The denoising loop, the same for every model: noise in, one step after another out.

A model is anything with `denoise(x, t, conditioning, guidance) -> (B, C, H, W)`; see `model.Model`.
"""

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import diffusers
import torch
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from explorer.mixture import Gates, Held
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
    """All that one step hands on to the next: a tree of tensors and others."""

    latents: torch.Tensor  # (B, C, H, W)
    solver: Mapping[str, Any]  # the scheduler's attributes: its history and its index among them
    held: Held


def rollout(
    model: Any,
    scheduler: Any,
    steps: int,
    noise: torch.Tensor,
    conditioning: dict,
    guidance: float,
    at: Callable[[int, Any, Held], AbstractContextManager[Held]],
    gates: Any,
    memory: Memory = "step",
) -> torch.Tensor:
    """Final latents (B, C, H, W) of the whole chain, differentiable in the tensors of `gates`, and in nothing else.

    `with at(call, gates, held) as held:` the denoiser runs under the gates, any tree of tensors; what it yields is held
    for the next call. memory: `plain` keeps every activation; `step` keeps what goes from one call to the next and
    computes the rest again on the way back; `nested` keeps that at every sqrt(T)-th call only, for one more forward.
    Raises ValueError for a sampler that draws noise of its own, and where the gates are for another number of calls.
    """
    if isinstance(scheduler, STOCHASTIC):
        raise ValueError(
            f"{type(scheduler).__name__} draws noise at each step; choose a deterministic sampler to learn"
        )
    scheduler.set_timesteps(steps, device=noise.device)
    timesteps = scheduler.timesteps
    if isinstance(gates, Gates) and len(timesteps) != len(gates.own):
        raise ValueError(f"the sampler makes {len(timesteps)} calls, but there are gates for {len(gates.own)}")

    def step(call: int, moment: _Moment, gates: Any) -> _Moment:
        solver = copy.copy(scheduler)
        vars(solver).update(moment.solver)
        x = solver.scale_model_input(moment.latents, timesteps[call])
        with at(call, gates, moment.held) as held:
            output = model.denoise(x, timesteps[call], conditioning, guidance)
        latents = solver.step(output, timesteps[call], moment.latents, return_dict=False)[0]
        return _Moment(latents, vars(solver), held)

    def stretch(calls: range, moment: _Moment, gates: Any) -> _Moment:
        for call in calls:
            one = partial(step, call)
            moment = one(moment, gates) if memory == "plain" else again(one, moment, gates)
        return moment

    moment, calls = _Moment(noise * scheduler.init_noise_sigma, vars(scheduler), {}), range(len(timesteps))
    if memory != "nested":
        return stretch(calls, moment, gates).latents
    length = math.isqrt(len(calls) - 1) + 1
    for first in calls[::length]:
        moment = again(partial(stretch, calls[first : first + length]), moment, gates)
    return moment.latents


def again(function: Callable, *state: Any) -> Any:
    """`function(*state)`, from trees of tensors and others to such a tree, as one node of the graph: it keeps what
    comes in, and computes the rest again on the way back. Gradients reach the tensors of `state` and no others.

    PyTorch's own checkpoint keeps the graph of the whole function, without its activations: megabytes for each call.
    """
    leaves, form = tree_flatten(state)
    flows = [isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves]
    inputs = [leaf for leaf, flow in zip(leaves, flows, strict=True) if flow]
    others = [None if flow else leaf for leaf, flow in zip(leaves, flows, strict=True)]

    def compute(given: Any) -> tuple[Any, dict[int, torch.Tensor]]:
        """What comes out for other inputs, and by its id each tensor of it that did not come in."""
        flowing = iter(given)
        before = [next(flowing) if flow else leaf for leaf, flow in zip(others, flows, strict=True)]
        after = function(*tree_unflatten(before, form))
        known = {id(leaf) for leaf in before}
        tensors = (leaf for leaf in tree_leaves(after) if isinstance(leaf, torch.Tensor))
        return after, {id(tensor): tensor for tensor in tensors if id(tensor) not in known}

    with torch.no_grad():
        after, made = compute(inputs)
    joined = dict(zip(made, _Again.apply(compute, tuple(made.values()), *inputs), strict=True))
    return tree_map(lambda leaf: joined.get(id(leaf), leaf), after)


class _Again(torch.autograd.Function):
    """Joins tensors that were made without a graph to the inputs that `compute` makes them of."""

    @staticmethod
    def forward(ctx: Any, compute: Callable, made: tuple[torch.Tensor, ...], *inputs: torch.Tensor) -> Any:
        ctx.compute = compute
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: torch.Tensor | None) -> Any:
        inputs = [value.detach().requires_grad_() for value in ctx.saved_tensors]
        with torch.enable_grad():
            _, made = ctx.compute(inputs)
        pairs = [
            (value, slope)
            for value, slope in zip(made.values(), slopes, strict=True)
            if slope is not None and value.requires_grad
        ]
        values, slopes = zip(*pairs, strict=True) if pairs else ((), ())
        return None, None, *torch.autograd.grad(values, inputs, slopes, allow_unused=True)
