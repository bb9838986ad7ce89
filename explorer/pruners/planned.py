"""Planned calls: which whole calls to compute, from one full run of a few pictures."""

from collections.abc import Generator, Sequence

import numpy as np

from explorer.masks.file_format import check_ratio
from explorer.masks.result import PruningResult
from explorer.masks.schedule import Schedule
from explorer.models.model import Model
from explorer.models.prompts import repeat_to, split_names
from explorer.progress import Progress
from explorer.pruners.call_planning import CallPlanner
from explorer.pruners.schedule_configs import PlannedConfig
from explorer.pruners.schedule_results import graph_and_calls, make_importance, make_schedule

BATCH = 8


def planned(model: Model, prompts: Sequence[str], config: PlannedConfig) -> Generator[Progress, None, PruningResult]:
    """With a ratio the best plan of as many calls as it leaves, else an order in which the call goes next that is
    missed least. Order 2 is planned as order 1 is.

    Raises ValueError where the full run is not finite, and for a sampler that draws noise with `gain=closed`.
    """
    graph, calls = graph_and_calls(model, config)
    check_ratio(1 - 1 / calls, config.ratio or 0)
    planner = yield from make_planner(model, prompts, config)
    if config.ratio is None:
        score = np.repeat(planner.nested_order()[:, None], len(graph.units), axis=1)
        return make_importance(model, graph, config, "planned", score)
    return schedule_of_plan(model, planner, config)


def schedule_of_plan(model: Model, planner: CallPlanner, config: PlannedConfig) -> Schedule:
    """Make the schedule of the best plan of as many calls as the ratio in `config` leaves."""
    graph = model.graph(config.granularity, config.reuse)
    keep = np.zeros((planner.calls, len(graph.units)), dtype=bool)
    keep[list(planner.plans(max(1, round(planner.calls * (1 - (config.ratio or 0)))))[-1])] = True
    return make_schedule(model, graph, config, "planned", keep, config.ratio)


def make_planner(model: Model, prompts: Sequence[str], config: PlannedConfig) -> Generator[Progress, None, CallPlanner]:
    """Run some pictures in full, and make what plans on them."""
    from explorer.pruners.full_run import measure_batch  # here, because the table of methods is read without torch

    prompts = repeat_to(prompts or split_names(model, "search"), config.num_images)
    measured = []
    for first in range(0, len(prompts), BATCH):
        yield Progress(first, len(prompts), "full run")
        batch = prompts[first : first + BATCH]
        measured.append((len(batch), *measure_batch(model, batch, config.seed + first, config)))
    shares = np.array([count for count, *_ in measured]) / len(prompts)
    gram = np.einsum("b,bij->ij", shares, np.stack([one for _, one, _ in measured]))
    squared = np.einsum("b,bi->i", shares, np.stack([weights for *_, weights in measured]) ** 2)
    order, landing = min(config.order, 1), config.error == "landing"
    return CallPlanner(gram, np.sqrt(squared), order, config.max_extrapolation, landing)
