"""Everything a learned method has to beat, each tuned as carefully.

For a ratio, every family of schedules tries all its settings on a few pictures of the search names, then the best one
with every extrapolation, and that goes into the evaluation; so do the few-step samplers with the better of two
spacings, and uniform calls without any tuning.
"""

import itertools
import json
import shutil
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from explorer.bundled import masks as bundled
from explorer.evaluation.baselines import few_step_baselines
from explorer.evaluation.candidates import Candidate, ReferenceRun, make_samples
from explorer.evaluation.evaluate import evaluate
from explorer.evaluation.scorers import Scorers
from explorer.evaluation.statistics import summarize
from explorer.masks.block_graph import Extrapolation
from explorer.masks.result import PruningResult
from explorer.masks.schedule import Schedule, ScheduleImportance
from explorer.models.model import Model
from explorer.models.prompts import repeat_to, split_names
from explorer.progress import Progress, run_to_completion
from explorer.pruners import PRUNERS, method_config
from explorer.pruners.baselines import max_branch
from explorer.pruners.objective import Objective
from explorer.pruners.spacing import SPACINGS

RATIOS = (0.1, 0.5, 0.7, 0.8, 0.9, 0.95)
RATIO_TOLERANCE = 0.03  # from the requested ratio: a method that gets no closer is left out there
TUNING_IMAGES = 8  # on which each setting is tried
BUDGET = 20  # candidates of each search
SEEDS = {"random": (0, 1, 2)}  # of random methods, so that no single draw decides
INTERVALS = range(2, 11)  # of DeepCache, when all of them are evaluated
EXTRAPOLATIONS = (Extrapolation(0), Extrapolation(1), Extrapolation(2), Extrapolation(1, 1), Extrapolation(2, 1))
GRANULARITIES = ("stage", "layer", "module")

# the settings that are tried of each family, before its extrapolation
GRIDS: dict[str, dict[str, Sequence[Any]]] = {
    "uniform": {"spacing": SPACINGS},
    "deepcache": {"branch": range(10)},
    "similarity": {"granularity": GRANULARITIES},
    "random": {"granularity": GRANULARITIES},
    "search": {},
}


class Suite:
    """The candidates for one full run. What serves every ratio is measured once."""

    def __init__(self, model: Model, reference: ReferenceRun, prompts: Sequence[str], budget: int = BUDGET):
        self.model, self.reference, self.prompts, self.budget = model, reference, list(prompts), budget
        self.objective = Objective(model, self.prompts, reference.sampler, reference.steps, reference.guidance)
        self._results: dict[str, PruningResult] = {}

    def candidates_at(self, ratio: float) -> Generator[Progress, None, list[Candidate]]:
        """Make all candidates for `ratio`; a family that cannot remove so much is left out."""
        candidates = few_step_baselines(self.model, self.reference, 1 - ratio, self.objective)
        untuned = self._schedule("uniform", {"spacing": "even"}, ratio)
        candidates.append(self._candidate("uniform", "as a coarser sampler", ratio, untuned))
        for number, (method, grid) in enumerate(GRIDS.items()):
            yield Progress(number, len(GRIDS), f"tuning {method} at {ratio}")
            candidates += self.tuned_candidates(method, ratio, grid)
        return candidates

    def tuned_candidates(self, method: str, ratio: float, grid: Mapping[str, Sequence[Any]]) -> list[Candidate]:
        """Find the best of a family at `ratio`, one per seed; none if the ratio is out of range."""
        return [self._candidate(method, "tuned", ratio, schedule) for schedule in self._best(method, grid, ratio)]

    def _best(self, method: str, grid: Mapping[str, Sequence[Any]], ratio: float) -> list[Schedule]:
        """Find the schedules (one per seed) whose pictures end nearest to the full run's; none if out of range."""
        settings = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        in_range = [schedules for values in settings if (schedules := self._schedules(method, values, ratio))]
        if not in_range:
            return []
        best = min(in_range, key=self._mean_loss)
        extrapolated = ([schedule.with_extrapolation(how) for schedule in best] for how in EXTRAPOLATIONS)
        return min(extrapolated, key=self._mean_loss)

    def _schedules(self, method: str, settings: Mapping[str, Any], ratio: float) -> list[Schedule]:
        """Make one schedule per seed; none if `ratio` is out of range."""
        seeds = SEEDS.get(method, (0,))
        try:
            return [self._schedule(method, {**settings, "seed": seed}, ratio) for seed in seeds]
        except ValueError:
            return []

    def _mean_loss(self, schedules: Sequence[Schedule]) -> float:
        return mean(self._loss(schedule) for schedule in schedules)

    def _loss(self, schedule: Schedule) -> float:
        graph = self.model.graph(schedule.header.granularity, schedule.header.reuse)
        return self.objective.schedule_loss(graph, schedule.keep, Extrapolation.of(schedule.header))

    def _schedule(self, method: str, settings: Mapping[str, Any], ratio: float) -> Schedule:
        """Make the schedule of a method at `ratio`. Raises ValueError where the method cannot remove so much."""
        defaults = vars(self.reference) | {"num_images": len(self.prompts), "budget": self.budget}
        defaults |= {"ratio": None if method == "similarity" else ratio}  # which measures once what serves all ratios
        key = repr((method, sorted((defaults | dict(settings)).items())))
        if key not in self._results:
            config = method_config(method, settings, defaults)
            self._results[key] = run_to_completion(PRUNERS[method].run(self.model, self.prompts, config))
        schedule = self._results[key].at(ratio)
        reached = 1 - schedule.macs_fraction
        if abs(reached - ratio) > RATIO_TOLERANCE:
            raise ValueError(f"{method} comes no nearer to {ratio} than {reached:.3f}")
        return schedule

    def _candidate(self, method: str, how: str, ratio: float, schedule: Schedule) -> Candidate:
        settings = schedule.header.pruner.config | {"how": how}
        return Candidate(method, self.reference.sampler, self.reference.steps, ratio, settings, mask=schedule)


def run(
    model: Model,
    reference: ReferenceRun,
    folder: Path,
    num_images: int,
    ratios: Sequence[float] = RATIOS,
    **options: Any,
) -> Generator[Progress, None, pd.DataFrame]:
    """Tune all candidates at every ratio, evaluate them on the same pictures, and return the summary.

    Pictures are of the evaluation names, tuning sees the search names. What is in `folder` already (the candidates of a
    ratio once they are tuned, rows of the evaluation) is taken as it is. `options` are those of `evaluate`.
    """
    suite, candidates = None, []
    for ratio in ratios:
        tuned = folder / f"{reference.sampler}-{reference.steps}-{ratio}"
        if not tuned.exists():
            suite = suite or Suite(model, reference, repeat_to(split_names(model, "search"), TUNING_IMAGES))
            _save_candidates(tuned, (yield from suite.candidates_at(ratio)))
        candidates += _load_candidates(tuned) + bundled_candidates(model, reference, ratio)
    samples = make_samples(split_names(model, "evaluation"), num_images)
    file = folder / f"{reference.sampler}-{reference.steps}.parquet"
    options = dict[str, Any](resume=True, keep=folder / "references") | options
    rows = yield from evaluate(model, reference, candidates, samples, file, **options)
    return summarize(rows, Scorers.of(model).real)


def deepcache_candidates(model: Model, reference: ReferenceRun) -> list[Candidate]:
    """Make DeepCache at every interval and branch, each at the ratio that it reaches."""
    candidates = []
    for branch, interval in itertools.product(range(max_branch(model.graph("layer")) + 1), INTERVALS):
        settings: dict[str, Any] = {"branch": branch, "interval": interval}
        config = method_config("deepcache", settings, vars(reference))
        mask: Any = run_to_completion(PRUNERS["deepcache"].run(model, [], config))
        ratio, settings = round(1 - mask.macs_fraction, 6), settings | {"how": f"branch {branch}"}
        candidates.append(Candidate("deepcache", reference.sampler, reference.steps, ratio, settings, mask=mask))
    return candidates


def bundled_candidates(
    model: Model, reference: ReferenceRun, ratio: float, folder: Path | None = None
) -> list[Candidate]:
    """Make candidates at `ratio` of the files that are bundled for this model and full run, or of those in `folder`."""
    candidates = []
    headers = bundled.headers_in(folder) if folder else bundled.schedule_headers(model.id)
    for file, header in headers.items():
        if (header.sampler, header.steps) != (reference.sampler, reference.steps) or ratio > header.max_ratio:
            continue
        settings, mask = header.pruner.config | {"how": file.stem}, ScheduleImportance.load(file).at(ratio)
        candidates.append(Candidate(header.pruner.name, reference.sampler, reference.steps, ratio, settings, mask=mask))
    return candidates


def _save_candidates(folder: Path, candidates: Sequence[Candidate]) -> None:
    """Write tuned candidates; the folder appears when all of them are written."""
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for number, candidate in enumerate(candidates):
        if candidate.mask is not None:
            candidate.mask.save(temporary / f"{number}.safetensors")
    documents = [{name: value for name, value in vars(one).items() if name != "mask"} for one in candidates]
    (temporary / "candidates.json").write_text(json.dumps(documents, indent=1), encoding="utf-8")
    temporary.rename(folder)


def _load_candidates(folder: Path) -> list[Candidate]:
    documents = json.loads((folder / "candidates.json").read_text(encoding="utf-8"))
    files = [folder / f"{number}.safetensors" for number in range(len(documents))]
    return [
        Candidate(**document, mask=Schedule.load(file) if file.exists() else None)
        for document, file in zip(documents, files, strict=True)
    ]
