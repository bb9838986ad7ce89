"""The objective of searches: how far a way of generating ends from the full run, on a few pictures, from the same
noise."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch

from explorer.execution.prediction import Prediction
from explorer.execution.supernet import SuperNet
from explorer.masks.block_graph import BlockGraph, Extrapolation
from explorer.masks.schedule import Schedule
from explorer.models.model import Model
from explorer.pruners.schedule_configs import ScheduleConfig
from explorer.sampling.rollout import denoise
from explorer.sampling.schedulers import NO_SETTINGS, make_scheduler

BATCH = 8
TINY = 1e-12


class Objective:
    """The full run of some prompts, and the loss of other ways of generating the same pictures.

    Prompt i starts from the noise of seed `seed` + i. Raises ValueError where the full run is not finite.
    """

    def __init__(self, model: Model, prompts: Sequence[str], sampler: str, steps: int, guidance: float, seed: int = 0):
        self.model, self.prompts, self.guidance, self.seed = model.with_shared_weights(), list(prompts), guidance, seed
        self.sampler, self.steps = sampler, steps
        self.encoded = [self.model.encode(batch, guidance) for batch in self._batches()]
        self.full = self._final_latents(sampler, steps)
        if not bool(self.full.isfinite().all()):
            raise ValueError("the full run ends in values that are not finite; lower the guidance")

    def schedule_loss(
        self, graph: BlockGraph, keep: np.ndarray, extrapolation: Extrapolation = Extrapolation()
    ) -> float:
        """Compute the loss of the full run's sampler under the schedule `keep`, bool (T, U)."""
        return self._loss(self._latents_under(graph, keep, extrapolation))

    def fidelity(self, mask: Schedule, count: int | None = None) -> float:
        """Compute how near the first `count` pictures come to the full run, in dB: the mean over them of the squared
        distances' logarithms, so that no single bad one decides."""
        graph = self.model.graph(mask.header.granularity, mask.header.reuse)
        found = self._latents_under(graph, mask.keep, Extrapolation.of(mask.header), mask.coefficient_table(), count)
        distances = (found - self.full[: len(found)]).double().square().mean(dim=(1, 2, 3))
        return float(-10 * distances.clamp(min=TINY).nan_to_num(1 / TINY).log10().mean())

    def _latents_under(
        self,
        graph: BlockGraph,
        keep: np.ndarray,
        extrapolation: Extrapolation,
        coefficients: np.ndarray | None = None,
        count: int | None = None,
    ) -> torch.Tensor:
        def under(scheduler: Any) -> SuperNet:
            arguments = (self.model.denoiser, graph, keep, Prediction.of(scheduler), extrapolation, scheduler)
            return SuperNet(*arguments, coefficients=coefficients)

        return self._final_latents(self.sampler, self.steps, under=under, count=count)

    def sampler_loss(self, sampler: str, steps: int, solver: Mapping[str, Any] = NO_SETTINGS) -> float:
        """Compute the loss of another sampler, or of another number of steps."""
        return self._loss(self._final_latents(sampler, steps, solver))

    def _loss(self, latents: torch.Tensor) -> float:
        """Compute the mean squared distance to the full run's final latents; infinite where it is not finite."""
        distance = (latents - self.full).square().mean().item()
        return distance if np.isfinite(distance) else float("inf")

    def _batches(self) -> list[list[str]]:
        return [self.prompts[start : start + BATCH] for start in range(0, len(self.prompts), BATCH)]

    def _final_latents(
        self,
        sampler: str,
        steps: int,
        solver: Mapping[str, Any] = NO_SETTINGS,
        under: Callable[[Any], Any] = lambda scheduler: nullcontext(),
        count: int | None = None,
    ) -> torch.Tensor:
        """Generate the pictures, or the batches with the first `count` of them: final latents (N, C, H, W)."""
        latents, num_batches = [], None if count is None else -(-count // BATCH)
        batches = list(zip(self._batches(), self.encoded, strict=True))[:num_batches]
        for number, (batch, encoded) in enumerate(batches):
            first = self.seed + number * BATCH
            noise, generators = self.model.initial_latents(range(first, first + len(batch)))
            scheduler = make_scheduler(sampler, self.model.scheduler_config, solver)
            with under(scheduler):
                *_, last = denoise(self.model, scheduler, steps, noise, encoded, self.guidance, generators)
            latents.append(last.latents)
        return torch.cat(latents)


def schedule_objective(
    model: Model, prompts: Sequence[str], config: ScheduleConfig, seed: int
) -> Callable[[np.ndarray], float]:
    """Make a function that computes the loss of one schedule, bool (T, U), of the trajectory and units in `config`."""
    objective = Objective(model, prompts, config.sampler, config.steps, config.guidance, seed)
    graph = model.graph(config.granularity, config.reuse)
    return partial(objective.schedule_loss, graph, extrapolation=Extrapolation.of(config))
