"""What a stated budget of candidates finds without any gradient: whole calls by local search, units by a genetic
one."""

from collections.abc import Generator, Iterable, Sequence

import numpy as np

from explorer.masks.file_format import check_ratio
from explorer.masks.result import PruningResult
from explorer.models.model import Model
from explorer.models.prompts import repeat_to, split_names
from explorer.progress import Progress
from explorer.pruners.schedule_configs import GeneticConfig, SearchConfig
from explorer.pruners.schedule_results import graph_and_calls, make_schedule
from explorer.pruners.spacing import SPACINGS, nested_order, spaced_calls
from explorer.pruners.worker_pool import MapFn, SerialPool, WorkerPool

Candidate = tuple[float, np.ndarray]  # its loss, and its scores (T, U)


def search(
    model: Model, prompts: Sequence[str], config: SearchConfig, pool: WorkerPool | None = None
) -> Generator[Progress, None, PruningResult]:
    """Start from the best spacing, then move one computed call at a time and keep what is no worse.

    A candidate's loss is the mean squared distance of its final latents to the full run's, over the search pictures.
    Every candidate counts, except for the first ones and for repeated ones. The candidates of a round come from the
    same best set; of equals the last one is taken.
    """
    graph, calls = graph_and_calls(model, config)
    check_ratio(1 - 1 / calls, config.ratio)
    count = max(1, round(calls * (1 - config.ratio)))
    rng = np.random.default_rng(config.seed)
    evaluate = _bind_objective(pool or SerialPool(model), model, prompts, config)

    def keep_of(computed: tuple[int, ...]) -> np.ndarray:
        keep = np.zeros((calls, len(graph.units)), dtype=bool)
        keep[list(computed)] = True
        return keep

    losses: dict[tuple[int, ...], float] = {}

    def add_losses(candidates: Iterable[tuple[int, ...]]) -> None:
        new = list(dict.fromkeys(computed for computed in candidates if computed not in losses))
        losses.update(zip(new, evaluate([(keep_of(computed),) for computed in new]), strict=True))

    add_losses(tuple(spaced_calls(calls, count, spacing)) for spacing in SPACINGS)
    best = min(losses, key=losses.__getitem__)
    for first in range(0, config.budget, config.candidates_per_round):
        yield Progress(first, config.budget, f"loss {losses[best]:.3g}")
        batch_size = min(config.candidates_per_round, config.budget - first)
        batch = [neighbour(best, calls, rng) for _ in range(batch_size)]
        add_losses(batch)
        best = min([*batch[::-1], best], key=losses.__getitem__)
    return make_schedule(model, graph, config, "search", keep_of(best), config.ratio)


def _bind_objective(pool: WorkerPool, model: Model, prompts: Sequence[str], config: SearchConfig) -> MapFn:
    """Have a pool compute the losses of candidates on the search pictures."""
    from explorer.pruners.objective import (
        schedule_objective,  # here, because the table of methods is read without torch
    )

    prompts = repeat_to(prompts or split_names(model, "search"), config.num_images)
    return pool.bind(schedule_objective, prompts, config, config.seed)


def neighbour(computed: tuple[int, ...], calls: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Move one of the computed calls to a free place: a near one in four of five cases, else any."""
    free = sorted(set(range(1, calls)) - set(computed))
    if len(computed) < 2 or not free:
        return computed
    moving = computed[int(rng.integers(1, len(computed)))]
    near = sorted(free, key=lambda call: abs(call - moving))[:4]
    target = int(rng.choice(near if rng.random() < 0.8 else free))
    return tuple(sorted({*computed, target} - {moving}))


def genetic(
    model: Model, prompts: Sequence[str], config: GeneticConfig, pool: WorkerPool | None = None
) -> Generator[Progress, None, PruningResult]:
    """Search for tables of scores (T, U), each standing for the mask that its removal order leaves at the ratio.

    So every candidate costs the same MACs, whatever its parents. The loss is that of `search`; each candidate counts.
    The parents of a round's candidates are taken from the population before it.
    """
    graph, calls = graph_and_calls(model, config)
    check_ratio(1 - 1 / calls, config.ratio)
    rng = np.random.default_rng(config.seed)
    evaluate = _bind_objective(pool or SerialPool(model), model, prompts, config)
    population: list[Candidate] = []
    done, num_initial = 0, min(config.population, config.budget)
    while done < config.budget:
        last = num_initial if done < num_initial else config.budget
        batch = [
            initial_candidate(calls, len(graph.units), number, rng)
            if number < num_initial
            else offspring(population, rng)
            for number in range(done, min(done + config.candidates_per_round, last))
        ]
        losses = evaluate([(graph.keep_at_ratio(score, config.ratio),) for score in batch])
        for loss, score in zip(losses, batch, strict=True):
            population = sorted([*population, (loss, score)], key=lambda one: one[0])[: config.population]
            done += 1
            yield Progress(done, config.budget, f"loss {population[0][0]:.3g}", {"loss": population[0][0]})
    keep = graph.keep_at_ratio(population[0][1], config.ratio)
    return make_schedule(model, graph, config, "genetic", keep, config.ratio)


def initial_candidate(calls: int, units: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """Make the scores (T, U) of one of the first candidates: whole calls in the order of each spacing, then anything
    from random whole calls to random units."""
    if number < len(SPACINGS):
        return np.repeat(nested_order(calls, SPACINGS[number])[:, None] / calls, units, axis=1)
    whole = rng.random()
    return whole * rng.random((calls, 1)) + (1 - whole) * rng.random((calls, units))


def offspring(population: Sequence[Candidate], rng: np.random.Generator) -> np.ndarray:
    """Take each call's scores from one of two parents (each the better of two random ones), and change some of them."""
    first, second = (population[int(rng.integers(0, len(population), 2).min())][1] for _ in range(2))
    calls, units = first.shape
    score = np.where(rng.random((calls, 1)) < 0.5, first, second)
    mutated = rng.random((calls, 1)) < 2 / calls
    score = score + mutated * rng.normal(0, 0.3, (calls, 1))
    return score + (rng.random((calls, units)) < 2 / (calls * units)) * rng.normal(0, 0.3, (calls, units))
