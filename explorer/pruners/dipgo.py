"""DiP-GO: which unit runs at which call, learned by gradients through all calls.

Zhu et al., "DiP-GO: A Diffusion Pruner via Few-step Gradient Optimization", NeurIPS 2024. Two algorithms:

`argmax`, as published: each gate is kept by its logit, and the loss is the distance of the pruned picture to
the full one plus a penalty on what is computed (eq. 3), until little enough is.

`nested`, ours: the slider needs one removal order, so at each step the gates are what that order leaves at another
ratio. Near the full run, gradients of the distance vanish and do not tell gates apart; the second order does
(Gauss-Newton, as in Optimal Brain Damage, LeCun et al. 1989). Gates near the cut move up or down by what they
contribute per MAC, compared with the last one that the ratio pays for. What is learned is what is used: there is no
threshold afterwards, and no ratio is favoured.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from explorer.masks.block_graph import BlockGraph
from explorer.masks.result import PruningResult
from explorer.models.model import Model
from explorer.models.prompts import split_names
from explorer.progress import Progress, run_to_completion
from explorer.pruners.planned import make_planner
from explorer.pruners.schedule_configs import DipgoConfig, PlannedConfig
from explorer.pruners.schedule_results import graph_and_calls, make_importance, make_schedule
from explorer.pruners.spacing import nested_order
from explorer.pruners.worker_pool import SerialPool, WorkerPool


def dipgo(
    model: Model,
    prompts: Sequence[str],
    config: DipgoConfig,
    state: Mapping[str, Any] | None = None,
    pool: WorkerPool | None = None,
) -> Generator[Progress, None, PruningResult]:
    """Learn gates on `prompts` (default: the model's search names), the denoiser frozen.

    Every yield has the state from which a later call with `state` continues exactly. Raises ValueError where the loss
    or a gradient is no longer finite, where there is not enough memory, and for a state of other settings.
    """
    from explorer.pruners.dipgo_trainer import DipgoTrainer  # here, because the table of methods is read without torch

    graph, calls = graph_and_calls(model, config)
    names = list(prompts) or split_names(model, "search")
    if calls < 2:
        raise ValueError("a run of one call has nothing that could be left out; use more steps")
    initial = yield from initial_scores(model, names, config, calls, resumed=state is not None)
    scores = np.repeat(initial[:, None], len(graph.units), axis=1)
    trainer = DipgoTrainer(pool or SerialPool(model), graph, names, config, scores)
    if state is not None:
        trainer.restore(state)
    while trainer.done < config.last:
        metrics = trainer.step()
        message = ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())
        yield Progress(trainer.done, config.last, message, metrics, trainer.state(), trainer.picture)
    score = trainer.score()
    if config.selection == "sweep" and config.ratio is not None:
        keep = sweep_selection(graph, score, config.ratio)
        return make_schedule(model, graph, config, "dipgo", keep, config.ratio)
    importance = make_importance(model, graph, config, "dipgo", score)
    return importance if config.ratio is None else importance.at(config.ratio)


def initial_scores(
    model: Model, prompts: Sequence[str], config: DipgoConfig, calls: int, resumed: bool
) -> Generator[Progress, None, np.ndarray]:
    """Make the scores of the calls, (T,), that learning begins with: all alike, or the order in which whole calls are
    removed by a plan or a spacing. What is `resumed` needs none."""
    if config.init == "keep" or resumed:
        return np.zeros(calls)
    if config.init != "planned":
        return nested_order(calls, config.init) / calls
    same = config.model_dump(include=set(PlannedConfig.model_fields) - {"ratio"})
    yield Progress(0, config.last, "planning on a full run")
    return run_to_completion(make_planner(model, prompts, PlannedConfig(**same))).nested_order() / calls


def sweep_selection(graph: BlockGraph, score: np.ndarray, ratio: float) -> np.ndarray:
    """Select as the released code does, bool (T, U), closed: from the last unit to the first, all calls whose keep
    share is low enough, with a falling threshold, never above `ratio`. It prefers whole calls, because the last unit is
    first.
    """
    calls, units = score.shape
    reuse = 1 / (1 + np.exp(score))  # softmax over the two logits
    keep, whole = np.ones((calls, units), dtype=bool), graph.macs_per_call * calls
    for threshold in np.arange(0.95, -0.01, -0.05):
        for column in reversed(range(units)):
            for call in 1 + np.argsort(-reuse[1:, column], kind="stable"):
                if reuse[call, column] <= threshold or not keep[call, column]:
                    continue
                without = keep.copy()
                without[call, column] = False
                without = graph.close(without)
                if 1 - graph.cost(without).sum() / whole > ratio:
                    break
                keep = without
    return keep
