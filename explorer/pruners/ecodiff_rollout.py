"""The pictures that widths are learned from: their full run, and the same run with gated elements."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from explorer.execution.soft_supernet import CacheState
from explorer.execution.width_gates import PrunableDim, WidthGates
from explorer.models.model import Model
from explorer.pruners.width_configs import EcodiffConfig
from explorer.sampling.generate import encode_png
from explorer.sampling.rollout import Denoises, Step, denoise, rollout
from explorer.sampling.schedulers import make_scheduler

FIRST_SEED = 2**30  # noise of the pictures that are learned from, on which no method is evaluated


class Batch(NamedTuple):
    """Pictures of one step: their indices, noise (B, C, H, W), and their encoded prompts."""

    indices: tuple[int, ...]
    noise: torch.Tensor
    encoded: dict[str, Any]


class RolloutSet:
    """A model whose elements are gated, and the full run of the pictures that it is compared with."""

    def __init__(self, model: Model, dims: Mapping[str, PrunableDim], prompts: Sequence[str], config: EcodiffConfig):
        self.model, self.dims, self.prompts, self.config = model.with_shared_weights(), dims, list(prompts), config
        self.model.denoiser.requires_grad_(False)
        self.sizes = [dim.size for dim in dims.values()]
        self.params = np.repeat([dim.params for dim in dims.values()], self.sizes)  # (N,) of each element
        self.picture: bytes | None = None  # of the last run: what its gates generate
        self._full: dict[int, torch.Tensor] = {}

    def by_dim(self, flat: Any) -> dict[str, Any]:
        """Split (..., N) into dimension -> (..., size)."""
        ends = np.cumsum(self.sizes)
        parts = zip(self.dims, self.sizes, ends, strict=True)
        return {name: flat[..., end - size : end] for name, size, end in parts}

    def batch(self, step: int) -> Batch:
        """Select the pictures of a step; the first follows the last."""
        first = step * self.config.batch
        indices = tuple((first + offset) % self.config.num_images for offset in range(self.config.batch))
        noise, _ = self.model.initial_latents([FIRST_SEED + self.config.seed + index for index in indices])
        prompts = [self.prompts[index % len(self.prompts)] for index in indices]
        return Batch(indices, noise, self.model.encode(prompts, self.config.guidance))

    def full(self, batch: Batch) -> torch.Tensor:
        """Return the final latents (B, C, H, W) of the whole network; each picture is generated once."""
        if any(index not in self._full for index in batch.indices):
            *_, last = self.calls(self.model, batch)
            self._full |= dict(zip(batch.indices, last.latents, strict=True))
        return torch.stack([self._full[index] for index in batch.indices])

    def calls(self, model: Denoises, batch: Batch) -> Iterator[Step]:
        """Make the full run of `model`, which is this one or stands in for it, call by call."""
        run = (self.config.steps, batch.noise, batch.encoded, self.config.guidance)
        return denoise(model, self._scheduler(), *run, generators=None)

    def gates(self, flat: torch.Tensor) -> WidthGates:
        """Make the gates of (N,), or of (B, N) for each picture its own; differentiable in them."""
        return WidthGates(self.model.denoiser, self.dims, self.by_dim(flat))

    def run_gated(self, flat: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Generate under gates (N,), or (B, N): final latents (B, C, H, W), differentiable in the gates."""
        gates = self.gates(flat)  # the same at every call, so that nothing is cached

        @contextmanager
        def at(_call: int, factors: Any, cached: CacheState) -> Iterator[CacheState]:
            with gates.with_factors(factors):
                yield cached

        run = (self.config.steps, batch.noise, batch.encoded, self.config.guidance)
        ends = rollout(self.model, self._scheduler(), *run, at, gates.factors, self.config.checkpointing)
        self.picture = encode_png(self.model.decode(ends.detach()[:1])[0])
        return ends

    def _scheduler(self) -> Any:
        return make_scheduler(self.config.sampler, self.model.scheduler_config)
