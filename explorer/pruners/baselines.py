"""Schedules that need no learning: uniform, random, DeepCache.

Each is a pruner: a generator of progress that returns an importance (an order for all ratios), or a mask where its
settings name one schedule.
"""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from explorer.graph import BlockGraph
from explorer.masks import Importance, Mask, Progress, PrunerRecord, Result, made_for, refuse_beyond
from explorer.pruners.configs import DeepCacheConfig, RandomConfig, ScheduleConfig, UniformConfig


def uniform(model: Any, prompts: Sequence[str], config: UniformConfig) -> Generator[Progress, None, Result]:
    """Whole calls at even distances. `every=k` computes calls 0, k, 2k ..; a ratio computes as many as it leaves."""
    graph, calls = _setting(model, config)
    yield Progress(0, 1, "spacing calls evenly")
    if config.every is None and config.ratio is None:
        return _order(model, graph, config, "uniform", np.repeat(spread(calls)[:, None], len(graph.units), axis=1))
    keep = np.zeros((calls, len(graph.units)), dtype=bool)
    if config.every is not None:
        keep[:: config.every] = True
        return _mask(model, graph, config, "uniform", keep, asked=None)
    refuse_beyond(1 - 1 / calls, config.ratio)
    count = max(1, round(calls * (1 - config.ratio)))
    keep[np.round(np.arange(count) * calls / count).astype(int)] = True
    return _mask(model, graph, config, "uniform", keep, config.ratio)


def random(model: Any, prompts: Sequence[str], config: RandomConfig) -> Generator[Progress, None, Result]:
    """Units drawn with equal chance, with whatever their loss makes useless."""
    graph, calls = _setting(model, config)
    yield Progress(0, 1, "drawing an order")
    score = np.random.default_rng(config.seed).random((calls, len(graph.units)))
    importance = _order(model, graph, config, "random", score)
    return importance if config.ratio is None else importance.at(config.ratio)


def deepcache(model: Any, prompts: Sequence[str], config: DeepCacheConfig) -> Generator[Progress, None, Result]:
    """A full call every `interval` calls; in between only the last `branch + 1` up layers and what they read."""
    graph, calls = _setting(model, config)
    row = deepcache_row(graph, config.branch)
    yield Progress(0, 1, "choosing full calls")
    if config.interval is None and config.ratio is None:
        removed = np.where(row, calls, spread(calls)[:, None]).astype(float)  # the row's own units go last
        return _order(model, graph, config, "deepcache", removed, last=int((~row).sum()) * (calls - 1))
    if config.interval is not None:
        keep = np.where(np.arange(calls)[:, None] % config.interval == 0, True, row)
        return _mask(model, graph, config, "deepcache", keep, asked=None)
    tables = [np.where(np.arange(calls)[:, None] % interval == 0, True, row) for interval in range(1, calls + 1)]
    saved = np.array([1 - graph.cost(keep).sum() / (graph.macs_per_call * calls) for keep in tables])
    refuse_beyond(saved.max(), config.ratio)
    keep = tables[int(np.abs(saved - config.ratio).argmin())]
    return _mask(model, graph, config, "deepcache", keep, config.ratio, largest=saved.max())


def deepcache_row(graph: BlockGraph, branch: int) -> np.ndarray:
    """Which units run between full calls, bool (U,). Raises ValueError without that many up layers."""
    up = [column for column, name in enumerate(graph.names) if name.startswith("up_blocks.")]
    if len(up) < branch + 2:
        allowed = f"branch may be at most {len(up) - 2} here, got {branch}" if up else "this model has no up blocks"
        raise ValueError(f"deepcache caches the input of an up layer of a U-Net: {allowed}")
    row = np.ones((1, len(graph.units)), dtype=bool)
    row[0, up[-branch - 2]] = False
    return graph.close(row)[0]


def spread(calls: int) -> np.ndarray:
    """int (T,): when each call goes so that the rest stays as even as nesting allows; call 0 goes last.

    Built from the other end: calls are added one by one in the middle of the longest stretch without one.
    """
    added = [0]
    while len(added) < calls:
        known = sorted(added) + [calls]
        left, right = max(zip(known, known[1:], strict=False), key=lambda pair: pair[1] - pair[0])
        added.append((left + right) // 2)
    goes = np.empty(calls, dtype=int)
    goes[added] = np.arange(calls)[::-1]
    return goes


def _setting(model: Any, config: ScheduleConfig) -> tuple[BlockGraph, int]:
    from explorer.trajectory import calls_of  # here, because the table of pruners is read without torch

    calls = calls_of(config.sampler, model.scheduler_config, config.steps)
    return model.graph(config.granularity, config.reuse), calls


def _order(
    model: Any, graph: BlockGraph, config: ScheduleConfig, name: str, score: np.ndarray, last: int | None = None
) -> Importance:
    """An importance over all of the order, or over its first `last` removals."""
    rank, score = graph.removal_order(score), score.astype(np.float32)
    header = made_for(model.record, graph, config, PrunerRecord(name=name, config=config.model_dump()), len(score))
    whole = Importance(header.model_copy(update={"kind": "importance"}), rank, score)
    largest = float(whole.saved[last if last is not None else -1])
    return Importance(whole.header.model_copy(update={"max_ratio": largest}), rank, score)


def _mask(
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
