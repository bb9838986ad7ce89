"""What the drawer "Use it" shows of a mask: lines of Python, commands, the file, what it saves. Loads no torch.

All of it is plain values: the browser writes them as text, and quotes the commands for a shell.
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from explorer import __version__
from explorer.bundled import gallery
from explorer.bundled import masks as bundled
from explorer.experiment import ExperimentRequest
from explorer.jobs import tasks
from explorer.jobs.executors.base import RunTask
from explorer.jobs.mask_library import MaskEntry, MaskLibrary
from explorer.masks.encoding import encode_bits
from explorer.masks.file_format import to_bytes
from explorer.masks.result import PruningResult, load
from explorer.models.catalogue import available_models
from explorer.pruners import PRUNERS, SAMPLER_TITLES, method_title
from explorer.ui import url_state
from explorer.ui.budgets import ENDING
from explorer.ui.markup import percent
from explorer.ui.views.masks import Selection, clamp_ratio, mask_of, trajectory_request
from explorer.ui.views.prune_command import file_name, learning_note, method_and_config, prune_command, python_lines

MAX_CELLS = 100_000  # of a map in the report
BY_HAND = "A schedule that was edited by hand fits this model alone; the command makes what it was edited from."
OF_UNKNOWN_METHOD = "No command makes this file again; this one skips whole calls at the same cost."


class Use(NamedTuple):
    """A mask that a tab shows, and what it is shown with."""

    place: str  # the tab
    request: ExperimentRequest  # model, prompt, seed, trajectory, ratio, baseline
    mask: Any  # the schedule or the widths
    result: PruningResult  # what the file holds: an importance, or the mask itself
    baseline: str = ""  # the run with the same cost; empty: as many calls as the cost allows
    baseline_kept: float = 0.0
    query: str = ""  # of the address that shows it; empty: the page's own
    generated: str = ""  # the sentence under pictures that are of this mask; empty: they always are
    edited: bool = False  # by hand


def use_of_request(run: RunTask, library: MaskLibrary | None, values: Mapping[str, Any]) -> Use:
    """Find what Explore shows for its controls. Raises ValueError for what is not valid, or not offered."""
    request, path = url_state.with_importance(values, library)
    planned = next(run(tasks.plan, request, path), None)
    if planned is None:
        raise ValueError(ENDING)
    importance = None
    if path:
        importance = load(path)
    elif PRUNERS[request.method].needs_weights:
        learned_for = (request.sampler, request.steps, request.settings)
        importance = bundled.find_schedule(request.model, request.method, *learned_for)
    edited = bool(request.manual_schedule)
    sampler = SAMPLER_TITLES[planned.baseline_sampler]
    return Use(
        *("explore", request, planned.schedule),
        result=planned.schedule if edited or importance is None else importance,
        baseline=f"{sampler}, {planned.baseline_steps} steps",
        baseline_kept=planned.baseline_kept,
        edited=edited,
    )


def use_of_file(place: str, entry: MaskEntry, selection: Selection, explore: Mapping[str, Any]) -> Use:
    """Find what a tab shows of a file, at a ratio; prompt, seed and baseline (`explore`) are those of Explore.

    Raises ValueError for a damaged file, and for one whose trajectory is none.
    """
    result, mask = entry.open(), mask_of(entry, selection)
    edited = bool(selection.manual_schedule) and mask.prunes == "schedule"
    query = ""
    shown = mask if edited else result
    if url_state.is_shown_by_explore(shown) and mask.header.model.id in available_models():
        query = url_state.explore_query(entry, shown, selection.ratio)
    request = trajectory_request(entry, selection, explore).model_copy(update={"method": entry.header.pruner.name})
    return Use(place, request, mask, mask if edited else result, query=query, edited=edited)


def drawer_json(use: Use) -> dict[str, Any]:
    """Write what the browser shows in the drawer, and what its report holds."""
    mask, request = use.mask, use.request
    header, is_importance = mask.header, use.result.header.kind == "importance"
    method, config = method_and_config(use.result.header, request)
    ratio = clamp_ratio(use.result.header, request.ratio) if is_importance else None
    name = file_name(header, ratio)
    commands = prune_command(method, config, use.result, mask, request, ratio)
    return {
        "place": use.place,
        "title": f"{_method(use, method)} on {header.model.id}, {_reached(mask)}",
        "python": python_lines(use.result, request, name, ratio),
        "file": {"name": name, "content": b64encode(to_bytes(use.result)).decode()},
        "holds": _holds(use),
        "commands": commands,
        "note": _note(use, method, commands),
        "saves": _saves(use),
        "generated": use.generated,
        "edited": use.edited,
        "map": _map(mask),
        "query": use.query,
        "report": _report(use),
    }


def _method(use: Use, method: str) -> str:
    if use.edited:
        return "A schedule edited by hand"
    return method_title(method) if method else method_title(use.result.header.pruner.name)


def _reached(mask: Any) -> str:
    if mask.prunes == "widths":
        return f"{percent(1 - mask.params_fraction)} of the parameters removed"
    return f"{percent(max(0.0, 1 - mask.macs_fraction))} of the arithmetic skipped"


def _holds(use: Use) -> str:
    """Say what the file is good for."""
    what = "schedule" if use.mask.prunes == "schedule" else "network"
    if use.result.header.kind == "importance":
        return f"An importance: it gives a {what} for every ratio. It is read, never run."
    return f"A mask: the {what} that is shown, at this ratio alone. It is read, never run."


def _note(use: Use, method: str, commands: list[list[str]]) -> str:
    if use.edited and method:
        return BY_HAND
    return learning_note(method, commands) if method else OF_UNKNOWN_METHOD


def _saves(use: Use) -> dict[str, Any]:
    """List what is left, next to the run of a plain sampler that costs the same."""
    mask, request = use.mask, use.request
    kept, calls = mask.macs_fraction, getattr(mask.header, "calls", request.steps)
    baseline, baseline_kept = use.baseline, use.baseline_kept
    if not baseline:
        left = max(1, round(kept * calls))
        baseline, baseline_kept = f"{SAMPLER_TITLES[request.baseline_sampler]}, {left} calls", left / calls
    return {
        "full": f"{SAMPLER_TITLES[request.sampler]}, {calls} calls",
        "kept": kept,
        "params": mask.params_fraction,
        "baseline": baseline,
        "baselineKept": baseline_kept,
        "hardware": _gallery_hardware(request.model),
    }


@lru_cache
def _gallery_hardware(model: str) -> str:
    """Name the machine on which the times of a model's gallery were measured."""
    manifest = gallery.GALLERIES / Path(model).name / gallery.MANIFEST
    try:
        return gallery.Manifest.model_validate_json(manifest.read_bytes()).hardware
    except (OSError, ValueError):
        return "a machine that is not known"


def _map(mask: Any) -> dict[str, Any] | None:
    """List which unit runs at which call, or which share of each layer stays."""
    if mask.prunes == "widths":
        return {"shares": [[name, float(keep.mean())] for name, keep in mask.keep.items()]}
    if mask.keep.size > MAX_CELLS:
        return None
    return {"units": list(mask.header.graph.names), "calls": mask.header.calls, "keep": encode_bits(mask.keep)}


def _report(use: Use) -> dict[str, Any]:
    """Collect all values, for a file."""
    header = use.result.header
    provenance = json.loads(header.model_dump_json(include={"model", "pruner", "versions", "created", "max_ratio"}))
    hidden = {"manual_schedule", "settings"}  # the map and the method's own settings say the same
    hidden |= {"method"} if use.place != "explore" else set()
    return {
        "made_with": f"Diffusion Pruning Explorer {__version__}",
        "request": use.request.model_dump(mode="json", exclude=hidden),
        "file": provenance,
        "kept_macs": use.mask.macs_fraction,
        "kept_params": use.mask.params_fraction,
        "edited_by_hand": use.edited,
    }
