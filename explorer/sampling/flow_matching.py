"""Samplers of flow matching: SD3, FLUX, Sana, Qwen-Image, Lumina 2 and Wan have a velocity between noise and picture.

Reusing a velocity unchanged is a step of a coarser Euler sampler, as reusing a noise estimate is one of DDIM.
"""

import math
from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np
import torch

SETTINGS = ("mu", "linear_sigmas")  # of ours in a scheduler's configuration, which a pipeline's adapter makes


class FlowMatchEuler(diffusers.FlowMatchEulerDiscreteScheduler):
    """Euler's method (Esser et al. 2024) at the noise levels that a pipeline would ask for.

    mu: the shift for the number of tokens, where it depends on that; linear_sigmas: levels from 1 to 1 / steps, as
    FLUX's pipeline has them, before the shift.
    """

    init_noise_sigma = 1.0
    mu: float | None = None
    linear_sigmas = False

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        if num_inference_steps and sigmas is None and timesteps is None:  # else a pipeline asks for its own
            if self.linear_sigmas:
                sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
            mu = self.mu if mu is None and self.config.use_dynamic_shifting else mu
        super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)

    def scale_model_input(self, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        return sample


FLOW_SAMPLERS: dict[str, Any] = {
    "euler": FlowMatchEuler,
    "dpm++": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
}


def is_flow(config: Mapping[str, Any]) -> bool:
    """Say whether a scheduler's configuration is one of flow matching."""
    return str(config.get("_class_name")).startswith("FlowMatch") or config.get("prediction_type") == "flow_prediction"


def make_flow_scheduler(sampler: str, config: Mapping[str, Any], solver: Mapping[str, Any]) -> Any:
    """Make a scheduler of flow matching, as `schedulers.make_scheduler` does; dpm++ and unipc get the same shift."""
    kind = FLOW_SAMPLERS[sampler]
    plain = {name: value for name, value in config.items() if name not in SETTINGS}
    if kind is FlowMatchEuler:
        plain = {"shift": plain.get("flow_shift", 1.0)} | plain
        scheduler = kind.from_config(plain, **solver)
        scheduler.mu, scheduler.linear_sigmas = config.get("mu"), config.get("linear_sigmas", False)
        return scheduler
    if "flow_shift" not in plain:
        plain["flow_shift"] = _shift(config)
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "use_dynamic_shifting": False}
    return kind.from_config(plain, **flow | dict(solver))


def _shift(config: Mapping[str, Any]) -> float:
    """Compute the factor s of s t / (1 + (s - 1) t), which a dynamic shift is with s = e^mu (or mu, where linear)."""
    if not config.get("use_dynamic_shifting"):
        return float(config.get("shift", 1.0))
    mu = float(config["mu"])
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)
