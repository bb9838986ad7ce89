"""How far each method could prune a network: the largest ratio, from the architecture alone."""

from typing import Any, NamedTuple, get_args

from explorer.models.model import Model
from explorer.progress import run_to_completion
from explorer.pruners import PRUNERS, method_config, methods_for

MAX_TRACED_PARAMS = 100e6  # above, it takes long to find which channels hang together


class Furthest(NamedTuple):
    """The largest ratio of a method; None where it prunes no such network, or where that is not counted."""

    method: str
    axis: str  # of widths: what is removed
    ratio: float | None
    reason: str = ""  # why there is none


def furthest_ratios(model: Model, steps: int) -> list[Furthest]:
    """List the largest ratio of every method for schedules, over a trajectory of so many steps, and for widths."""
    schedules = [Furthest(name, "", *_of_schedule(model, name, steps)) for name in methods_for("schedule")]
    axes = {axis: _of_widths(model, axis) for axis in _axes("random-width")}
    widths = [name for name in methods_for("widths") if not PRUNERS[name].reads_files]
    return schedules + [Furthest(name, axis, *axes[axis]) for name in widths for axis in _axes(name)]


def _axes(method: str) -> tuple[str, ...]:
    return get_args(PRUNERS[method].config.model_fields["axis"].annotation)


def _of_schedule(model: Model, method: str, steps: int) -> tuple[float | None, str]:
    """Compute the largest ratio of a schedule. What a method learns is an order over all units, as a random one is."""
    return _largest(model, "random" if PRUNERS[method].needs_weights else method, {"steps": steps})


def _of_widths(model: Model, axis: str) -> tuple[float | None, str]:
    if axis == "channels" and model.architecture().params > MAX_TRACED_PARAMS:
        return None, "not counted here: it takes long"
    return _largest(model, "random-width", {"axis": axis})


def _largest(model: Model, method: str, settings: dict[str, Any]) -> tuple[float | None, str]:
    try:
        return run_to_completion(PRUNERS[method].run(model, [], method_config(method, settings))).max_ratio, ""
    except ValueError as error:
        return None, str(error)
