"""Diff-Pruning: units go first whose weights change the loss least, by its first-order expansion over timesteps.

Fang et al., "Structural Pruning for Diffusion Models", NeurIPS 2023, algorithm 1: from low noise to high, with the same
pictures and the same noise, gradients are added up as long as the loss is at least a share of the largest one; beyond,
pictures are all noise and say little about details. The importance of a unit is the sum of |w g| over all weights that
it takes part in, the size taken after the sum over timesteps.
"""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from explorer.prompts import chosen
from explorer.pruners.configs import TaylorConfig
from explorer.pruners.orders import added_up, answer, places
from explorer.widths import WidthImportance, Widths
from explorer.work import Progress


def taylor(
    model: Any, prompts: Sequence[str], config: TaylorConfig
) -> Generator[Progress, None, Widths | WidthImportance]:
    """Importance on pictures that the model draws of `prompts` (default: its search names).

    The loss is measured beyond the threshold as well, but not followed back. Raises ValueError where a loss or a
    gradient is not finite, and for a model of flows, which has no such noise.
    """
    return (yield from at_thresholds(model, prompts, config, [config.threshold]))[config.threshold]


def at_thresholds(
    model: Any, prompts: Sequence[str], config: TaylorConfig, thresholds: Sequence[float]
) -> Generator[Progress, None, dict[float, Widths | WidthImportance]]:
    """What each threshold comes to, from one walk."""
    from explorer.pruners.expansion import Expansion  # here, because the table of pruners is read without torch

    there = places(model, config)
    expansion = Expansion(model, list(prompts) or chosen(model, "search"), config, min(thresholds))
    scores: dict[float, dict[str, np.ndarray]] = {}

    def summed_up() -> dict[str, np.ndarray]:
        values = expansion.values()
        return {name: added_up(expansion.model.denoiser, place, values) for name, place in there.items()}

    for done, total, share in expansion.walk():
        said = f"timestep {expansion.trace[-1][0]}, loss {share:.3g} of the largest" if done else "drawing pictures"
        yield Progress(done, total, said, {"loss": share, "used": expansion.used})
        scores |= {t: summed_up() for t in thresholds if t not in scores and expansion.ended(t)}
    scores |= {t: summed_up() for t in thresholds if t not in scores}
    configs = {threshold: config.model_copy(update={"threshold": threshold}) for threshold in thresholds}
    trace = tuple(expansion.trace)
    return {t: answer(model, there, scores[t], "taylor", configs[t], trace) for t in thresholds}
