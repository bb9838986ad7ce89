"""The best whole calls that a random search finds: what a stated budget of trials buys without any gradient."""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from explorer.masks import Result, refuse_beyond
from explorer.prompts import chosen, cycled
from explorer.pruners.baselines import mask_of, setting, spaced
from explorer.pruners.configs import SearchConfig
from explorer.work import Progress


def search(model: Any, prompts: Sequence[str], config: SearchConfig) -> Generator[Progress, None, Result]:
    """Start from even and from quadratic spacing, then move one computed call at a time and keep what is no worse.

    A candidate's loss is the mean squared distance of its final latents to the full run's, over the search pictures.
    Every trial counts, the first two and repeated ones excepted.
    """
    from explorer.trials import Trials  # here, because the table of pruners is read without torch

    graph, calls = setting(model, config)
    refuse_beyond(1 - 1 / calls, config.ratio)
    count = max(1, round(calls * (1 - config.ratio)))
    rng = np.random.default_rng(config.seed)
    wanted = cycled(prompts or chosen(model, "search"), config.pictures)
    trials = Trials(model, wanted, config.sampler, config.steps, config.guidance, config.seed)

    def loss(rows: tuple[int, ...]) -> float:
        keep = np.zeros((calls, len(graph.units)), dtype=bool)
        keep[list(rows)] = True
        return trials.schedule_loss(graph, keep, config.order)

    losses = {rows: loss(rows) for rows in {tuple(spaced(calls, count, spacing)) for spacing in ("even", "quadratic")}}
    best = min(losses, key=losses.get)
    for trial in range(config.budget):
        yield Progress(trial, config.budget, f"loss {losses[best]:.3g}")
        moved = neighbour(best, calls, rng)
        if moved not in losses:
            losses[moved] = loss(moved)
        best = moved if losses[moved] <= losses[best] else best
    keep = np.zeros((calls, len(graph.units)), dtype=bool)
    keep[list(best)] = True
    return mask_of(model, graph, config, "search", keep, config.ratio)


def neighbour(rows: tuple[int, ...], calls: int, rng: np.random.Generator) -> tuple[int, ...]:
    """The same computed calls but for one, which moves to a free place: next to it mostly, anywhere now and then."""
    free = sorted(set(range(1, calls)) - set(rows))
    if len(rows) < 2 or not free:
        return rows
    moving = rows[int(rng.integers(1, len(rows)))]
    near = sorted(free, key=lambda call: abs(call - moving))[:4]
    target = int(rng.choice(near if rng.random() < 0.8 else free))
    return tuple(sorted({*rows, target} - {moving}))
