"""Coefficients by which skipped units combine their last values, fitted on the pruned run by least squares.

A full run and a pruned one go on side by side, call by call, from the same noise. A skipped unit is asked for what it
hands out in the full run; a skipped call for the estimate that leads to the full run's next latents, so that it makes
up for what went wrong before. What is fitted at a call is used at once, so that later calls see its errors. (L2P, arXiv
2604.26365, fits on the full run alone.)
"""

import copy
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from explorer.execution.feature_cache import FeatureCache, FeatureCaches
from explorer.execution.prediction import Prediction
from explorer.execution.supernet import SuperNet
from explorer.masks.block_graph import Extrapolation
from explorer.masks.learned_coefficients import combined
from explorer.masks.schedule import Schedule, ScheduleImportance
from explorer.models.model import Model
from explorer.models.pipeline_adapter import split_guided
from explorer.models.prompts import repeat_to, split_names
from explorer.progress import Progress
from explorer.pruners.schedule_configs import ExtrapolationConfig
from explorer.sampling.rollout import Step, denoise
from explorer.sampling.schedulers import STOCHASTIC, make_scheduler

TINY = 1e-12
CHANGE = 0.1  # of an estimate, to see what the sampler makes of it


def learn_extrapolation(
    model: Model, result: Schedule | ScheduleImportance, prompts: Sequence[str], config: ExtrapolationConfig
) -> Generator[Progress, None, Any]:
    """Fit the coefficients of a schedule, or of an importance at ratios `config.distance` apart, on a few pictures
    (default: of the model's search names), and return it with them.

    Raises ValueError for a schedule of another model, for one that reuses residuals, for a sampler that draws noise,
    and where the pruned run is not finite.
    """
    if result.header.reuse == "residual":
        raise ValueError("coefficients are learned for units that hand back their last outputs, not their last changes")
    prompts = repeat_to(list(prompts) or split_names(model, "search"), config.num_images)
    if isinstance(result, Schedule):
        pair = _Pair(model, result, prompts, config)
        for call in pair.run():
            yield Progress(call + 1, result.header.calls, "fitting coefficients")
        return result.with_coefficients(pair.listed())
    ratios = [round(one * config.distance, 4) for one in range(1, int(result.max_ratio / config.distance + 1e-9) + 1)]
    learned = {}
    for number, ratio in enumerate(ratios):
        yield Progress(number, len(ratios), f"fitting coefficients at {ratio:.0%}")
        pair = _Pair(model, result.at(ratio), prompts, config)
        for _ in pair.run():
            pass
        learned[ratio] = pair.listed()
    return result.with_coefficients(learned)


class _Pair:
    """The full and the pruned run of the same pictures, and the coefficients (T, U + 1, m + 1) fitted so far."""

    def __init__(self, model: Model, schedule: Schedule, prompts: Sequence[str], config: ExtrapolationConfig):
        header = schedule.header
        self.schedule, self.config, self.guidance = schedule, config, header.guidance
        self.full, self.pruned = model.with_shared_weights(), model.with_shared_weights()
        self.scheduler = make_scheduler(header.sampler, model.scheduler_config)
        if isinstance(self.scheduler, STOCHASTIC):
            raise ValueError(f"{header.sampler} draws noise at each step; choose a deterministic sampler to learn")
        self.prediction = Prediction.of(self.scheduler)
        self.graph = model.graph(header.granularity, header.reuse)
        header.check_compatible(model.id, model.record.denoiser, header.calls, self.graph.units)
        self.coefficients = np.zeros((header.calls, len(self.graph.units) + 1, config.values + 1))
        self.targets: dict[int, Any] = {}  # what units hand out at the full run's call
        self.following: Any = None  # latents after the full run's call
        self.latents: Any = None  # before the pruned run's call
        self.call, self.num_images = -1, len(prompts)
        self.conditioning = model.encode(prompts, header.guidance)
        self.noise, _ = model.initial_latents(range(config.seed, config.seed + len(prompts)))

    def run(self) -> Iterator[int]:
        """Run both side by side; yields each call."""
        header, keep = self.schedule.header, self.schedule.keep
        full_scheduler = make_scheduler(header.sampler, self.full.scheduler_config)
        net = _FittingNet(self, self.pruned.denoiser, self.graph, keep, self.prediction, scheduler=self.scheduler)
        run = (header.steps, self.noise, self.conditioning, self.guidance, None)
        with self._recorded(), net:
            pruned = denoise(self.pruned, self.scheduler, *run)
            for step in denoise(self.full, full_scheduler, *run):
                self.call, self.following = step.call, step.latents
                self._advance(pruned)
                self.targets.clear()
                yield step.call

    def _advance(self, run: Iterator[Step]) -> None:
        self.latents = next(run).latents
        if not bool(self.latents.isfinite().all()):
            raise ValueError("the pruned run ends in values that are not finite; lower the ratio or the order")

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        """Record what the full run's units hand out at calls at which the pruned run skips them."""
        skipped = combined(self.graph, self.schedule.keep)[:, :-1]
        with ExitStack() as hooks:
            for column in np.flatnonzero(skipped.any(axis=0)):
                module = self.full.denoiser.get_submodule(self.graph.modules[column][-1])
                record = partial(self._record, int(column), skipped[:, column].tolist())
                hooks.enter_context(_hooked(module, record))
            yield

    def _record(self, column: int, skipped: list[bool], output: Any) -> None:
        if skipped[self.call + 1]:
            self.targets[column] = output

    def listed(self) -> np.ndarray:
        """List the coefficients that the schedule uses, (N, m + 1)."""
        return self.coefficients[combined(self.graph, self.schedule.keep)]

    # -- fitting

    def fit_unit(self, column: int, cache: FeatureCache) -> np.ndarray:
        """Fit a unit's coefficients (m + 1,) to what it hands out in the full run."""
        weights, values = self._polynomial(cache), torch.stack([_flat(value) for _, value in cache.values])
        places = range(len(values))[::-1]
        missed = _flat(self.targets[column]) - torch.from_numpy(weights[places]).to(values) @ values
        weights[places] += self._solve(values, missed)
        return weights

    def fit_call(self, cache: FeatureCache, sample: torch.Tensor) -> np.ndarray:
        """Fit the coefficients (m + 1,) of a skipped call so that the next latents are the full run's.

        The sampler's step is taken as linear around the polynomial's estimate, which it is where it clips nothing.
        """
        weights, sample = self._polynomial(cache), sample[: self.num_images]
        values = [self._guided(tree_leaves(value)[0])[:, : sample.shape[1]] for _, value in cache.values]
        features = torch.stack([*values, sample.double()])
        places = [*range(len(values))[::-1], -1]
        estimate = torch.tensordot(torch.from_numpy(weights[places]).to(features), features, dims=1)
        next_latents, changed = (self._step(estimate + change, sample) for change in (0.0, CHANGE))
        adapter = self.full.adapter
        effect = adapter.pack((changed - next_latents) / CHANGE).flatten()
        missed = adapter.pack(self.following.double() - next_latents).flatten()
        if float(effect.abs().max()) > TINY:  # else nothing that is handed out here changes the picture
            weights[places] += self._solve(features.flatten(1) * effect, missed)
        return weights

    def _step(self, value: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """Step from the latents of now with this estimate; the pruned run's sampler stays as it is."""
        timestep, scheduler = self.scheduler.timesteps[self.call], copy.deepcopy(self.scheduler)
        output = self.prediction.from_epsilon(value.to(self.latents.dtype), sample, timestep)
        output = self.full.adapter.unpack(output, self.latents.shape)
        return scheduler.step(output, timestep, self.latents, return_dict=False)[0].double()

    def _guided(self, value: torch.Tensor) -> torch.Tensor:
        if len(value) == self.num_images:
            return value.double()
        with_prompt, without = (half.double() for half in split_guided(self.pruned.denoiser, value))
        return without + self.guidance * (with_prompt - without)

    def _polynomial(self, cache: FeatureCache) -> np.ndarray:
        """Compute the coefficients (m + 1,) of the schedule's own polynomial."""
        how, weights = Extrapolation.of(self.schedule.header), np.zeros(self.config.values + 1)
        calls = [call for call, _ in cache.values][-(how.order + 1) :]
        weights[: len(calls)] = how.weights(calls, self.call)[::-1]
        return weights

    def _solve(self, features: torch.Tensor, missed: torch.Tensor) -> np.ndarray:
        """Find what has to be added to the coefficients of features (n, N) to make up for what is missed, (N,)."""
        products, wanted = (features @ features.T).cpu(), (features @ missed).cpu()
        ridge = self.config.ridge * products.diagonal().mean() * torch.eye(len(features))
        return torch.linalg.lstsq(products + ridge, wanted[:, None]).solution[:, 0].numpy()


class _FittingNet(SuperNet):
    """A SuperNet that fits what a cache hands back before it does."""

    def __init__(self, pair: _Pair, *arguments: Any, **options: Any):
        self.pair = pair
        super().__init__(*arguments, **options)

    def _new_caches(self) -> FeatureCaches:
        return _FittingCaches(self.pair)


class _FittingCaches(FeatureCaches):
    def __init__(self, pair: _Pair):
        super().__init__(Extrapolation(), pair.coefficients)
        self.pair = pair

    def __missing__(self, key: tuple[int, str]) -> FeatureCache:
        cache = self[key] = _FittingCache(self.pair, key[0])
        return cache


class _FittingCache(FeatureCache):
    def __init__(self, pair: _Pair, column: int):
        super().__init__(Extrapolation(), pair.coefficients[:, column])
        self.pair, self.column = pair, column

    def at(self, call: int, sample: torch.Tensor | None = None) -> Any:
        found = self.pair.fit_unit(self.column, self) if sample is None else self.pair.fit_call(self, sample)
        self.pair.coefficients[call, self.column] = found
        return super().at(call, sample)


@contextmanager
def _hooked(module: torch.nn.Module, record: Any) -> Iterator[None]:
    hook = module.register_forward_hook(lambda _module, _inputs, output: record(output))
    try:
        yield
    finally:
        hook.remove()


def _flat(value: Any) -> torch.Tensor:
    """Join the tensors of a tree in one vector."""
    return torch.cat([leaf.flatten().double() for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)])
