"""The samplers that are offered, as diffusers schedulers, and how many calls of the denoiser they make."""

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import diffusers
import torch

from explorer.execution.prediction import Prediction
from explorer.sampling.flow_matching import FLOW_SAMPLERS, is_flow, make_flow_scheduler

NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


class ExactDDIM(diffusers.DDIMScheduler):
    """DDIM (Song et al. 2021, eq. 12, eta 0) that steps to the true next timestep.

    diffusers steps to `t - 1000 // steps`, which misses it when steps do not divide 1000; otherwise both are the same.
    """

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.config.num_train_timesteps % self.num_inference_steps == 0:
            return super().step(model_output, timestep, sample, *args, **kwargs)
        later = self.timesteps[self.timesteps < timestep]
        alpha_prod = self.alphas_cumprod[later[0]] if len(later) else self.final_alpha_cumprod
        prediction = Prediction.of(self)
        x0 = prediction.pred_original_sample(model_output, sample, timestep)
        epsilon = prediction.to_epsilon(model_output, sample, timestep)
        if self.config.clip_sample:
            x0 = x0.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        prev_sample = alpha_prod**0.5 * x0 + (1 - alpha_prod) ** 0.5 * epsilon
        return diffusers.schedulers.scheduling_ddim.DDIMSchedulerOutput(prev_sample.to(sample.dtype), x0)


SAMPLERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (ExactDDIM, {}),
    "dpm++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "variance_type": None}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "deis": (diffusers.DEISMultistepScheduler, {}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "lcm": (diffusers.LCMScheduler, {}),
}
STOCHASTIC = (diffusers.LCMScheduler,)  # they draw noise at each step


def make_scheduler(sampler: str, config: Mapping[str, Any], solver: Mapping[str, Any] = NO_SETTINGS) -> Any:
    """Make a fresh diffusers scheduler with the noise levels of `config`, and settings of its own (`solver`) such as
    `solver_order` or `timestep_spacing`. Raises ValueError for an unknown sampler or setting."""
    offered = samplers_for(config)
    if sampler not in offered:
        why = " for a model of flow matching" if is_flow(config) and sampler in SAMPLERS else ""
        raise ValueError(f"sampler {sampler!r} is unknown{why}; choose one of {', '.join(offered)}")
    kind: Any = scheduler_class(sampler, config)
    known = inspect.signature(kind.__init__).parameters
    if unknown := [setting for setting in solver if setting not in known]:
        raise ValueError(f"the sampler {sampler} has no setting {unknown[0]!r}")
    if is_flow(config):
        return make_flow_scheduler(sampler, config, solver)
    return kind.from_config(config, **SAMPLERS[sampler][1] | dict(solver))


def scheduler_class(sampler: str, config: Mapping[str, Any]) -> type | None:
    """Find the class of a sampler for a model whose scheduler has this configuration; None for one that it has not."""
    return FLOW_SAMPLERS.get(sampler) if is_flow(config) else SAMPLERS.get(sampler, (None,))[0]


def samplers_for(config: Mapping[str, Any]) -> list[str]:
    """List the samplers for a model whose scheduler has this configuration."""
    return list(FLOW_SAMPLERS if is_flow(config) else SAMPLERS)


def num_function_evals(
    sampler: str, config: Mapping[str, Any], steps: int, solver: Mapping[str, Any] = NO_SETTINGS
) -> int:
    """Count the calls of the denoiser in `steps` steps (the field's NFE, without guidance): PNDM makes one more.

    Raises ValueError for a number of steps that the sampler cannot make.
    """
    scheduler = make_scheduler(sampler, config, solver)
    trained = scheduler.config.num_train_timesteps
    if not 1 <= steps <= trained:
        raise ValueError(f"steps must be between 1 and {trained}, got {steps}")
    try:
        scheduler.set_timesteps(steps)
    except (ValueError, IndexError, RuntimeError) as error:
        raise ValueError(f"the sampler {sampler} cannot make {steps} steps: {error}") from error
    return len(scheduler.timesteps)


def equal_nfe_steps(sampler: str, scheduler_config: Mapping[str, Any], calls: float) -> tuple[int, int]:
    """Find the steps (and calls) of a few-step sampler that come nearest to `calls` calls of the denoiser."""
    wanted = max(1, round(calls))
    steps = max(1, wanted - (num_function_evals(sampler, scheduler_config, 4) - 4))  # PNDM makes one call more
    return steps, num_function_evals(sampler, scheduler_config, steps)
