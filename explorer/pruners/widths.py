"""Widths that need no learning: which units go first, by the size of their weights, or by lot."""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from explorer.pruners.configs import MagnitudeConfig, WidthConfig
from explorer.pruners.orders import added_up, answer, places
from explorer.widths import WidthImportance, Widths
from explorer.work import Progress


def magnitude(
    model: Any, prompts: Sequence[str], config: MagnitudeConfig
) -> Generator[Progress, None, Widths | WidthImportance]:
    """The norm of all weights that a unit takes part in: those that make its features, and those that read them."""
    yield Progress(0, 1, "adding up weights")
    there = places(model, config)
    values = {name: p.detach().abs().pow(config.norm) for name, p in model.denoiser.named_parameters()}
    score = {name: added_up(model.denoiser, place, values) for name, place in there.items()}
    return answer(model, there, score, "magnitude", config)


def random_widths(
    model: Any, prompts: Sequence[str], config: WidthConfig
) -> Generator[Progress, None, Widths | WidthImportance]:
    """Units drawn with equal chance."""
    yield Progress(0, 1, "drawing an order")
    there, lot = places(model, config), np.random.default_rng(config.seed)
    score = {name: lot.random(place.size) for name, place in there.items()}
    return answer(model, there, score, "random-widths", config)
