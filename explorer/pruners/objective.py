"""Trying ways of drawing out on a few pictures: how far they end from the full run, from the same noise."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from explorer import trajectory
from explorer.graph import BlockGraph, Forecast
from explorer.pruners.configs import ScheduleConfig
from explorer.supernet import NoiseEstimate, SuperNet

BATCH = 8


class Trials:
    """The full run of some prompts, and any number of other ways to hold against it.

    Prompt i starts from the noise of seed `seed` + i. Raises ValueError where the full run is not finite.
    """

    def __init__(self, model: Any, prompts: Sequence[str], sampler: str, steps: int, guidance: float, seed: int = 0):
        self.model, self.prompts, self.guidance, self.seed = model.twin(), list(prompts), guidance, seed
        self.sampler, self.steps = sampler, steps
        self.encoded = [self.model.encode(part, guidance) for part in self._parts()]
        self.full = self._ends(sampler, steps)
        if not bool(self.full.isfinite().all()):
            raise ValueError("the full run ends in values that are not finite; lower the guidance")

    def schedule_loss(self, graph: BlockGraph, keep: np.ndarray, forecast: Forecast = Forecast()) -> float:
        """Loss of the full run's sampler under the schedule `keep` (T, U)."""

        def under(scheduler: Any) -> SuperNet:
            return SuperNet(self.model.denoiser, graph, keep, NoiseEstimate.of(scheduler), forecast, scheduler)

        return self._loss(self._ends(self.sampler, self.steps, under=under))

    def sampler_loss(self, sampler: str, steps: int, solver: Mapping[str, Any] = MappingProxyType({})) -> float:
        """Loss of another sampler, or of another number of steps."""
        return self._loss(self._ends(sampler, steps, solver))

    def _loss(self, ends: torch.Tensor) -> float:
        """Mean squared distance to the full run's final latents; infinite where a run went astray."""
        distance = (ends - self.full).square().mean().item()
        return distance if np.isfinite(distance) else float("inf")

    def _parts(self) -> list[list[str]]:
        return [self.prompts[start : start + BATCH] for start in range(0, len(self.prompts), BATCH)]

    def _ends(
        self,
        sampler: str,
        steps: int,
        solver: Mapping[str, Any] = MappingProxyType({}),
        under: Any = lambda scheduler: nullcontext(),
    ) -> torch.Tensor:
        """Final latents (N, C, H, W)."""
        ends = []
        for number, (part, encoded) in enumerate(zip(self._parts(), self.encoded, strict=True)):
            first = self.seed + number * BATCH
            noise, generators = self.model.noise(range(first, first + len(part)))
            scheduler = trajectory.sampler(sampler, self.model.scheduler_config, solver)
            with under(scheduler):
                *_, last = trajectory.denoise(self.model, scheduler, steps, noise, encoded, self.guidance, generators)
            ends.append(last.latents)
        return torch.cat(ends)


def schedule_losses(
    model: Any, prompts: Sequence[str], config: ScheduleConfig, seed: int
) -> Callable[[np.ndarray], float]:
    """The loss of one schedule (T, U) after another, of the trajectory and the units in `config`; for a team."""
    trials = Trials(model, prompts, config.sampler, config.steps, config.guidance, seed)
    return partial(trials.schedule_loss, model.graph(config.granularity, config.reuse), forecast=Forecast.of(config))
