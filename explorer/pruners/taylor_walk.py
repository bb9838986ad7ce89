"""The walk over timesteps that Diff-Pruning makes: loss, and gradients of every weight, from low noise to high."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from explorer import trajectory
from explorer.prompts import cycled
from explorer.pruners.configs import TaylorConfig
from explorer.supernet import NoiseEstimate

PICTURES_SEED = 2**30 + 2**29  # first noise of the pictures, which judge nobody
BATCH = 16
ADDED = {
    "signed": lambda weight, gradient: gradient,  # times the weight in the end
    "absolute": lambda weight, gradient: (weight * gradient).abs(),
    "squared": lambda weight, gradient: (weight * gradient).square(),
}


class Expansion:
    """One network's first-order expansion. `trace`: (timestep, loss as a share of the largest so far); `used`: of how
    many timesteps gradients were taken."""

    def __init__(self, model: Any, prompts: Sequence[str], config: TaylorConfig, threshold: float | None = None):
        self.config, self.model = config, _with_gradients(model.twin())
        self.threshold = config.threshold if threshold is None else threshold
        self.parameters = dict(self.model.denoiser.named_parameters())
        self.prompts = cycled(prompts, config.pictures)
        self.sums = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        self.trace: list[tuple[int, float]] = []
        self.used = 0
        scheduler = trajectory.sampler(config.sampler, model.scheduler_config)
        self.estimate = NoiseEstimate.of(scheduler)
        if self.estimate.sigma_of_t is None:
            raise ValueError(f"{model.id} follows a flow, and the expansion over timesteps is for noise")
        self.signal = scheduler.alphas_cumprod.double().sqrt()

    def walk(self) -> Iterator[tuple[int, int, float]]:
        """Yields timesteps done, timesteps in all, and the loss at the last one as a share of the largest.

        At that moment the sums are those of a threshold that this loss is the first to fall below.
        """
        times = range(0, len(self.signal), self.config.stride)
        yield 0, len(times), 1.0
        parts = self._pictures()
        noise = [self._noise(part) for part, _ in parts]
        largest = 0.0
        for done, t in enumerate(times, start=1):
            counts = not self.ended(self.threshold)
            loss, gradients = self._at(t, parts, noise, counts)
            largest = max(largest, loss)
            share = loss / largest
            self.trace.append((t, share))
            if self.config.stop == "before":
                yield done, len(times), share
            if counts and not (self.config.stop == "before" and self.ended(self.threshold)):
                self._add(gradients)
            if self.config.stop == "after":
                yield done, len(times), share

    def ended(self, threshold: float) -> bool:
        """Whether the loss has fallen below this share of the largest."""
        return any(share < threshold for _, share in self.trace)

    def values(self) -> dict[str, torch.Tensor]:
        """|sum of w g|, sum of |w g| or of (w g)^2 of every weight."""
        if self.config.accumulate != "signed":
            return self.sums
        return {name: (self.parameters[name].detach() * total).abs() for name, total in self.sums.items()}

    def _pictures(self) -> list[tuple[torch.Tensor, dict[str, Any]]]:
        """What the model draws, as clean latents (B, C, H, W), and what it was asked, without guidance."""
        found = []
        for first in range(0, len(self.prompts), BATCH):
            prompts = self.prompts[first : first + BATCH]
            noise, generators = self.model.noise(range(PICTURES_SEED + first, PICTURES_SEED + first + len(prompts)))
            scheduler = trajectory.sampler(self.config.sampler, self.model.scheduler_config)
            encoded = self.model.encode(prompts, self.config.guidance)
            chain = (self.config.steps, noise, encoded, self.config.guidance, generators)
            *_, last = trajectory.denoise(self.model, scheduler, *chain)
            found.append((last.latents, self.model.encode(prompts, 1.0)))
        return found

    def _noise(self, clean: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.config.seed)
        return torch.randn(clean.shape, generator=generator, dtype=clean.dtype).to(clean.device)

    def _at(
        self, t: int, parts: Sequence[tuple[torch.Tensor, dict]], noises: Sequence[torch.Tensor], back: bool
    ) -> tuple[float, list[torch.Tensor | None]]:
        """Mean squared error of the noise at a timestep, summed over a picture; its gradients where they are wanted."""
        total, gradients = 0.0, []
        alpha = float(self.signal[t])
        for (clean, encoded), noise in zip(parts, noises, strict=True):
            x = alpha * clean + (1 - alpha**2) ** 0.5 * noise
            with torch.set_grad_enabled(back):
                output = self.model.denoise(x, torch.tensor(t), encoded, 1.0)
                found = self.estimate.reusable(output, x, t)
                loss = (found - noise).square().sum() / len(self.prompts)
            if not bool(loss.isfinite()):
                raise ValueError(f"the loss at timestep {t} is not finite; this model cannot be expanded")
            total += loss.item()
            if back:
                own = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
                gradients.append(own)
        return total, [_sum(pieces) for pieces in zip(*gradients, strict=True)]

    def _add(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """A weight that the output does not depend on has no gradient, and no importance."""
        self.used += 1
        for (name, parameter), gradient in zip(self.parameters.items(), gradients, strict=True):
            if gradient is None:
                continue
            if not bool(gradient.isfinite().all()):
                raise ValueError(f"the gradient of {name} is not finite; this model cannot be expanded")
            self.sums[name] += ADDED[self.config.accumulate](parameter.detach(), gradient)


def _with_gradients(model: Any) -> Any:
    """The twin with parameters of its own, on the same memory: the model's stay frozen."""
    for module in model.denoiser.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(parameter.detach(), requires_grad=True))
    return model


def _sum(pieces: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    there = [piece for piece in pieces if piece is not None]
    return sum(there[1:], there[0]) if there else None
