"""What one full run says of its calls: inner products of what they hand out, and by what an error of each counts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from explorer.execution.prediction import Prediction
from explorer.models.model import Model
from explorer.pruners.schedule_configs import PlannedConfig
from explorer.sampling.rollout import denoise, rollout
from explorer.sampling.schedulers import make_scheduler

IMPULSE = 1e-3  # small, so that no sampler clips what it makes of one


def measure_batch(
    model: Model, prompts: Sequence[str], first_seed: int, config: PlannedConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Run some prompts in full; returns inner products per element of what every two calls hand out, float (T, T), and
    by what an error of each call counts, float (T,).

    What a call hands out is what a later one reuses: the estimate of noise, or a flow's velocity.
    """
    conditioning = model.encode(prompts, config.guidance)
    noise, generators = model.initial_latents(range(first_seed, first_seed + len(prompts)))
    scheduler = make_scheduler(config.sampler, model.scheduler_config)
    recorder = _Recorder(model, Prediction.of(scheduler))
    run = (scheduler, config.steps, noise, conditioning, config.guidance, generators)
    spread = torch.stack([step.latents.std() for step in denoise(recorder, *run)]).double().cpu().numpy()
    values = torch.stack(recorder.values)
    if not bool(values.isfinite().all()):
        raise ValueError("the full run ends in values that are not finite; lower the guidance")
    flat = values.flatten(1).double()
    gram = (flat @ flat.T / flat.shape[1]).cpu().numpy()
    if config.gain == "closed":
        return gram, closed_loop_weights(model, config, noise, conditioning, first_seed)
    final, following = open_loop_weights(model, config, len(values))
    if config.gain == "open":
        return gram, final
    return gram, following * (spread[-1] / spread if config.gain == "spread" else 1)


class _Recorder:
    """The model, with what its calls hand out, (B, C, H, W) each."""

    def __init__(self, model: Model, prediction: Prediction):
        self.model, self.prediction = model, prediction
        self.values: list[torch.Tensor] = []

    def denoise(self, x: torch.Tensor, t: Any, conditioning: dict[str, Any], guidance: float) -> torch.Tensor:
        output = self.model.denoise(x, t, conditioning, guidance)
        self.values.append(self.prediction.to_epsilon(output, x, t)[:, : x.shape[1]].float())
        return output


class _Impulses:
    """A network that hands out IMPULSE at call i for picture i alone. Nothing at call 0, which is always computed."""

    def __init__(self, prediction: Prediction):
        self.prediction, self.call = prediction, 0

    def denoise(self, x: torch.Tensor, t: Any, conditioning: dict[str, Any], guidance: float) -> torch.Tensor:
        value = torch.zeros_like(x)
        value[self.call] = IMPULSE * (self.call > 0)
        self.call += 1
        return self.prediction.from_epsilon(value, x, t) if self.call > 1 else value


def open_loop_weights(model: Model, config: PlannedConfig, calls: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute what the sampler makes of a change of each call's value if no other changes with it, float (T,) each: of
    the final latents, and of those after the call. The network does not run."""
    scheduler = make_scheduler(config.sampler, model.scheduler_config)
    impulses = _Impulses(Prediction.of(scheduler))
    steps = denoise(impulses, scheduler, config.steps, torch.zeros(calls, 1, 1, 1).double(), {}, 1.0, None)
    latents = torch.stack([step.latents for step in steps])[..., 0, 0, 0].numpy() / IMPULSE
    return np.abs(latents[-1]), np.abs(np.diagonal(latents))


def closed_loop_weights(
    model: Model, config: PlannedConfig, noise: torch.Tensor, conditioning: Any, seed: int
) -> np.ndarray:
    """Measure how much a random change of each call's value changes the final latents, float (T,): by the gradient of
    one random direction per picture, through all later calls."""
    scheduler = make_scheduler(config.sampler, model.scheduler_config)
    scheduler.set_timesteps(config.steps)
    changes = torch.zeros(len(scheduler.timesteps), *noise.shape, device=noise.device, requires_grad=True)
    changed = _Changed(model, Prediction.of(scheduler))
    model.denoiser.requires_grad_(False)
    run = (scheduler, config.steps, noise, conditioning, config.guidance)
    ends = rollout(changed, *run, changed.at, changes)
    direction = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed)).to(noise)
    (gradient,) = torch.autograd.grad((ends * direction).sum(), changes)
    return gradient.double().square().mean(dim=(1, 2, 3, 4)).sqrt().cpu().numpy()


class _Changed:
    """The model, with a change of what each call hands out."""

    def __init__(self, model: Model, prediction: Prediction):
        self.model, self.prediction = model, prediction

    @contextmanager
    def at(self, call: int, changes: torch.Tensor, cached: Any) -> Iterator[Any]:
        self.change = changes[call]
        yield cached

    def denoise(self, x: torch.Tensor, t: Any, conditioning: dict[str, Any], guidance: float) -> torch.Tensor:
        output = self.model.denoise(x, t, conditioning, guidance)
        value = self.prediction.to_epsilon(output, x, t)
        return self.prediction.from_epsilon(value + self.change, x, t)
