"""Everything a learned method has to beat, each tuned as well: the first result of the project, and its yardstick.

For a ratio, every family of schedules tries all its settings on a few pictures of the search names, then the best one
at every order, and that goes into the evaluation; so do the few-step samplers with the better of two spacings, and what
needs no tuning.
"""

import itertools
import json
import shutil
from collections.abc import Generator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from explorer import shipped
from explorer.evidence import rivals
from explorer.evidence.evaluation import Contender, Full, evaluate, pairs_of
from explorer.evidence.jury import Jury
from explorer.evidence.summary import summary
from explorer.graph import Forecast
from explorer.masks import Importance, Mask, Result
from explorer.prompts import chosen, cycled
from explorer.pruners import PRUNERS
from explorer.pruners.baselines import deepest
from explorer.pruners.configs import CONFIGS, SPACINGS
from explorer.trials import Trials
from explorer.work import Progress, finished

RATIOS = (0.1, 0.5, 0.7, 0.8, 0.9, 0.95)
PICTURES = 8  # that each setting is tried on
BUDGET = 20  # candidates of each search
SEEDS = {"random": (0, 1, 2)}  # of what draws lots, so that nobody wins by luck
INTERVALS = range(2, 11)  # of DeepCache, when all of them are drawn
FORECASTS = (Forecast(0), Forecast(1), Forecast(2), Forecast(1, 1), Forecast(2, 1))
SIZES = ("stage", "layer", "module")

# the settings that are tried of each family, before its order
GRIDS: dict[str, dict[str, Sequence[Any]]] = {
    "uniform": {"spacing": SPACINGS},
    "deepcache": {"branch": range(10)},
    "similarity": {"granularity": SIZES},
    "random": {"granularity": SIZES},
    "search": {},
}


class Suite:
    """The contenders for one full run. What serves every ratio is measured once."""

    def __init__(self, model: Any, full: Full, prompts: Sequence[str], budget: int = BUDGET):
        self.model, self.full, self.prompts, self.budget = model, full, list(prompts), budget
        self.trials = Trials(model, self.prompts, full.sampler, full.steps, full.guidance)
        self._found: dict[str, Result] = {}

    def at(self, ratio: float) -> Generator[Progress, None, list[Contender]]:
        """Everybody who can stand at `ratio`; a family that cannot remove so much is left out."""
        found = rivals.all_at(self.model, self.full, 1 - ratio, self.trials)
        plain = self._mask("uniform", {"spacing": "even"}, ratio)
        found.append(self._contender("uniform", "as a coarser sampler", ratio, plain))
        for number, (method, grid) in enumerate(GRIDS.items()):
            yield Progress(number, len(GRIDS), f"tuning {method} at {ratio}")
            found += self.tuned(method, ratio, grid)
        return found

    def tuned(self, method: str, ratio: float, grid: dict[str, Sequence[Any]]) -> list[Contender]:
        """The best of a family at `ratio`, one a seed; none if that is out of its reach."""
        return [self._contender(method, "tuned", ratio, mask) for mask in self._best(method, grid, ratio)]

    def _best(self, method: str, grid: dict[str, Sequence[Any]], ratio: float) -> list[Mask]:
        """The masks (one a seed) whose pictures end nearest to the full run's; none if `ratio` is out of reach."""
        settings = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        within = [masks for values in settings if (masks := self._masks(method, values, ratio))]
        if not within:
            return []
        best = min(within, key=self._mean_loss)
        return min(([mask.forecasting(forecast) for mask in best] for forecast in FORECASTS), key=self._mean_loss)

    def _masks(self, method: str, settings: dict[str, Any], ratio: float) -> list[Mask]:
        """One a seed; none if `ratio` is out of reach."""
        try:
            return [self._mask(method, settings | {"seed": seed}, ratio) for seed in SEEDS.get(method, (0,))]
        except ValueError:
            return []

    def _mean_loss(self, masks: Sequence[Mask]) -> float:
        return mean(self._loss(mask) for mask in masks)

    def _loss(self, mask: Mask) -> float:
        graph = self.model.graph(mask.header.granularity, mask.header.reuse)
        return self.trials.schedule_loss(graph, mask.keep, Forecast.of(mask.header))

    def _mask(self, method: str, settings: dict[str, Any], ratio: float) -> Mask:
        """Raises ValueError where the method cannot remove so much."""
        fields = CONFIGS[method].model_fields
        asked = vars(self.full) | settings | {"pictures": len(self.prompts), "budget": self.budget, "ratio": ratio}
        if method == "similarity":  # which measures once what serves all ratios
            asked["ratio"] = None
        key = repr((method, sorted(asked.items())))
        if key not in self._found:
            config = CONFIGS[method](**{name: value for name, value in asked.items() if name in fields})
            work = PRUNERS[method](self.model, self.prompts, config)
            self._found[key] = finished(work)
        result = self._found[key]
        mask = result.at(ratio) if isinstance(result, Importance) else result
        if abs((1 - mask.kept) - ratio) > 0.03:
            raise ValueError(f"{method} comes no nearer to {ratio} than {1 - mask.kept:.3f}")
        return mask

    def _contender(self, method: str, how: str, ratio: float, mask: Mask) -> Contender:
        settings = mask.header.pruner.config | {"how": how}
        return Contender(method, self.full.sampler, self.full.steps, ratio, settings, mask=mask)


def run(
    model: Any, full: Full, folder: Path, pictures: int, ratios: Sequence[float] = RATIOS, **options: Any
) -> Generator[Progress, None, pd.DataFrame]:
    """Tune everybody at every ratio, evaluate all on the same pictures, and return the summary.

    Pictures are of the evaluation names, tuning sees the search names. What is in `folder` already (contenders of a
    ratio once they are tuned, rows of the evaluation) is taken as it is.
    """
    suite, contenders = None, []
    for ratio in ratios:
        tuned = folder / f"{full.sampler}-{full.steps}-{ratio}"
        if not tuned.exists():
            suite = suite or Suite(model, full, cycled(chosen(model, "search"), PICTURES))
            _keep(tuned, (yield from suite.at(ratio)))
        contenders += _kept(tuned) + learned(model, full, ratio)
    pairs = pairs_of(chosen(model, "evaluation"), pictures)
    file = folder / f"{full.sampler}-{full.steps}.parquet"
    rows = yield from evaluate(model, full, contenders, pairs, file, resume=True, keep=folder / "references", **options)
    return summary(rows, Jury.of(model).real)


def deepcaches(model: Any, full: Full) -> list[Contender]:
    """DeepCache at every interval and branch, each at the ratio it comes to."""
    found = []
    for branch, interval in itertools.product(range(deepest(model.graph("layer")) + 1), INTERVALS):
        config = CONFIGS["deepcache"](**vars(full), branch=branch, interval=interval)
        mask = finished(PRUNERS["deepcache"](model, [], config))
        settings = {"branch": branch, "interval": interval, "how": f"branch {branch}"}
        found.append(Contender("deepcache", full.sampler, full.steps, round(1 - mask.kept, 6), settings, mask=mask))
    return found


def learned(model: Any, full: Full, ratio: float, folder: Path | None = None) -> list[Contender]:
    """What comes with the project for this model and full run, or lies in `folder`, at `ratio`."""
    found = []
    for file, header in (shipped.headers_in(folder) if folder else shipped.headers(model.id)).items():
        if (header.sampler, header.steps) != (full.sampler, full.steps) or ratio > header.max_ratio:
            continue
        settings = header.pruner.config | {"how": file.stem}
        mask = Importance.load(file).at(ratio)
        found.append(Contender(header.pruner.name, full.sampler, full.steps, ratio, settings, mask=mask))
    return found


def _keep(folder: Path, contenders: list[Contender]) -> None:
    """Write tuned contenders, so that the folder appears when they are all there."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for number, contender in enumerate(contenders):
        if contender.mask is not None:
            contender.mask.save(part / f"{number}.safetensors")
    plain = [{name: value for name, value in vars(c).items() if name != "mask"} for c in contenders]
    (part / "contenders.json").write_text(json.dumps(plain, indent=1), encoding="utf-8")
    part.rename(folder)


def _kept(folder: Path) -> list[Contender]:
    plain = json.loads((folder / "contenders.json").read_text(encoding="utf-8"))
    files = [folder / f"{number}.safetensors" for number in range(len(plain))]
    return [
        Contender(**known, mask=Mask.load(file) if file.exists() else None)
        for known, file in zip(plain, files, strict=True)
    ]
