"""What each decision inside DiP-GO contributes: the same search with one setting changed, at few calls.

`search` compares it with searches that use no gradient, at as many runs of the network and at ten times as many.
"""

import itertools
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from explorer.masks.block_graph import Extrapolation
from explorer.masks.schedule import Schedule, ScheduleImportance
from explorer.models.model import Model
from explorer.models.prompts import repeat_to, split_names
from explorer.progress import Progress
from explorer.pruners import PRUNERS, PUBLISHED
from explorer.pruners.dipgo import sweep_selection
from explorer.pruners.objective import Objective
from explorer.pruners.schedule_configs import DipgoConfig, GeneticConfig
from explorer.studies.baseline_suite import EXTRAPOLATIONS

STEPS, NUM_IMAGES, RATIOS = 10, 16, (0.5, 0.7, 0.8)
GUIDANCE, EVALUATION_SEED = 7.5, 10_000
# of the published algorithm and of ours; both see the same number of pictures
PUBLISHED_BUDGET: dict[str, Any] = {"iterations": 32, "batch": 1, "checkpointing": "none"}
OWN_BUDGET: dict[str, Any] = {"iterations": 8, "batch": 4, "checkpointing": "none"}

PUBLISHED_VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "published": {},
        "published: a table instead of the network": {"parametrisation": "table"},
        "published: linear layers instead of attention": {"encoder": "linear"},
        "published: attention not applied, as released": {"encoder": "none"},
        **{f"published: loss {loss}": {"loss": loss} for loss in ("l1", "l2", "l1+ssim", "latent")},
        **{f"published: alpha {alpha}": {"alpha": alpha} for alpha in (0.1, 0.5, 2.0)},
        "published: gamma without the cascade": {"cascade": False},
        "published: one noise for all": {"fresh_noise": False},
        **{f"published: {granularity}": {"granularity": granularity} for granularity in ("layer", "module")},
        "published: selection by sweep": {"selection": "sweep"},
    }
)
OWN_VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ours": {},
        **{f"ours: {granularity}": {"granularity": granularity} for granularity in ("stage", "module")},
        **{f"ours: order {one.order}, any number of calls ahead": one._asdict() for one in EXTRAPOLATIONS[:2]},
        "ours: a network instead of the table": {"parametrisation": "network", "learning_rate": 0.1},
    }
)


def ablate(model: Model, folder: Path, seed: int = 0, steps: int = STEPS) -> Generator[Progress, None, pd.DataFrame]:
    """Measure every variant: one row per variant and ratio, with the `psnr` in dB of the final latents to the full run.

    The pictures are of evaluation names. What is learned stays in `folder` and is read from there the next time;
    variants whose settings come to the same are learned once.
    """
    objective = _evaluation_objective(model, steps)
    common = {"steps": steps, "seed": seed}
    variants = {name: {**PUBLISHED, **PUBLISHED_BUDGET, **own, **common} for name, own in PUBLISHED_VARIANTS.items()}
    variants |= {name: {**OWN_BUDGET, **own, **common} for name, own in OWN_VARIANTS.items()}
    rows = []
    for number, (name, settings) in enumerate(variants.items()):
        yield Progress(number, len(variants), name)
        by_sweep = settings.get("selection") == "sweep"
        config = DipgoConfig(**{**settings, "selection": "rank"})
        file = folder / f"{sha256(repr(config).encode()).hexdigest()[:16]}.safetensors"
        if not file.exists():
            (yield from PRUNERS["dipgo"].run(model, split_names(model, "search"), config)).save(file)
        importance = ScheduleImportance.load(file)
        graph = model.graph(config.granularity, config.reuse)
        for ratio in RATIOS:
            keep = sweep_selection(graph, importance.score, ratio) if by_sweep else importance.at(ratio).keep
            psnr = _latent_psnr(objective, objective.schedule_loss(graph, keep, Extrapolation.of(config)))
            kept = float(graph.cost(keep).sum() / (graph.macs_per_call * len(keep)))
            rows.append({"variant": name, "ratio": ratio, "kept": kept, "psnr": psnr, "seed": seed})
    return pd.DataFrame(rows)


def _evaluation_objective(model: Model, steps: int) -> Objective:
    prompts = repeat_to(split_names(model, "evaluation"), NUM_IMAGES)
    return Objective(model, prompts, "ddim", steps, GUIDANCE, seed=EVALUATION_SEED)


def _latent_psnr(objective: Objective, loss: float) -> float:
    """Turn the mean squared distance of latents into dB, relative to the mean square of the full run's."""
    return float(10 * np.log10(objective.full.square().mean().item() / loss))


SEARCHES: Mapping[str, int | None] = {
    "genetic": 24,
    "random": None,
}  # the population of a genetic search; None: as large as its budget
SEARCH_RATIO = 0.8


def search(model: Model, seed: int = 0, steps: int = STEPS) -> Generator[Progress, None, pd.DataFrame]:
    """Compare our algorithm with genetic and random search over the same units at one ratio.

    They may use as many network runs, or ten times as many. One row each: `psnr` as in `ablate`, `runs` of the network
    per picture, and seconds. A run with a gradient counts as 7/3: of three of them two are backward passes, which take
    twice as long as a forward pass. A candidate of a search counts as what its MACs amount to in whole runs, which is
    the same for all of them.
    """
    objective = _evaluation_objective(model, steps)
    config = DipgoConfig(**OWN_BUDGET, steps=steps, seed=seed)
    graph, prompts = model.graph(config.granularity, config.reuse), split_names(model, "search")
    rows = []

    def add_row(name: str, schedule: Schedule, runs: float, started: float) -> None:
        loss = objective.schedule_loss(graph, schedule.keep, Extrapolation.of(schedule.header))
        psnr, seconds = _latent_psnr(objective, loss), time.perf_counter() - started
        rows.append({"search": name, "psnr": psnr, "runs": runs, "seconds": seconds})

    started = time.perf_counter()
    with count_network_runs(model) as runs:
        importance = yield from PRUNERS["dipgo"].run(model, prompts, config)
    num_runs = runs[0]
    add_row("ours", importance.at(SEARCH_RATIO), num_runs, started)
    fields = ("granularity", "reuse", "order", "max_extrapolation", "steps", "seed")
    shared = {name: getattr(config, name) for name in fields} | {"ratio": SEARCH_RATIO}
    runs_per_candidate = GeneticConfig().num_images * steps * (1 - SEARCH_RATIO) * 2
    for (name, population), factor in itertools.product(SEARCHES.items(), (1, 10)):
        budget = max(4, round(factor * num_runs / runs_per_candidate))
        started = time.perf_counter()
        genetic = GeneticConfig(**shared, budget=budget, population=min(population or budget, budget))
        schedule: Any = yield from PRUNERS["genetic"].run(model, prompts, genetic)
        add_row(f"{name}, {budget} candidates", schedule, budget * runs_per_candidate, started)
    return pd.DataFrame(rows)


@contextmanager
def count_network_runs(model: Model) -> Iterator[list[float]]:
    """Count how often the denoiser runs inside, times pictures: yields a list of one number, which grows.

    Guided pictures count twice, runs with a gradient 7/3 times.
    """
    import torch

    runs = [0.0]

    def count(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        runs[0] += len(output) * (7 / 3 if torch.is_grad_enabled() else 1)

    # the stem always runs when anything does; copies with shared weights inherit the hook
    stem = next(module for module in model.denoiser.modules() if isinstance(module, torch.nn.Conv2d))
    handle = stem.register_forward_hook(count)
    try:
        yield runs
    finally:
        handle.remove()
