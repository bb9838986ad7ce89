"""Widths that need no learning: elements are removed by the size of their weights, or at random."""

from collections.abc import Generator, Sequence

import numpy as np

from explorer.masks.result import PruningResult
from explorer.models.model import Model
from explorer.progress import Progress
from explorer.pruners.width_configs import MagnitudeConfig, WidthConfig
from explorer.pruners.width_ranking import dim_importance, make_width_result, select_dims


def magnitude(
    model: Model, prompts: Sequence[str], config: MagnitudeConfig
) -> Generator[Progress, None, PruningResult]:
    """Rank by the norm of all weights that an element takes part in: those that make its features or read them."""
    yield Progress(0, 1, "adding up weights")
    dims = select_dims(model, config)
    values = {name: p.detach().abs().pow(config.norm) for name, p in model.denoiser.named_parameters()}
    score = {name: dim_importance(model.denoiser, dim, values) for name, dim in dims.items()}
    return make_width_result(model, dims, score, "magnitude", config)


def random_width(model: Model, prompts: Sequence[str], config: WidthConfig) -> Generator[Progress, None, PruningResult]:
    """Rank at random."""
    yield Progress(0, 1, "drawing an order")
    dims, rng = select_dims(model, config), np.random.default_rng(config.seed)
    score = {name: rng.random(dim.size) for name, dim in dims.items()}
    return make_width_result(model, dims, score, "random-width", config)
