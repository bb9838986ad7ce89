"""What learned extrapolation brings: to whole calls at both ends, to planned calls and to what is shipped.

Everybody is tuned alike: all settings on a few pictures of names for tuning, the best of them on more, by the mean
fidelity in dB.
"""

import itertools
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from explorer import experiment
from explorer.bundled import masks as bundled
from explorer.evaluation.candidates import Candidate, ReferenceRun
from explorer.masks.block_graph import Extrapolation
from explorer.masks.schedule import Schedule
from explorer.models.model import Model
from explorer.models.prompts import repeat_to, split_names
from explorer.progress import Progress, run_to_completion
from explorer.pruners import PRUNERS, method_config
from explorer.pruners.call_planning import CallPlanner
from explorer.pruners.full_run import measure_batch
from explorer.pruners.learned_extrapolation import learn_extrapolation
from explorer.pruners.objective import Objective
from explorer.pruners.planned import schedule_of_plan
from explorer.pruners.schedule_configs import ExtrapolationConfig, PlannedConfig
from explorer.studies.baseline_suite import EXTRAPOLATIONS, bundled_candidates
from explorer.studies.head_to_head import RATIOS
from explorer.studies.result_files import Report

SCREENING_IMAGES, TUNING_IMAGES, TUNING_SEED = 8, 32, 2**29
FINALISTS = 4  # of each family, that are compared on TUNING_IMAGES
GAINS, ERRORS = ("step", "open", "closed"), ("squares", "landing")
PLANNED_FOR = (Extrapolation(0), Extrapolation(1), Extrapolation(1, 1))
PLAN_IMAGES = 8


class Tuning:
    """The names for tuning, and the best of some schedules on them."""

    def __init__(self, model: Model, reference: ReferenceRun):
        self.model, self.reference = model, reference
        self.names = split_names(model, "search")
        run = (reference.sampler, reference.steps, reference.guidance)
        self.objective = Objective(model, repeat_to(self.names[::-1], TUNING_IMAGES), *run, seed=TUNING_SEED)
        self._full_runs = {
            gain: measure_batch(
                model, repeat_to(self.names, PLAN_IMAGES), 0, PlannedConfig(**vars(reference), gain=gain)
            )
            for gain in GAINS
        }

    def best(self, schedules: list[Schedule]) -> Schedule:
        """Find the one that comes nearest to the full run."""
        screened = sorted(schedules, key=lambda one: -self.objective.fidelity(one, SCREENING_IMAGES))
        return max(screened[:FINALISTS], key=self.objective.fidelity)

    def learned(self, schedule: Any) -> Schedule:
        """Fit the coefficients of a schedule."""
        return run_to_completion(learn_extrapolation(self.model, schedule, self.names, ExtrapolationConfig()))

    def whole_calls(self, ratio: float) -> list[Schedule]:
        """Make whole calls at both ends."""
        config = method_config("uniform", {"spacing": "ends", "ratio": ratio}, vars(self.reference))
        mask: Any = run_to_completion(PRUNERS["uniform"].run(self.model, [], config))
        return [mask]

    def plans(self, ratio: float) -> Iterator[Schedule]:
        """Make a plan for every gain, error and extrapolation that is planned for."""
        for gain, error, extrapolation in itertools.product(GAINS, ERRORS, PLANNED_FOR):
            settings = {"gain": gain, "error": error, "ratio": ratio, **extrapolation._asdict()}
            config = method_config("planned", settings, vars(self.reference))
            planner = CallPlanner(*self._full_runs[gain], *extrapolation, landing=error == "landing")
            yield schedule_of_plan(self.model, planner, config)


def with_learned_extrapolation(
    model: Model, reference: ReferenceRun, ratios: Sequence[float] = RATIOS
) -> Generator[Progress, None, list[Candidate]]:
    """Make whole calls at both ends and planned ones, each with the best polynomial and with learned coefficients, and
    the bundled schedules with theirs."""
    tuning, candidates = Tuning(model, reference), []
    for number, ratio in enumerate(ratios):
        for family, schedules in (("uniform", tuning.whole_calls(ratio)), ("planned", [*tuning.plans(ratio)])):
            yield Progress(number, len(ratios), f"{family} at {ratio:.0%}")
            distinct = {one.keep.tobytes(): one for one in schedules}.values()
            polynomials = [one.with_extrapolation(how) for one in distinct for how in EXTRAPOLATIONS]
            fitted = [tuning.learned(one.with_extrapolation(Extrapolation(1, 1))) for one in distinct]
            for how, found in (("polynomial", tuning.best(polynomials)), ("learned", tuning.best(fitted))):
                candidates.append(_candidate(family, reference, ratio, how, found))
        for shipped in bundled_candidates(model, reference, ratio):
            candidates.append(shipped)
            if shipped.settings["reuse"] == "residual" or shipped.settings.get("extrapolation") == "learned":
                continue  # changes are not combined, and once is enough
            how = f"{shipped.settings['how']}, learned"
            learned = tuning.learned(shipped.result)
            candidates.append(_candidate(shipped.method, reference, ratio, how, learned))
    return candidates


def bundle_plan(model: Model, reference: ReferenceRun, report: Report) -> None:
    """Plan calls for a full run and fit their coefficients, unless that is bundled already."""
    out = bundled.SCHEDULES / model.id / f"planned-{reference.sampler}-{reference.steps}.safetensors"
    if out.exists():
        return
    planned = experiment.prune(model, "planned", method_config("planned", {}, vars(reference)))
    order: Any = run_to_completion(planned, report)
    run_to_completion(learn_extrapolation(model, order, (), ExtrapolationConfig()), report).save(out)


def _candidate(method: str, reference: ReferenceRun, ratio: float, how: str, schedule: Schedule) -> Candidate:
    settings = schedule.header.pruner.config | {"how": how}
    return Candidate(method, reference.sampler, reference.steps, ratio, settings, mask=schedule)
