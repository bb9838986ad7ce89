"""From a schedule or a removal order to the result that a method returns. Loads no torch before a function needs it."""

import numpy as np

from explorer.masks.block_graph import BlockGraph
from explorer.masks.file_format import PrunerRecord
from explorer.masks.schedule import Schedule, ScheduleImportance, new_header
from explorer.models.model import Model
from explorer.pruners.schedule_configs import ScheduleConfig


def graph_and_calls(model: Model, config: ScheduleConfig) -> tuple[BlockGraph, int]:
    """Build the graph of the units that a method prunes, and count the calls of its trajectory."""
    from explorer.sampling.schedulers import (
        num_function_evals,  # here, because the table of methods is read without torch
    )

    calls = num_function_evals(config.sampler, model.scheduler_config, config.steps)
    return model.graph(config.granularity, config.reuse), calls


def make_importance(
    model: Model,
    graph: BlockGraph,
    config: ScheduleConfig,
    method: str,
    score: np.ndarray,
    num_removals: int | None = None,
) -> ScheduleImportance:
    """Make the importance of scores (T, U), over the whole removal order or over its first `num_removals`."""
    rank, score = graph.removal_order(score), score.astype(np.float32)
    header = new_header(model.record, graph, config, PrunerRecord(name=method, config=config.model_dump()), len(score))
    whole = ScheduleImportance(header.model_copy(update={"kind": "importance"}), rank, score)
    max_ratio = float(whole.saved_macs[num_removals if num_removals is not None else -1])
    return ScheduleImportance(whole.header.model_copy(update={"max_ratio": max_ratio}), rank, score)


def make_schedule(
    model: Model,
    graph: BlockGraph,
    config: ScheduleConfig,
    method: str,
    keep: np.ndarray,
    asked: float | None,
    max_ratio: float | None = None,
) -> Schedule:
    """Make one schedule of `keep`, bool (T, U); `max_ratio` is the most that the method could have removed."""
    header = new_header(model.record, graph, config, PrunerRecord(name=method, config=config.model_dump()), len(keep))
    if max_ratio is not None:
        header = header.model_copy(update={"max_ratio": float(max_ratio)})
    return Schedule(header, keep).with_reached_ratio(asked)
