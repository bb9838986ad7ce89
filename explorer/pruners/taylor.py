"""Diff-Pruning: removes elements whose weights change the loss least, by its first-order expansion over timesteps.

Fang et al., "Structural Pruning for Diffusion Models", NeurIPS 2023, algorithm 1: from low noise to high, with the same
pictures and the same noise, gradients are added up as long as the loss is at least a share of the largest one; beyond,
pictures are all noise and say little about details. The importance of an element is the sum of |w g| over all weights
that it takes part in, the absolute value taken after the sum over timesteps.
"""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from explorer.models.model import Model
from explorer.models.prompts import split_names
from explorer.progress import Progress
from explorer.pruners.width_configs import TaylorConfig
from explorer.pruners.width_ranking import dim_importance, make_width_result, select_dims


def taylor(model: Model, prompts: Sequence[str], config: TaylorConfig) -> Generator[Progress, None, Any]:
    """Compute the importance on pictures that the model generates of `prompts` (default: its search names).

    The loss is measured beyond the threshold as well, but without gradients. Raises ValueError where a loss or a
    gradient is not finite, and for a flow-matching model, which has no such noise.
    """
    return (yield from taylor_at_thresholds(model, prompts, config, [config.threshold]))[config.threshold]


def taylor_at_thresholds(
    model: Model, prompts: Sequence[str], config: TaylorConfig, thresholds: Sequence[float]
) -> Generator[Progress, None, dict[float, Any]]:
    """Compute the result of each threshold from one walk over the timesteps."""
    from explorer.pruners.taylor_walk import TaylorWalk  # here, because the table of methods is read without torch

    dims = select_dims(model, config)
    walk = TaylorWalk(model, list(prompts) or split_names(model, "search"), config, min(thresholds))
    scores: dict[float, dict[str, np.ndarray]] = {}

    def current_scores() -> dict[str, np.ndarray]:
        values = walk.values()
        return {name: dim_importance(walk.model.denoiser, dim, values) for name, dim in dims.items()}

    for done, total, share in walk.run():
        message = f"timestep {walk.trace[-1][0]}, loss {share:.3g} of the largest" if done else "generating pictures"
        yield Progress(done, total, message, {"loss": share, "used": walk.used})
        scores |= {t: current_scores() for t in thresholds if t not in scores and walk.is_below(t)}
    scores |= {t: current_scores() for t in thresholds if t not in scores}
    configs = {threshold: config.model_copy(update={"threshold": threshold}) for threshold in thresholds}
    trace = tuple(walk.trace)
    return {t: make_width_result(model, dims, scores[t], "taylor", configs[t], trace) for t in thresholds}
