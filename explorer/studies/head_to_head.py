"""What was learned, compared with the strongest baselines alone, on more pictures than all candidates can generate.

The baselines come from results that are there already: the strongest families at each ratio, rebuilt from what their
rows say.
"""

import itertools
import json
import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import pandas as pd

from explorer.evaluation.baselines import BASELINES, few_step_baselines
from explorer.evaluation.candidates import Candidate, ReferenceRun, make_samples
from explorer.evaluation.package_caches import CACHES, cache_candidate, is_installed
from explorer.masks.block_graph import Extrapolation
from explorer.masks.schedule import Schedule
from explorer.models.model import Model
from explorer.models.prompts import repeat_to, split_names
from explorer.progress import Progress, run_to_completion
from explorer.pruners import PRUNERS, method_config
from explorer.pruners.objective import Objective
from explorer.sampling.flow_matching import is_flow
from explorer.sampling.schedulers import num_function_evals
from explorer.studies.baseline_suite import EXTRAPOLATIONS, GRIDS, TUNING_IMAGES, Suite, bundled_candidates
from explorer.studies.report import MEASURE, with_names

RATIOS = (0.5, 0.7, 0.8, 0.9)
CACHE_RATIOS = (0.5, 0.75)
CACHE_TUNING_IMAGES = 16
NUM_FAMILIES = 2  # of baselines at each ratio
FEW_STEPS = ("unipc-steps",)  # the strongest few-step sampler where results are known
ALL_FEW_STEPS = ("ddim-steps", "dpm++-steps", "unipc-steps")
FLOW_FEW_STEPS = ("euler-steps", "dpm++-steps", "unipc-steps")


def with_strongest_baselines(
    model: Model, reference: ReferenceRun, rows: pd.DataFrame
) -> Generator[Progress, None, list[Candidate]]:
    """Make the bundled candidates and the strongest baselines of `rows`, at every ratio."""
    candidates = []
    for number, ratio in enumerate(RATIOS):
        yield Progress(number, len(RATIOS), f"baselines at {ratio:.0%}")
        candidates += bundled_candidates(model, reference, ratio)
        candidates += [rebuild(model, reference, row) for row in top_families(rows, ratio)]
    return candidates


def with_two_baselines(model: Model, reference: ReferenceRun) -> Generator[Progress, None, list[Candidate]]:
    """Make the bundled candidates for a full run without earlier results, and two baselines, tuned as carefully.

    They are whole calls, and the few-step sampler that is the strongest elsewhere.
    """
    suite = Suite(model, reference, repeat_to(split_names(model, "search"), TUNING_IMAGES))
    candidates = []
    for number, ratio in enumerate(RATIOS):
        yield Progress(number, len(RATIOS), f"baselines at {ratio:.0%}")
        candidates += bundled_candidates(model, reference, ratio)
        candidates += suite.tuned_candidates("uniform", ratio, GRIDS["uniform"])
        candidates += few_step_baselines(model, reference, 1 - ratio, suite.objective, FEW_STEPS)
    return candidates


def with_fixed_baselines(
    model: Model, reference: ReferenceRun, ratios: Sequence[float] = RATIOS
) -> Generator[Progress, None, list[Candidate]]:
    """Make the bundled candidates, whole calls at both ends with each extrapolation, and three few-step samplers, at
    those of the ratios that one whole call leaves.

    Nothing but the samplers' spacing is chosen, so that no choice on a few pictures weakens a baseline.
    """
    prompts = repeat_to(split_names(model, "search"), TUNING_IMAGES)
    objective = Objective(model, prompts, reference.sampler, reference.steps, reference.guidance)
    few_steps = FLOW_FEW_STEPS if is_flow(model.scheduler_config) else ALL_FEW_STEPS
    calls = num_function_evals(reference.sampler, model.scheduler_config, reference.steps)
    ratios = [ratio for ratio in ratios if ratio <= 1 - 1 / calls]
    candidates = []
    for number, ratio in enumerate(ratios):
        yield Progress(number, len(ratios), f"baselines at {ratio:.0%}")
        candidates += bundled_candidates(model, reference, ratio) + _whole_calls(model, reference, ratio)
        candidates += few_step_baselines(model, reference, 1 - ratio, objective, few_steps)
    return candidates


def with_caches(model: Model, reference: ReferenceRun) -> Generator[Progress, None, list[Candidate]]:
    """Make the bundled candidates, whole calls at both ends with each extrapolation, and the caches of other packages
    that are installed, each tuned to as many MACs on average."""
    prompts = repeat_to(split_names(model, "search"), CACHE_TUNING_IMAGES)
    samples = make_samples(prompts, CACHE_TUNING_IMAGES)
    kinds = [kind for kind in CACHES if is_installed(kind)]
    candidates = []
    for number, (ratio, kind) in enumerate(itertools.product(CACHE_RATIOS, kinds)):
        yield Progress(number, len(CACHE_RATIOS) * len(kinds), f"{kind} at {ratio:.0%}")
        if kind == kinds[0]:
            candidates += bundled_candidates(model, reference, ratio) + _whole_calls(model, reference, ratio)
        candidates.append(cache_candidate(model, kind, reference, 1 - ratio, samples))
    return candidates


def _whole_calls(model: Model, reference: ReferenceRun, ratio: float) -> list[Candidate]:
    """Make whole calls at both ends with each extrapolation."""
    candidates = []
    for extrapolation in EXTRAPOLATIONS:
        settings = {"spacing": "ends", **extrapolation._asdict()}
        config = method_config("uniform", settings | {"ratio": ratio}, vars(reference))
        mask: Any = run_to_completion(PRUNERS["uniform"].run(model, [], config))
        run = (reference.sampler, reference.steps, ratio, settings | {"how": "fixed"})
        candidates.append(Candidate("uniform", *run, mask=mask))
    return candidates


def top_families(rows: pd.DataFrame, ratio: float, count: int = NUM_FAMILIES) -> list[Any]:
    """Return a row of each of the `count` families that come nearest to the full run at `ratio`; DiP-GO, which is
    compared with them, is left out."""
    own = with_names(rows)
    own = own[(own.ratio == ratio) & (own.method != "dipgo")]
    best = own.groupby("key")[MEASURE].mean().sort_values(ascending=False).index
    first_rows = own.drop_duplicates("key").set_index("key", drop=False).loc[best]
    return list(first_rows.drop_duplicates("method").head(count).itertuples(index=False))


def rebuild(model: Model, reference: ReferenceRun, row: Any) -> Candidate:
    """Build the candidate of a row again. Raises ValueError where it is no longer the same."""
    settings = json.loads(row.settings)
    if row.method in BASELINES:
        candidate = Candidate(row.method, row.sampler, int(row.steps), row.ratio, solver=settings)
    else:
        mask = _tuned_schedule(model, row.method, settings, row.ratio)
        candidate = Candidate(row.method, mask.header.sampler, mask.header.steps, row.ratio, settings, mask=mask)
    if not _agrees(candidate, model, reference, row):
        raise ValueError(f"{row.method} at {row.ratio} is no longer built as in these results; evaluate it again")
    return candidate


def _agrees(candidate: Candidate, model: Model, reference: ReferenceRun, row: Any) -> bool:
    """Compare a candidate with a row. Keys are not compared: those of older results were made of older names."""
    calls = num_function_evals(reference.sampler, model.scheduler_config, reference.steps)
    costs, settings = candidate.costs(model, calls), json.loads(row.settings)
    if any(costs[name] != getattr(row, name) for name in ("method", "sampler", "steps")):
        return False
    made = candidate.solver if candidate.mask is None else candidate.mask.header.pruner.config
    if any(made.get(name) != value for name, value in settings.items() if name != "how"):
        return False
    return math.isclose(costs["kept"], row.kept, abs_tol=1e-6)  # published rows are in single precision


def _tuned_schedule(model: Model, method: str, settings: Mapping[str, Any], ratio: float) -> Schedule:
    """Make a schedule as the suite tunes it: with order 0 first, its extrapolation afterwards."""
    fields = {name: value for name, value in settings.items() if name != "how"}
    extrapolation = Extrapolation(fields["order"], fields.get("max_extrapolation"))
    config = method_config(method, fields | Extrapolation()._asdict())
    prompts = repeat_to(split_names(model, "search"), TUNING_IMAGES)
    schedule = run_to_completion(PRUNERS[method].run(model, prompts, config)).at(ratio)
    return schedule.with_extrapolation(extrapolation)
