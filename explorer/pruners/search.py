"""What a stated budget of trials buys without any gradient: whole calls by local search, units by breeding."""

from collections.abc import Generator, Iterable, Sequence
from typing import Any

import numpy as np

from explorer.masks import Result, refuse_beyond
from explorer.prompts import chosen, cycled
from explorer.pruners.baselines import mask_of, setting
from explorer.pruners.configs import SPACINGS, GeneticConfig, SearchConfig
from explorer.pruners.spacing import nested, spaced
from explorer.team import Alone, Crew, Team
from explorer.work import Progress


def search(
    model: Any, prompts: Sequence[str], config: SearchConfig, team: Team | None = None
) -> Generator[Progress, None, Result]:
    """Start from the best spacing, then move one computed call at a time and keep what is no worse.

    A candidate's loss is the mean squared distance of its final latents to the full run's, over the search pictures.
    Every trial counts, the first ones and repeated ones excepted. A brood moves from the same best set; of equals the
    last one is taken.
    """
    graph, calls = setting(model, config)
    refuse_beyond(1 - 1 / calls, config.ratio)
    count = max(1, round(calls * (1 - config.ratio)))
    rng = np.random.default_rng(config.seed)
    tries = tries_of(team or Alone(model), model, prompts, config)

    def whole(rows: tuple[int, ...]) -> np.ndarray:
        keep = np.zeros((calls, len(graph.units)), dtype=bool)
        keep[list(rows)] = True
        return keep

    losses: dict[tuple[int, ...], float] = {}

    def look(candidates: Iterable[tuple[int, ...]]) -> None:
        new = list(dict.fromkeys(rows for rows in candidates if rows not in losses))
        losses.update(zip(new, tries([(whole(rows),) for rows in new]), strict=True))

    look(tuple(spaced(calls, count, spacing)) for spacing in SPACINGS)
    best = min(losses, key=losses.get)
    for first in range(0, config.budget, config.brood):
        yield Progress(first, config.budget, f"loss {losses[best]:.3g}")
        moved = [neighbour(best, calls, rng) for _ in range(min(config.brood, config.budget - first))]
        look(moved)
        best = min([*moved[::-1], best], key=losses.get)
    return mask_of(model, graph, config, "search", whole(best), config.ratio)


def tries_of(team: Team, model: Any, prompts: Sequence[str], config: SearchConfig) -> Crew:
    """Who tries candidates out, and on which pictures."""
    from explorer.trials import schedule_losses  # here, because the table of pruners is read without torch

    wanted = cycled(prompts or chosen(model, "search"), config.pictures)
    return team.crew(schedule_losses, wanted, config, config.seed)


def neighbour(rows: tuple[int, ...], calls: int, rng: np.random.Generator) -> tuple[int, ...]:
    """The same computed calls but for one, which moves to a free place: next to it mostly, anywhere now and then."""
    free = sorted(set(range(1, calls)) - set(rows))
    if len(rows) < 2 or not free:
        return rows
    moving = rows[int(rng.integers(1, len(rows)))]
    near = sorted(free, key=lambda call: abs(call - moving))[:4]
    target = int(rng.choice(near if rng.random() < 0.8 else free))
    return tuple(sorted({*rows, target} - {moving}))


def genetic(
    model: Any, prompts: Sequence[str], config: GeneticConfig, team: Team | None = None
) -> Generator[Progress, None, Result]:
    """Breed tables of scores (T, U), each standing for the mask that its removal order leaves at the ratio.

    So every candidate costs the same MACs, whoever its parents. Loss as in `search`; each candidate counts as a trial.
    A brood has its parents from the herd before it.
    """
    graph, calls = setting(model, config)
    refuse_beyond(1 - 1 / calls, config.ratio)
    rng = np.random.default_rng(config.seed)
    tries = tries_of(team or Alone(model), model, prompts, config)
    herd: list[tuple[float, np.ndarray]] = []
    done, founders = 0, min(config.population, config.budget)
    while done < config.budget:
        last = founders if done < founders else config.budget
        brood = [
            founder(calls, len(graph.units), trial, rng) if trial < founders else child(herd, rng)
            for trial in range(done, min(done + config.brood, last))
        ]
        losses = tries([(graph.left(score, config.ratio),) for score in brood])
        for loss, score in zip(losses, brood, strict=True):
            herd = sorted([*herd, (loss, score)], key=lambda one: one[0])[: config.population]
            done += 1
            yield Progress(done, config.budget, f"loss {herd[0][0]:.3g}", {"loss": herd[0][0]})
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
