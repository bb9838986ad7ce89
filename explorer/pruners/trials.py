"""Trying a schedule out: how far its pictures end from those of the full run, from the same noise."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from explorer import trajectory
from explorer.graph import BlockGraph
from explorer.pruners.configs import ScheduleConfig
from explorer.supernet import NoiseEstimate, SuperNet

BATCH = 8


class Trials:
    """The full run of some prompts, and any number of pruned ones to hold against it.

    Prompt i starts from the noise of seed `config.seed` + i. Raises ValueError where the full run is not finite.
    """

    def __init__(self, model: Any, graph: BlockGraph, config: ScheduleConfig, prompts: Sequence[str]):
        self.model, self.graph, self.config, self.prompts = model.twin(), graph, config, list(prompts)
        self.encoded = [self.model.encode(part, config.guidance) for part in self._parts()]
        self.full = self.latents(None)
        if not bool(self.full.isfinite().all()):
            raise ValueError("the full run ends in values that are not finite; lower the guidance")

    def _parts(self) -> list[list[str]]:
        return [self.prompts[start : start + BATCH] for start in range(0, len(self.prompts), BATCH)]

    def latents(self, keep: np.ndarray | None) -> torch.Tensor:
        """Final latents (N, C, H, W) under the schedule `keep` (T, U), or of the full run."""
        ends, config = [], self.config
        for number, (part, encoded) in enumerate(zip(self._parts(), self.encoded, strict=True)):
            first = config.seed + number * BATCH
            noise, generators = self.model.noise(range(first, first + len(part)))
            scheduler = trajectory.sampler(config.sampler, self.model.scheduler_config)
            with nullcontext() if keep is None else self._under(keep, scheduler):
                *_, last = trajectory.denoise(
                    self.model, scheduler, config.steps, noise, encoded, config.guidance, generators
                )
            ends.append(last.latents)
        return torch.cat(ends)

    def _under(self, keep: np.ndarray, scheduler: Any) -> SuperNet:
        estimate = NoiseEstimate.of(scheduler)
        return SuperNet(self.model.denoiser, self.graph, keep, estimate, self.config.order, scheduler)

    def loss(self, keep: np.ndarray) -> float:
        """Mean squared distance to the full run's final latents; infinite where the run went astray."""
        distance = (self.latents(keep) - self.full).square().mean().item()
        return distance if np.isfinite(distance) else float("inf")
