"""Diff-Pruning's walk over timesteps: the loss, and gradients of every weight, from low noise to high."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from explorer.execution.prediction import Prediction
from explorer.models.model import Model
from explorer.models.prompts import repeat_to
from explorer.pruners.width_configs import TaylorConfig
from explorer.sampling.rollout import denoise
from explorer.sampling.schedulers import make_scheduler

PICTURES_SEED = 2**30 + 2**29  # first noise of the pictures, which judge no method
BATCH = 16
ACCUMULATE = {
    "signed": lambda weight, gradient: gradient,  # multiplied by the weight at the end
    "absolute": lambda weight, gradient: (weight * gradient).abs(),
    "squared": lambda weight, gradient: (weight * gradient).square(),
}


class TaylorWalk:
    """One network's first-order expansion. `trace`: (timestep, loss as a share of the largest so far); `used`: the
    number of timesteps whose gradients were added up."""

    def __init__(self, model: Model, prompts: Sequence[str], config: TaylorConfig, threshold: float | None = None):
        self.config, self.model = config, _with_gradients(model.with_shared_weights())
        self.threshold = config.threshold if threshold is None else threshold
        self.parameters = dict(self.model.denoiser.named_parameters())
        self.prompts = repeat_to(prompts, config.num_images)
        self.sums = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        self.trace: list[tuple[int, float]] = []
        self.used = 0
        scheduler = make_scheduler(config.sampler, model.scheduler_config)
        self.prediction = Prediction.of(scheduler)
        self.num_timesteps = int(scheduler.config.num_train_timesteps)
        alphas: Any = getattr(scheduler, "alphas_cumprod", None)
        self.signal = None if self.prediction.kind == "flow_prediction" else alphas.double().sqrt()

    def run(self) -> Iterator[tuple[int, int, float]]:
        """Yield timesteps done, timesteps in all, and the loss at the last one as a share of the largest.

        When it yields, the sums are those of a threshold that this loss is the first to fall below.
        """
        times = range(0, self.num_timesteps, self.config.stride)
        yield 0, len(times), 1.0
        batches = self._generate()
        noise = [self._noise(clean) for clean, _ in batches]
        largest = 0.0
        for done, t in enumerate(times, start=1):
            counts = not self.is_below(self.threshold)
            loss, gradients = self._loss_at(t, batches, noise, counts)
            largest = max(largest, loss)
            share = loss / largest
            self.trace.append((t, share))
            if self.config.stop == "before":
                yield done, len(times), share
            if counts and not (self.config.stop == "before" and self.is_below(self.threshold)):
                self._add(gradients)
            if self.config.stop == "after":
                yield done, len(times), share

    def is_below(self, threshold: float) -> bool:
        """Say whether the loss has fallen below this share of the largest."""
        return any(share < threshold for _, share in self.trace)

    def values(self) -> dict[str, torch.Tensor]:
        """Compute |sum of w g|, sum of |w g| or of (w g)^2 of every weight."""
        if self.config.accumulate != "signed":
            return self.sums
        return {name: (self.parameters[name].detach() * total).abs() for name, total in self.sums.items()}

    def _generate(self) -> list[tuple[torch.Tensor, dict[str, Any]]]:
        """Generate pictures, as clean latents (B, C, H, W), each with its encoded prompts without guidance."""
        batches = []
        for first in range(0, len(self.prompts), BATCH):
            prompts = self.prompts[first : first + BATCH]
            noise, generators = self.model.initial_latents(
                range(PICTURES_SEED + first, PICTURES_SEED + first + len(prompts))
            )
            scheduler = make_scheduler(self.config.sampler, self.model.scheduler_config)
            encoded = self.model.encode(prompts, self.config.guidance)
            run = (self.config.steps, noise, encoded, self.config.guidance, generators)
            *_, last = denoise(self.model, scheduler, *run)
            batches.append((last.latents, self.model.encode(prompts, 1.0)))
        return batches

    def _noise(self, clean: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.config.seed)
        return torch.randn(clean.shape, generator=generator, dtype=clean.dtype).to(clean.device)

    def _loss_at(
        self, t: int, batches: Sequence[tuple[torch.Tensor, dict]], noises: Sequence[torch.Tensor], with_gradients: bool
    ) -> tuple[float, list[torch.Tensor | None]]:
        """Compute the squared error of the noise, or of a flow's velocity, at a timestep, summed over a picture, mean
        over pictures; and its gradients where they are needed."""
        total, gradients = 0.0, []
        for (clean, encoded), noise in zip(batches, noises, strict=True):
            x, timestep, target = self._noised(clean, noise, t)
            with torch.set_grad_enabled(with_gradients):
                output = self.model.denoise(x, timestep, encoded, 1.0)
                estimate = self.prediction.to_epsilon(output, x, t)
                loss = (estimate - target).square().sum() / len(self.prompts)
            if not bool(loss.isfinite()):
                raise ValueError(f"the loss at timestep {t} is not finite; this model cannot be expanded")
            total += loss.item()
            if with_gradients:
                own = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
                gradients.append(own)
        return total, [_sum(parts) for parts in zip(*gradients, strict=True)]

    def _noised(self, clean: torch.Tensor, noise: torch.Tensor, t: int) -> tuple[torch.Tensor, ...]:
        """Add noise of the t-th level; returns the input, its timestep and what the network should estimate. A flow's
        levels are (t + 1) / T, and it estimates the velocity from picture to noise (Lipman et al. 2023)."""
        if self.signal is None:
            level = (t + 1) / self.num_timesteps
            return (1 - level) * clean + level * noise, torch.tensor(1000.0 * level), noise - clean
        alpha = float(self.signal[t])
        return alpha * clean + (1 - alpha**2) ** 0.5 * noise, torch.tensor(t), noise

    def _add(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """Add up gradients; a weight that the output does not depend on has none, and no importance."""
        self.used += 1
        for (name, parameter), gradient in zip(self.parameters.items(), gradients, strict=True):
            if gradient is None:
                continue
            if not bool(gradient.isfinite().all()):
                raise ValueError(f"the gradient of {name} is not finite; this model cannot be expanded")
            self.sums[name] += ACCUMULATE[self.config.accumulate](parameter.detach(), gradient)


def _with_gradients(model: Model) -> Model:
    """Give a copy parameters of its own, on the same memory, so that the model's stay frozen."""
    for module in model.denoiser.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(parameter.detach(), requires_grad=True))
    return model


def _sum(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    present = [part for part in parts if part is not None]
    return sum(present[1:], present[0]) if present else None
