"""DiP-GO: which unit runs at which call, learned by gradients through the whole chain of calls.

Zhu et al., "DiP-GO: A Diffusion Pruner via Few-step Gradient Optimization", NeurIPS 2024. Two ways to decide:

`argmax`, as published: each gate is kept while its logit says so, and the loss is the distance of the pruned picture to
the full one plus a price on what is computed (eq. 3), until little enough is.

`prefix`, ours: the slider needs one order of removal, so at each step the gates are what that order leaves at a ratio
drawn anew. Where the full run is near, gradients of the distance vanish and say nothing about what a gate is worth; the
second order does (Gauss-Newton, as in Optimal Brain Damage, LeCun et al. 1989). Gates near the cut move up or down by
what they are worth per MAC, beside the last one that is paid for. What is learned is what is used: no threshold
afterwards, and no ratio is favoured.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from explorer.graph import BlockGraph
from explorer.masks import Result
from explorer.prompts import chosen
from explorer.pruners.baselines import mask_of, order_of, setting
from explorer.pruners.configs import DipgoConfig
from explorer.team import Alone, Team
from explorer.work import Progress


def dipgo(
    model: Any,
    prompts: Sequence[str],
    config: DipgoConfig,
    state: Mapping[str, Any] | None = None,
    team: Team | None = None,
) -> Generator[Progress, None, Result]:
    """Learn gates on `prompts` (default: the model's search names), the denoiser frozen.

    Every yield hands out the state from which a later call with `state` goes on exactly. Raises ValueError where the
    loss or a gradient is no longer finite, where the memory does not suffice, and for a state of other settings.
    """
    from explorer.pruners.learning import Learner  # here, because the table of pruners is read without torch

    graph, calls = setting(model, config)
    wanted = list(prompts) or chosen(model, "search")
    learner = Learner(team or Alone(model), graph, calls, wanted, config)
    if state is not None:
        learner.restore(state)
    while learner.done < config.last:
        numbers = learner.step()
        said = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())
        yield Progress(learner.done, config.last, said, numbers, learner.state(), learner.picture)
    score = learner.score()
    if config.selection == "sweep":
        return mask_of(model, graph, config, "dipgo", swept(graph, score, config.ratio), config.ratio)
    importance = order_of(model, graph, config, "dipgo", score)
    return importance if config.ratio is None else importance.at(config.ratio)


def swept(graph: BlockGraph, score: np.ndarray, ratio: float) -> np.ndarray:
    """The released code's selection: from the last unit to the first, all calls whose keep share is low enough, a
    falling threshold, never above `ratio`. bool (T, U), closed. It prefers whole calls, because the last unit is first.
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
