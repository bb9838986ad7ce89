"""The methods, one row each in `PRUNERS`. Importing this loads no torch."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from explorer.masks.result import PruningResult
from explorer.progress import Progress
from explorer.pruners import schedule_configs, width_configs
from explorer.pruners.baselines import deepcache, random, similarity, uniform
from explorer.pruners.dipgo import dipgo
from explorer.pruners.ecodiff import ecodiff
from explorer.pruners.ecodiff_checkpoint import ecodiff_checkpoint
from explorer.pruners.planned import planned
from explorer.pruners.schedule_configs import PUBLISHED, SAMPLER_NAMES, SAMPLER_TITLES
from explorer.pruners.search import genetic, search
from explorer.pruners.taylor import taylor
from explorer.pruners.widths import magnitude, random_width

__all__ = [
    "BY_ITS_AUTHORS",
    "PRUNERS",
    "PUBLISHED",
    "SAMPLER_NAMES",
    "SAMPLER_TITLES",
    "Method",
    "is_published",
    "method_config",
    "method_title",
    "methods_for",
]

BY_ITS_AUTHORS = " (published)"  # after the method's name, in masks that `import` makes
IMPORTED_TITLES = {"smoothcache": "SmoothCache", "learning-to-cache": "Learning-to-Cache"}  # of methods not run here
TRAINING_TIMESTEPS = 1000  # that a model was trained on
DIPGO_RUNS, ECODIFF_RUNS = 4.1, 5.3  # a step's cost per picture, in full runs: measured by tests/bench/learning.py


def _step_cost(runs: float) -> Callable[[Any], float]:
    return lambda config: config.last * config.batch * runs


def _planned_cost(config: Any) -> float:
    return config.num_images * (1 + (DIPGO_RUNS if config.gain == "closed" else 0))


def _search_cost(config: Any) -> float:
    return config.num_images * (1 + config.budget * (1 - config.ratio))


def _taylor_cost(config: Any) -> float:
    timesteps = config.num_images * TRAINING_TIMESTEPS / config.stride * 3 / (2 if config.guidance > 1 else 1)
    return config.num_images + timesteps / config.steps


@dataclass(frozen=True)
class Method:
    """One pruning method: `run(model, prompts, config)` yields progress and returns its result."""

    name: str
    title: str
    prunes: Literal["schedule", "widths"]
    config: type[Any]  # its settings, a pydantic model
    run: Callable[..., Generator[Progress, None, PruningResult]]
    needs_weights: bool = True  # whether it runs the model, which takes minutes instead of milliseconds
    learns: bool = False  # whether it yields states from which it can continue, and has a result after each step
    cost: Callable[[Any], float] | None = None  # of a config, in full runs of the network
    chosen_by: tuple[str, ...] | None = None  # settings by which one of its bundled files is chosen; None: all
    reads_files: bool = False  # whether its settings name files of the machine that it runs on


_S, _W = schedule_configs, width_configs
PRUNERS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("uniform", "Skip whole steps", "schedule", _S.UniformConfig, uniform, needs_weights=False),
        Method("random", "Random units", "schedule", _S.RandomConfig, random, needs_weights=False),
        Method("deepcache", "DeepCache", "schedule", _S.DeepCacheConfig, deepcache, needs_weights=False),
        Method("similarity", "Similarity", "schedule", _S.SimilarityConfig, similarity, cost=lambda c: c.num_images),
        Method(
            *("planned", "Planned calls", "schedule", _S.PlannedConfig, planned),
            cost=_planned_cost,
            chosen_by=(),
        ),
        Method("search", "Local search", "schedule", _S.SearchConfig, search, cost=_search_cost),
        Method("genetic", "Genetic search", "schedule", _S.GeneticConfig, genetic, cost=_search_cost),
        Method(
            *("dipgo", "DiP-GO", "schedule", _S.DipgoConfig, dipgo),
            learns=True,
            cost=_step_cost(DIPGO_RUNS),
            chosen_by=("algorithm",),
        ),
        Method("magnitude", "Magnitude", "widths", _W.MagnitudeConfig, magnitude),
        Method("random-width", "Random widths", "widths", _W.WidthConfig, random_width),
        Method("taylor", "Diff-Pruning (Taylor)", "widths", _W.TaylorConfig, taylor, cost=_taylor_cost),
        Method(
            *("ecodiff", "EcoDiff", "widths", _W.EcodiffConfig, ecodiff), learns=True, cost=_step_cost(ECODIFF_RUNS)
        ),
        Method(
            *("ecodiff-checkpoint", "EcoDiff, published masks", "widths", _W.EcodiffCheckpointConfig),
            ecodiff_checkpoint,
            needs_weights=False,
            reads_files=True,
        ),
    )
}


def method_title(name: str) -> str:
    """Name a method as the page does; one that is not known by what it is called in its file."""
    own = name.removesuffix(BY_ITS_AUTHORS)
    title = PRUNERS[own].title if own in PRUNERS else IMPORTED_TITLES.get(own, own)
    return title + name[len(own) :]


def is_published(name: str) -> bool:
    """Say whether a mask with this method's name was imported as its authors published it."""
    return name.endswith(BY_ITS_AUTHORS)


def methods_for(prunes: Literal["schedule", "widths"], needs_weights: bool | None = None) -> list[str]:
    """List the methods that prune schedules or widths; with `needs_weights`, those that need weights or need none."""
    return [
        name
        for name, method in PRUNERS.items()
        if method.prunes == prunes and needs_weights in (None, method.needs_weights)
    ]


def method_config(name: str, settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Any:
    """Validate the settings of a method; of `defaults`, those fields that it has are filled in first.

    Raises ValueError for an unknown method or an invalid field.
    """
    if name not in PRUNERS:
        raise ValueError(f"method {name!r} is unknown; choose one of {', '.join(PRUNERS)}")
    config = PRUNERS[name].config
    if unknown := [field for field in settings if field not in config.model_fields]:
        raise ValueError(f"{name} has no setting {unknown[0]!r}; it has {', '.join(config.model_fields)}")
    own = {field: value for field, value in (defaults or {}).items() if field in config.model_fields}
    return config(**own | dict(settings))
