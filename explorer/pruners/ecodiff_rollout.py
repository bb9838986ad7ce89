"""The pictures that widths are learned from: what the whole network draws of them, and the chain that draws them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from explorer import trajectory
from explorer.drawing import png
from explorer.mixture import Held
from explorer.pruners.configs import EcodiffConfig
from explorer.structure import Gates, Site

FIRST_SEED = 2**30  # noise of the pictures that are learned from, which judge nobody


class Batch(NamedTuple):
    """Pictures of one step: their numbers, and noise (B, C, H, W) with what is asked for."""

    numbers: tuple[int, ...]
    noise: torch.Tensor
    encoded: Mapping[str, Any]


class Chain:
    """A model whose units are gated, and the full run of the pictures that it is held against."""

    def __init__(self, model: Any, sites: Mapping[str, Site], prompts: Sequence[str], config: EcodiffConfig):
        self.model, self.prompts, self.config = model.twin(), list(prompts), config
        self.model.denoiser.requires_grad_(False)
        self.names, self.sizes = list(sites), [site.size for site in sites.values()]
        self.params = np.repeat([site.params for site in sites.values()], self.sizes)  # (N,) of each unit
        self.picture: bytes | None = None  # of the last run: what its gates drew
        self._full: dict[int, torch.Tensor] = {}

    def by_site(self, flat: Any) -> dict[str, Any]:
        """site -> its part of (..., N)."""
        ends = np.cumsum(self.sizes)
        return {name: flat[..., end - size : end] for name, size, end in zip(self.names, self.sizes, ends, strict=True)}

    def batch(self, step: int) -> Batch:
        """The pictures of a step; after the last one the first comes again."""
        first = step * self.config.batch
        numbers = tuple((first + index) % self.config.pictures for index in range(self.config.batch))
        noise, _ = self.model.noise([FIRST_SEED + self.config.seed + number for number in numbers])
        prompts = [self.prompts[number % len(self.prompts)] for number in numbers]
        return Batch(numbers, noise, self.model.encode(prompts, self.config.guidance))

    def full(self, batch: Batch) -> torch.Tensor:
        """Final latents (B, C, H, W) of the whole network; each picture is drawn once."""
        if any(number not in self._full for number in batch.numbers):
            *_, last = self.calls(self.model, batch)
            self._full |= dict(zip(batch.numbers, last.latents, strict=True))
        return torch.stack([self._full[number] for number in batch.numbers])

    def calls(self, model: Any, batch: Batch) -> Iterator[trajectory.Step]:
        """The full run of `model`, which is this one or stands in for it, call by call."""
        chain = (self.config.steps, batch.noise, batch.encoded, self.config.guidance)
        return trajectory.denoise(model, self._scheduler(), *chain, generators=None)

    def gated(self, gates: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Final latents (B, C, H, W) under gates (N,), or (B, N) for each picture its own; differentiable in them."""
        same = Gates(self.model.denoiser, self.by_site(gates))  # at every call, which holds nothing

        @contextmanager
        def at(_call: int, factors: Any, held: Held) -> Iterator[Held]:
            with same.given(factors):
                yield held

        chain = (self.config.steps, batch.noise, batch.encoded, self.config.guidance)
        ends = trajectory.rollout(self.model, self._scheduler(), *chain, at, same.factors, self.config.memory)
        self.picture = png(self.model.decode(ends.detach()[:1])[0])
        return ends

    def _scheduler(self) -> Any:
        return trajectory.sampler(self.config.sampler, self.model.scheduler_config)
