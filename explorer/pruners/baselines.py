"""Schedules that need no learning: uniform, random, DeepCache, and similarity, which only measures.

Each is a pruner: a generator of progress that returns an importance (an order for all ratios), or a schedule where its
settings name one.
"""

from collections.abc import Generator, Sequence

import numpy as np

from explorer.masks.block_graph import BlockGraph
from explorer.masks.file_format import check_ratio
from explorer.masks.result import PruningResult
from explorer.models.model import Model
from explorer.models.prompts import repeat_to, split_names
from explorer.progress import Progress
from explorer.pruners.schedule_configs import DeepCacheConfig, RandomConfig, SimilarityConfig, UniformConfig
from explorer.pruners.schedule_results import graph_and_calls, make_importance, make_schedule
from explorer.pruners.spacing import halving_order, nested_order, positions, spaced_calls, staleness


def uniform(model: Model, prompts: Sequence[str], config: UniformConfig) -> Generator[Progress, None, PruningResult]:
    """Compute whole calls: with `interval` k calls 0, k, 2k ..; with a ratio as many as it leaves."""
    graph, calls = graph_and_calls(model, config)
    yield Progress(0, 1, "spacing calls")
    keep = np.zeros((calls, len(graph.units)), dtype=bool)
    if config.interval is not None:
        keep[:: config.interval] = True
        return make_schedule(model, graph, config, "uniform", keep, asked=None)
    if config.ratio is None:
        order = nested_order(calls, config.spacing)
        return make_importance(model, graph, config, "uniform", np.repeat(order[:, None], len(graph.units), axis=1))
    check_ratio(1 - 1 / calls, config.ratio)
    keep[spaced_calls(calls, max(1, round(calls * (1 - config.ratio))), config.spacing)] = True
    return make_schedule(model, graph, config, "uniform", keep, config.ratio)


def random(model: Model, prompts: Sequence[str], config: RandomConfig) -> Generator[Progress, None, PruningResult]:
    """Remove random units, with whatever is not needed without them."""
    graph, calls = graph_and_calls(model, config)
    yield Progress(0, 1, "drawing an order")
    score = np.random.default_rng(config.seed).random((calls, len(graph.units)))
    importance = make_importance(model, graph, config, "random", score)
    return importance if config.ratio is None else importance.at(config.ratio)


def deepcache(
    model: Model, prompts: Sequence[str], config: DeepCacheConfig
) -> Generator[Progress, None, PruningResult]:
    """Compute a full call every `interval` calls; in between only the last `branch + 1` up layers and what they
    read."""
    graph, calls = graph_and_calls(model, config)
    row = deepcache_row(graph, config.branch)
    yield Progress(0, 1, "choosing full calls")
    if config.interval is not None:
        keep = np.where(np.arange(calls)[:, None] % config.interval == 0, True, row)
        return make_schedule(model, graph, config, "deepcache", keep, asked=None)
    if config.ratio is None:
        # the row's own units are removed last
        score = np.where(row, calls, halving_order(positions(calls, "even"))[:, None]).astype(float)
        num_removals = int((~row).sum()) * (calls - 1)
        return make_importance(model, graph, config, "deepcache", score, num_removals)
    tables = [np.where(np.arange(calls)[:, None] % interval == 0, True, row) for interval in range(1, calls + 1)]
    saved = np.array([1 - graph.cost(keep).sum() / (graph.macs_per_call * calls) for keep in tables])
    check_ratio(saved.max(), config.ratio)
    keep = tables[int(np.abs(saved - config.ratio).argmin())]
    return make_schedule(model, graph, config, "deepcache", keep, config.ratio, max_ratio=saved.max())


def deepcache_row(graph: BlockGraph, branch: int) -> np.ndarray:
    """Select the units that run between full calls, bool (U,). Raises ValueError without that many up layers."""
    up = _up_layers(graph)
    if len(up) < branch + 2:
        allowed = (
            f"branch may be at most {max_branch(graph)} here, got {branch}" if up else "this model has no up blocks"
        )
        raise ValueError(f"deepcache caches the input of an up layer of a U-Net: {allowed}")
    row = np.ones((1, len(graph.units)), dtype=bool)
    row[0, up[-branch - 2]] = False
    return graph.close(row)[0]


def max_branch(graph: BlockGraph) -> int:
    """Return the number of DeepCache's last branch; negative for a model without up blocks."""
    return len(_up_layers(graph)) - 2


def branch_of_package(graph: BlockGraph, number: int) -> int:
    """Translate `cache_branch_id` of DeepCache's package, which counts three layers to an up block and no upsampler.

    Raises ValueError without so many.
    """
    from_end, layers = divmod(number, 3)  # in their code, whatever a block has
    blocks: dict[str, int] = {}  # its layers, the last block first
    for column in reversed(_up_layers(graph)):
        path = graph.names[column].split(".")
        blocks[path[1]] = blocks.get(path[1], 0) + (path[2] == "layers")
    if not 0 <= from_end < len(blocks):
        raise ValueError(f"cache_branch_id {number} needs {from_end + 1} up blocks, and this model has {len(blocks)}")
    whole = sum(list(blocks.values())[:from_end]) + from_end  # with the upsampler of each block before the last
    return whole + min(layers + 1, list(blocks.values())[from_end]) - 1


def _up_layers(graph: BlockGraph) -> list[int]:
    return [column for column, name in enumerate(graph.names) if name.startswith("up_blocks.")]


def similarity(
    model: Model, prompts: Sequence[str], config: SimilarityConfig
) -> Generator[Progress, None, PruningResult]:
    """Skip each unit where its output changes least between calls; how stale a value may become is the same for all.

    Along each unit's accumulated relative change, calls are added where they halve the longest stretch without one; the
    stretch is the call's score, so that one order over all units compares like with like.
    """
    from explorer.measures.feature_similarity import measure  # here, because the table of methods is read without torch

    graph, _ = graph_and_calls(model, config)
    prompts = repeat_to(prompts or split_names(model, "search"), config.num_images)
    measured = yield from measure(
        model, prompts, config.seed, config.sampler, config.steps, config.guidance, config.granularity
    )
    score = np.stack([staleness(np.cumsum(change, dtype=float)) for change in measured.change], axis=1)
    importance = make_importance(model, graph, config, "similarity", score)
    return importance if config.ratio is None else importance.at(config.ratio)
