"""What a stated budget of trials buys without any gradient: whole calls by local search, units by breeding."""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from explorer.graph import Forecast
from explorer.masks import Result, refuse_beyond
from explorer.prompts import chosen, cycled
from explorer.pruners.baselines import mask_of, setting
from explorer.pruners.configs import SPACINGS, GeneticConfig, SearchConfig
from explorer.pruners.spacing import nested, spaced
from explorer.work import Progress


def search(model: Any, prompts: Sequence[str], config: SearchConfig) -> Generator[Progress, None, Result]:
    """Start from the best spacing, then move one computed call at a time and keep what is no worse.

    A candidate's loss is the mean squared distance of its final latents to the full run's, over the search pictures.
    Every trial counts, the first ones and repeated ones excepted.
    """
    graph, calls = setting(model, config)
    refuse_beyond(1 - 1 / calls, config.ratio)
    count = max(1, round(calls * (1 - config.ratio)))
    rng = np.random.default_rng(config.seed)
    trials = trials_of(model, prompts, config)

    def loss(rows: tuple[int, ...]) -> float:
        keep = np.zeros((calls, len(graph.units)), dtype=bool)
        keep[list(rows)] = True
        return trials.schedule_loss(graph, keep, Forecast.of(config))

    losses = {rows: loss(rows) for rows in {tuple(spaced(calls, count, spacing)) for spacing in SPACINGS}}
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


def trials_of(model: Any, prompts: Sequence[str], config: SearchConfig) -> Any:
    """What candidates are tried on."""
    from explorer.trials import Trials  # here, because the table of pruners is read without torch

    wanted = cycled(prompts or chosen(model, "search"), config.pictures)
    return Trials(model, wanted, config.sampler, config.steps, config.guidance, config.seed)


def neighbour(rows: tuple[int, ...], calls: int, rng: np.random.Generator) -> tuple[int, ...]:
    """The same computed calls but for one, which moves to a free place: next to it mostly, anywhere now and then."""
    free = sorted(set(range(1, calls)) - set(rows))
    if len(rows) < 2 or not free:
        return rows
    moving = rows[int(rng.integers(1, len(rows)))]
    near = sorted(free, key=lambda call: abs(call - moving))[:4]
    target = int(rng.choice(near if rng.random() < 0.8 else free))
    return tuple(sorted({*rows, target} - {moving}))


def genetic(model: Any, prompts: Sequence[str], config: GeneticConfig) -> Generator[Progress, None, Result]:
    """Breed tables of scores (T, U), each standing for the mask that its removal order leaves at the ratio.

    So every candidate costs the same MACs, whoever its parents. Loss as in `search`; each candidate counts as a trial.
    """
    graph, calls = setting(model, config)
    refuse_beyond(1 - 1 / calls, config.ratio)
    rng = np.random.default_rng(config.seed)
    trials = trials_of(model, prompts, config)
    herd: list[tuple[float, np.ndarray]] = []
    for trial in range(config.budget):
        score = founder(calls, len(graph.units), trial, rng) if trial < config.population else child(herd, rng)
        loss = trials.schedule_loss(graph, graph.left(score, config.ratio), Forecast.of(config))
        herd = sorted([*herd, (loss, score)], key=lambda one: one[0])[: config.population]
        yield Progress(trial + 1, config.budget, f"loss {herd[0][0]:.3g}", {"loss": herd[0][0]})
    return mask_of(model, graph, config, "genetic", graph.left(herd[0][1], config.ratio), config.ratio)


def founder(calls: int, units: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """Scores (T, U) of a first candidate: whole calls in the order of each spacing, then anything from whole calls at
    random to units at random."""
    if number < len(SPACINGS):
        return np.repeat(nested(calls, SPACINGS[number])[:, None] / calls, units, axis=1)
    whole = rng.random()
    return whole * rng.random((calls, 1)) + (1 - whole) * rng.random((calls, units))


def child(herd: Sequence[tuple[float, np.ndarray]], rng: np.random.Generator) -> np.ndarray:
    """Each call's scores from one of two parents (each the better of two drawn), some calls and some cells moved."""
    first, second = (herd[int(rng.integers(0, len(herd), 2).min())][1] for _ in range(2))
    calls, units = first.shape
    score = np.where(rng.random((calls, 1)) < 0.5, first, second)
    moved = rng.random((calls, 1)) < 2 / calls
    score = score + moved * rng.normal(0, 0.3, (calls, 1))
    return score + (rng.random((calls, units)) < 2 / (calls * units)) * rng.normal(0, 0.3, (calls, units))
