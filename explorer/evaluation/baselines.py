"""Few-step samplers with the same MACs, each with the better spacing of its timesteps: what a method must beat."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from explorer.evaluation.candidates import Candidate, ReferenceRun, make_samples
from explorer.evaluation.package_caches import CACHES, cache_candidate, check_installed
from explorer.models.model import Model
from explorer.models.prompts import repeat_to
from explorer.pruners.objective import Objective
from explorer.sampling.flow_matching import is_flow
from explorer.sampling.schedulers import equal_nfe_steps, num_function_evals

BASELINES: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "ddim-steps": ("ddim", {}),
        "dpm++-steps": ("dpm++", {"solver_order": 2}),
        "unipc-steps": ("unipc", {"solver_order": 2}),
        "unipc3-steps": ("unipc", {"solver_order": 3}),
        "deis-steps": ("deis", {"solver_order": 2}),
        "deis3-steps": ("deis", {"solver_order": 3}),
        "pndm-steps": ("pndm", {}),
        "euler-steps": ("euler", {}),
    }
)
TIMESTEP_SPACINGS = ("leading", "trailing")
FLOW_SHIFTS = (0.6, 1.0, 1.7, 3.0)  # of flow matching, which spaces noise levels by a factor
TUNING_IMAGES = 8


def check_baselines(names: Iterable[str]) -> None:
    """Raise ValueError for an unknown baseline, and for a cache whose package is not installed."""
    for name in names:
        if name in CACHES:
            check_installed(name)
        elif name not in BASELINES:
            raise ValueError(f"baseline {name!r} is unknown; choose one of {', '.join([*BASELINES, *CACHES])}")


def few_step_baseline(model: Model, name: str, reference: ReferenceRun, kept: float, objective: Objective) -> Candidate:
    """Make the baseline `name` at the number of calls that is nearest to the share `kept` of the full run's MACs.

    The spacing is the one that ends nearer to the full run on the pictures of `objective`. Raises ValueError for an
    unknown baseline, and where the sampler cannot make so few steps.
    """
    check_baselines([name])
    sampler, settings = BASELINES[name]
    calls = num_function_evals(reference.sampler, model.scheduler_config, reference.steps)
    steps, _ = equal_nfe_steps(sampler, model.scheduler_config, kept * calls)
    solvers = [dict(settings) | spacing for spacing in _spacings(sampler, model.scheduler_config)]
    losses = [objective.sampler_loss(sampler, steps, solver) for solver in solvers]
    best = solvers[losses.index(min(losses))]
    return Candidate(name, sampler, steps, ratio=round(1 - kept, 6), solver=best)


def _spacings(sampler: str, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the settings that space a sampler's timesteps."""
    if not is_flow(config):
        return [{"timestep_spacing": spacing} for spacing in TIMESTEP_SPACINGS]
    name = "shift" if sampler == "euler" else "flow_shift"
    return [{name: shift} for shift in FLOW_SHIFTS]


def few_step_baselines(
    model: Model,
    reference: ReferenceRun,
    kept: float,
    objective: Objective,
    names: Sequence[str] = tuple(BASELINES),
) -> list[Candidate]:
    """Make those of the baselines that can make so few steps. Raises ValueError for an unknown baseline."""
    check_baselines(names)
    candidates = []
    for name in names:
        with suppress(ValueError):
            candidates.append(few_step_baseline(model, name, reference, kept, objective))
    return candidates


def make_candidates(
    model: Model,
    reference: ReferenceRun,
    results: Sequence[Any],
    ratios: Sequence[float],
    baselines: Sequence[str],
    prompts: Sequence[str],
    seed: int = 0,
) -> list[Candidate]:
    """Make the candidates of an evaluation: masks as they are, importances at every ratio, baselines with the same
    MACs.

    Baselines are tuned on 8 pictures of `prompts`. Raises ValueError for an importance without a ratio, and for an
    unknown baseline.
    """
    importances = [result for result in results if result.header.kind == "importance"]
    if importances and not ratios:
        raise ValueError("an importance serves every ratio; say which with --ratio")
    masks = [result for result in results if result.header.kind == "mask"]
    masks += [importance.at(ratio) for importance in importances for ratio in ratios]
    candidates = [_candidate(reference, mask) for mask in masks]
    if baselines:
        check_baselines(baselines)
        run = (reference.sampler, reference.steps, reference.guidance)
        objective = Objective(model, repeat_to(prompts, TUNING_IMAGES), *run, seed)
        costs = [] if any(mask.prunes == "widths" for mask in masks) else [1 - ratio for ratio in ratios]
        for kept in costs or sorted({_macs_fraction(model, mask) for mask in masks}):
            few_steps = [name for name in baselines if name not in CACHES]
            candidates += few_step_baselines(model, reference, kept, objective, few_steps)
            samples = make_samples(prompts, TUNING_IMAGES, seed)
            caches = [name for name in baselines if name in CACHES]
            candidates += [cache_candidate(model, name, reference, kept, samples) for name in caches]
    return candidates


def _candidate(reference: ReferenceRun, mask: Any) -> Candidate:
    header = mask.header
    ratio, settings = header.ratio.asked, header.pruner.config
    if mask.prunes == "widths":
        return Candidate(header.pruner.name, reference.sampler, reference.steps, ratio, settings, widths=mask)
    return Candidate(header.pruner.name, header.sampler, header.steps, ratio, settings, mask=mask)


def _macs_fraction(model: Model, mask: Any) -> float:
    """Return the share of the full run's MACs; of widths it is counted on the pruned network."""
    if mask.prunes == "schedule":
        return mask.macs_fraction
    return model.prune_widths(mask).graph().macs_per_call / model.graph().macs_per_call
