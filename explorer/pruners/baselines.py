"""Schedules that need no learning: uniform, random, DeepCache, and similarity, which only looks.

Each is a pruner: a generator of progress that returns an importance (an order for all ratios), or a mask where its
settings name one schedule.
"""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from explorer.files import PrunerRecord, refuse_beyond
from explorer.graph import BlockGraph
from explorer.masks import Importance, Mask, Result, made_for
from explorer.prompts import chosen, cycled
from explorer.pruners.configs import DeepCacheConfig, RandomConfig, ScheduleConfig, SimilarityConfig, UniformConfig
from explorer.pruners.spacing import nested, positions, spaced, spread, staleness
from explorer.work import Progress


def uniform(model: Any, prompts: Sequence[str], config: UniformConfig) -> Generator[Progress, None, Result]:
    """Whole calls. `every=k` computes calls 0, k, 2k ..; a ratio computes as many as it leaves, spaced as asked."""
    graph, calls = setting(model, config)
    yield Progress(0, 1, "spacing calls")
    if config.every is None and config.ratio is None:
        goes = nested(calls, config.spacing)
        return order_of(model, graph, config, "uniform", np.repeat(goes[:, None], len(graph.units), axis=1))
    keep = np.zeros((calls, len(graph.units)), dtype=bool)
    if config.every is not None:
        keep[:: config.every] = True
        return mask_of(model, graph, config, "uniform", keep, asked=None)
    refuse_beyond(1 - 1 / calls, config.ratio)
    keep[spaced(calls, max(1, round(calls * (1 - config.ratio))), config.spacing)] = True
    return mask_of(model, graph, config, "uniform", keep, config.ratio)


def random(model: Any, prompts: Sequence[str], config: RandomConfig) -> Generator[Progress, None, Result]:
    """Units drawn with equal chance, with whatever their loss makes useless."""
    graph, calls = setting(model, config)
    yield Progress(0, 1, "drawing an order")
    score = np.random.default_rng(config.seed).random((calls, len(graph.units)))
    importance = order_of(model, graph, config, "random", score)
    return importance if config.ratio is None else importance.at(config.ratio)


def deepcache(model: Any, prompts: Sequence[str], config: DeepCacheConfig) -> Generator[Progress, None, Result]:
    """A full call every `interval` calls; in between only the last `branch + 1` up layers and what they read."""
    graph, calls = setting(model, config)
    row = deepcache_row(graph, config.branch)
    yield Progress(0, 1, "choosing full calls")
    if config.interval is None and config.ratio is None:
        removed = np.where(row, calls, spread(positions(calls, "even"))[:, None]).astype(
            float
        )  # the row's own units go last
        return order_of(model, graph, config, "deepcache", removed, last=int((~row).sum()) * (calls - 1))
    if config.interval is not None:
        keep = np.where(np.arange(calls)[:, None] % config.interval == 0, True, row)
        return mask_of(model, graph, config, "deepcache", keep, asked=None)
    tables = [np.where(np.arange(calls)[:, None] % interval == 0, True, row) for interval in range(1, calls + 1)]
    saved = np.array([1 - graph.cost(keep).sum() / (graph.macs_per_call * calls) for keep in tables])
    refuse_beyond(saved.max(), config.ratio)
    keep = tables[int(np.abs(saved - config.ratio).argmin())]
    return mask_of(model, graph, config, "deepcache", keep, config.ratio, largest=saved.max())


def deepcache_row(graph: BlockGraph, branch: int) -> np.ndarray:
    """Which units run between full calls, bool (U,). Raises ValueError without that many up layers."""
    up = _up_layers(graph)
    if len(up) < branch + 2:
        allowed = f"branch may be at most {deepest(graph)} here, got {branch}" if up else "this model has no up blocks"
        raise ValueError(f"deepcache caches the input of an up layer of a U-Net: {allowed}")
    row = np.ones((1, len(graph.units)), dtype=bool)
    row[0, up[-branch - 2]] = False
    return graph.close(row)[0]


def deepest(graph: BlockGraph) -> int:
    """DeepCache's last branch; negative for a model without up blocks."""
    return len(_up_layers(graph)) - 2


def _up_layers(graph: BlockGraph) -> list[int]:
    return [column for column, name in enumerate(graph.names) if name.startswith("up_blocks.")]


def similarity(model: Any, prompts: Sequence[str], config: SimilarityConfig) -> Generator[Progress, None, Result]:
    """Each unit rests where its output changes least between calls; how far a value may go stale is shared by all.

    Along each unit's accumulated relative change, calls are added where they halve the longest stretch without one; the
    stretch is the call's score, so that one order over all units compares like with like.
    """
    from explorer import similarity as features  # here, because the table of pruners is read without torch

    graph, calls = setting(model, config)
    wanted = cycled(prompts or chosen(model, "search"), config.pictures)
    measured = yield from features.measure(
        model, wanted, config.seed, config.sampler, config.steps, config.guidance, config.granularity
    )
    score = np.stack([staleness(np.cumsum(change, dtype=float)) for change in measured.change], axis=1)
    importance = order_of(model, graph, config, "similarity", score)
    return importance if config.ratio is None else importance.at(config.ratio)


def setting(model: Any, config: ScheduleConfig) -> tuple[BlockGraph, int]:
    from explorer.trajectory import calls_of  # here, because the table of pruners is read without torch

    calls = calls_of(config.sampler, model.scheduler_config, config.steps)
    return model.graph(config.granularity, config.reuse), calls


def order_of(
    model: Any, graph: BlockGraph, config: ScheduleConfig, name: str, score: np.ndarray, last: int | None = None
) -> Importance:
    """An importance over all of the order, or over its first `last` removals."""
    rank, score = graph.removal_order(score), score.astype(np.float32)
    header = made_for(model.record, graph, config, PrunerRecord(name=name, config=config.model_dump()), len(score))
    whole = Importance(header.model_copy(update={"kind": "importance"}), rank, score)
    largest = float(whole.saved[last if last is not None else -1])
    return Importance(whole.header.model_copy(update={"max_ratio": largest}), rank, score)


def mask_of(
    model: Any,
    graph: BlockGraph,
    config: ScheduleConfig,
    name: str,
    keep: np.ndarray,
    asked: float | None,
    largest: float | None = None,
) -> Mask:
    """One schedule; where a ratio was asked for, `largest` is the most that the method could have removed."""
    header = made_for(model.record, graph, config, PrunerRecord(name=name, config=config.model_dump()), len(keep))
    if largest is not None:
        header = header.model_copy(update={"max_ratio": float(largest)})
    return Mask(header, keep).reached(asked)
