"""The gallery: a few scenes, drawn by every method at every stop of the slider, and measured.

    finished(drawn(model, Path("runs/gallery")))    # a file a ratio; goes on where it stopped

Drawn by the harness of the evidence, so that a picture and its numbers belong together. `packing` makes it small.
"""

import json
from collections.abc import Generator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from explorer import catalogue, shipped
from explorer.evidence import rivals
from explorer.evidence.evaluation import Contender, Full, Pair, evaluate
from explorer.evidence.results import read
from explorer.masks import Result
from explorer.prompts import chosen, cycled
from explorer.pruners import PRUNERS
from explorer.pruners.configs import CONFIGS
from explorer.trials import Trials
from explorer.work import Progress, finished

FULL = Full("ddim", 50)
RATIOS = tuple(round(0.05 * stop, 2) for stop in range(1, 20))
PROMPTS = ("red apple", "penguin", "unicorn", "rocket", "pizza", "octopus", "alien", "bicycle", "sunflower", "castle")
PROMPTS += ("face with tears of joy", "christmas tree")
SEEDS = (0, 1)
TUNING = 8  # pictures on which few-step samplers choose their spacing
FAR = 0.03  # from the ratio asked: a method that comes no nearer does not stand there


class Shown(NamedTuple):
    """One method of the gallery: its title, and the pruner with its settings or the name of a few-step sampler."""

    title: str
    method: str
    settings: Mapping[str, Any] = MappingProxyType({})
    nested: bool = True  # one order serves all ratios; else each has a schedule of its own


METHODS: Mapping[str, Shown] = MappingProxyType(
    {
        "dipgo": Shown("DiP-GO", "dipgo", {"decision": "prefix"}),
        "dipgo-published": Shown("DiP-GO as published", "dipgo", {"decision": "argmax"}),
        "uniform": Shown(
            "Whole calls, denser at both ends", "uniform", {"spacing": "ends", "order": 1, "reach": 1}, False
        ),
        "deepcache": Shown("DeepCache, best branch", "deepcache", nested=False),
        "similarity": Shown("Similarity", "similarity"),
        "random": Shown("Random units", "random"),
        "ddim-steps": Shown("DDIM, fewer steps", "ddim-steps"),
        "dpm++-steps": Shown("DPM-Solver++, fewer steps", "dpm++-steps"),
        "unipc-steps": Shown("UniPC, fewer steps", "unipc-steps"),
    }
)


def scenes() -> list[Pair]:
    """The pictures of the gallery."""
    return [Pair(prompt, seed) for prompt in PROMPTS for seed in SEEDS]


def drawn(model: Any, folder: Path) -> Generator[Progress, None, None]:
    """Draw and measure everything that `folder` does not hold yet."""
    folder.mkdir(parents=True, exist_ok=True)
    orders: dict[str, Result] = {}
    trials = None
    for number, ratio in enumerate(RATIOS):
        standing_there = folder / f"{ratio}.json"
        if standing_there.exists():
            continue
        yield Progress(number, len(RATIOS), f"at {ratio:.0%}")
        trials = trials or Trials(model, cycled(chosen(model, "search"), TUNING), *vars(FULL).values())
        for name, shown in METHODS.items():
            if name not in rivals.RIVALS and shown.nested and name not in orders:
                orders[name] = yield from _order(model, shown)
                orders[name].save(folder / f"{name}.safetensors")
        standing = {name: _contender(model, name, ratio, orders, trials) for name in METHODS}
        standing = {name: contender for name, contender in standing.items() if contender}
        options = dict(truth_steps=0, resume=True, keep=folder / "references", album=folder / "album")
        yield from evaluate(model, FULL, list(standing.values()), scenes(), folder / f"{ratio}.parquet", **options)
        for name, contender in standing.items():
            if contender.mask is not None:
                contender.mask.save(folder / f"{ratio}-{name}.safetensors")
        keys = {name: contender.key for name, contender in standing.items()}
        standing_there.write_text(json.dumps(keys), encoding="utf-8")


def _order(model: Any, shown: Shown) -> Generator[Progress, None, Result]:
    """What serves all ratios."""
    config = CONFIGS[shown.method](**vars(FULL), **shown.settings)
    if config.LEARNS:
        return shipped.find(model.id, shown.method, FULL.sampler, FULL.steps, shown.settings)
    return (yield from PRUNERS[shown.method](model, [], config))


def settings_at(name: str, ratio: float) -> dict[str, Any]:
    """The method's own settings at `ratio`: DeepCache's branch is the one that did best there when all were drawn."""
    shown = METHODS[name]
    return dict(shown.settings) | ({"branch": _branch(ratio)} if shown.method == "deepcache" else {})


def _branch(ratio: float, sweep: Path = catalogue.ASSETS / "results" / "emoji-unet-ddim-50-deepcache.parquet") -> int:
    rows = read(sweep)[1]
    points = (
        rows[rows.method == "deepcache"].groupby("settings").agg({"kept": "mean", "psnr_box": "mean"}).reset_index()
    )
    points["branch"] = [json.loads(settings)["branch"] for settings in points.settings]
    points["far"] = (1 - points.kept - ratio).abs()
    nearest = points.loc[points.groupby("branch").far.idxmin()].set_index("branch", drop=False)
    within = nearest[(nearest.far <= FAR) & (points.groupby("branch").kept.min() <= 1 - ratio)]
    return int(within.loc[within.psnr_box.idxmax()].branch) if len(within) else 0  # which alone goes farther


def _contender(model: Any, name: str, ratio: float, orders: Mapping[str, Result], trials: Trials) -> Contender | None:
    """`name` at `ratio`; None where it cannot stand there."""
    shown, settings = METHODS[name], {"how": name}
    try:
        if name in rivals.RIVALS:
            found = rivals.few_steps(model, name, FULL, 1 - ratio, trials)
            return Contender(name, found.sampler, found.steps, ratio, settings, found.solver)
        if shown.nested:
            mask = orders[name].at(ratio)
        else:
            config = CONFIGS[shown.method](**vars(FULL), **settings_at(name, ratio), ratio=ratio)
            mask = finished(PRUNERS[shown.method](model, [], config))
    except ValueError:
        return None
    if abs(1 - mask.kept - ratio) > FAR:
        return None
    return Contender(shown.method, FULL.sampler, FULL.steps, ratio, settings, mask=mask)
