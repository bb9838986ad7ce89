"""Few-step samplers that cost the same MACs, each with the better spacing of its timesteps: what a method must beat."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from explorer import trajectory
from explorer.evidence.evaluation import Contender, Full
from explorer.masks import Importance, Mask, Result
from explorer.prompts import cycled
from explorer.trials import Trials
from explorer.widths import WidthImportance, Widths

RIVALS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "ddim-steps": ("ddim", {}),
        "dpm++-steps": ("dpm++", {"solver_order": 2}),
        "unipc-steps": ("unipc", {"solver_order": 2}),
        "unipc3-steps": ("unipc", {"solver_order": 3}),
        "deis-steps": ("deis", {"solver_order": 2}),
        "deis3-steps": ("deis", {"solver_order": 3}),
        "pndm-steps": ("pndm", {}),
    }
)
SPACINGS = ("leading", "trailing")


def few_steps(model: Any, name: str, full: Full, kept: float, trials: Trials) -> Contender:
    """The rival `name` at the number of calls that comes nearest to the share `kept` of the full run's MACs.

    The spacing is the one that ends nearer to the full run on the pictures of `trials`. Raises ValueError for an
    unknown rival, and where the sampler can make no such number of steps.
    """
    if name not in RIVALS:
        raise ValueError(f"rival {name!r} is unknown; choose one of {', '.join(RIVALS)}")
    sampler, settings = RIVALS[name]
    calls = trajectory.calls_of(full.sampler, model.scheduler_config, full.steps)
    steps, _ = trajectory.equal_steps(sampler, model.scheduler_config, kept * calls)
    solvers = [dict(settings) | {"timestep_spacing": spacing} for spacing in SPACINGS]
    losses = [trials.sampler_loss(sampler, steps, solver) for solver in solvers]
    best = solvers[losses.index(min(losses))]
    return Contender(name, sampler, steps, ratio=round(1 - kept, 6), solver=best)


def all_at(
    model: Any, full: Full, kept: float, trials: Trials, names: Sequence[str] = tuple(RIVALS)
) -> list[Contender]:
    """Those of the rivals that can make so few steps."""
    found = []
    for name in names:
        try:
            found.append(few_steps(model, name, full, kept, trials))
        except ValueError:
            if name not in RIVALS:
                raise
    return found


def contenders(
    model: Any,
    full: Full,
    files: Sequence[Result | Widths | WidthImportance],
    ratios: Sequence[float],
    rivals: Sequence[str],
    prompts: Sequence[str],
    seed: int = 0,
) -> list[Contender]:
    """Who stands in an evaluation: masks and widths as they are, importances at every ratio, rivals that cost as much.

    Rivals are tuned on 8 pictures of `prompts`. Raises ValueError for an importance without a ratio, and for an unknown
    rival.
    """
    orders = [file for file in files if isinstance(file, (Importance, WidthImportance))]
    if orders and not ratios:
        raise ValueError("an importance serves every ratio; say which with --ratio")
    decided = [file for file in files if isinstance(file, (Mask, Widths))]
    decided += [order.at(ratio) for order in orders for ratio in ratios]
    found = [_standing(full, one) for one in decided]
    if rivals:
        trials = Trials(model, cycled(prompts, 8), full.sampler, full.steps, full.guidance, seed)
        smaller = [one for one in decided if isinstance(one, Widths)]
        costs = [] if smaller else [1 - ratio for ratio in ratios]
        for kept in costs or sorted({_macs(model, one) for one in decided}):
            found += all_at(model, full, kept, trials, rivals)
    return found


def _standing(full: Full, decided: Mask | Widths) -> Contender:
    header = decided.header
    about = (header.ratio.asked, header.pruner.config)
    if isinstance(decided, Widths):
        return Contender(header.pruner.name, full.sampler, full.steps, *about, widths=decided)
    return Contender(header.pruner.name, header.sampler, header.steps, *about, mask=decided)


def _macs(model: Any, decided: Mask | Widths) -> float:
    """Share of the full run's MACs."""
    if isinstance(decided, Mask):
        return decided.kept
    return decided.narrowed(model).graph().macs_per_call / model.graph().macs_per_call
