"""What the Masks tab shows of files: in a list, as a heatmap or bars, compared with another one, and their pictures."""

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from html import escape
from time import localtime, strftime
from typing import Any, NamedTuple

from explorer import figures
from explorer.experiment import ExperimentRequest
from explorer.jobs import tasks
from explorer.jobs.executors.base import RunTask
from explorer.jobs.mask_library import MaskEntry, MaskLibrary, bundled_entries
from explorer.masks.encoding import encode_bits
from explorer.masks.file_format import FileHeader, to_bytes
from explorer.masks.result import PruningResult
from explorer.masks.schedule import Schedule
from explorer.masks.width import Widths
from explorer.pruners import SAMPLER_TITLES, is_published, method_title
from explorer.sampling.generate import Frame
from explorer.ui import url_state
from explorer.ui.components import figure_json, user_errors
from explorer.ui.markup import cards, percent, provenance, throttle, tiles, width_tiles, width_title
from explorer.ui.views.heatmap import graph_json
from explorer.ui.views.prune_command import slug

FIRST_SHOWN = "emoji-unet/dipgo-ddim-50"  # where no mask is chosen
RULES = ("uniform", "random")
RULE = "rule:"  # before one of them
FIRST_RATIOS = {"schedule": 0.5, "widths": 0.2}  # at which an importance is shown first
MAX_CELLS = 40_000  # of a heatmap
NAMED_BY_VISITOR = ("uploaded", "manual")  # sources


class Selection(NamedTuple):
    """What is shown: a file, a ratio for an importance, the schedule where it was edited, a file to compare with."""

    id: str
    ratio: float
    manual_schedule: str = ""
    other: str | None = None


def list_rows(library: MaskLibrary, owner: str, which: str) -> list[dict[str, Any]]:
    """List files, the visitor's own first, newest first; `which` is all, bundled or yours."""
    entries = library.owned_by(owner) if which != "bundled" else []
    rows = []
    for entry in entries + (bundled_entries() if which != "yours" else []):
        name, model = f"{entry.name}\n{entry.source}", "damaged"
        with user_errors():
            published = "published, " if is_published(entry.header.pruner.name) else ""
            what = f"{what_it_is(entry.header)}, {published}{entry.source}"
            name, model = f"{title(entry)}\n{what}", entry.header.model.id
        made = strftime("%d %b %Y", localtime(entry.created))
        rows.append({"id": entry.id, "cells": [name, model, made]})
    return rows


def head(entry: MaskEntry, header: FileHeader) -> str:
    """Say what a file is, and folded, where the mask with this `header` comes from."""
    said = f"{method_title(header.pruner.name)}: {what_it_is(entry.header)}, {entry.source}"
    details = (
        f"<details class='numbers'><summary>Where it comes from</summary>{provenance(header, entry.source)}</details>"
    )
    return f"<h2>{escape(title(entry))}</h2><p>{escape(said)}</p>{details}"


def what_it_is(header: Any) -> str:
    """Say in words what a file holds: a schedule or widths, for one ratio or every ratio."""
    ratios = "every ratio" if header.kind == "importance" else "one ratio"
    if header.prunes == "widths":
        return f"widths, {ratios}"
    how = ", learned coefficients" if header.is_learned else ""
    return f"schedule of {SAMPLER_TITLES[header.sampler]}, {header.steps} steps, {ratios}{how}"


def title(entry: MaskEntry) -> str:
    """Name a file; widths that no visitor named by what they are."""
    by_visitor = entry.source in NAMED_BY_VISITOR
    return width_title(entry.header) if entry.header.prunes == "widths" and not by_visitor else entry.name


def clamp_ratio(header: FileHeader, ratio: float | None) -> float:
    """Limit a ratio to what a file can reach. Raises ValueError where a client sent none."""
    if ratio is None:
        raise ValueError("choose a ratio first")
    return min(max(float(ratio), 0.0), header.max_ratio)


def mask_of(entry: MaskEntry, selection: Selection) -> Any:
    """Find the mask that is shown: a file at a ratio, as it was edited by hand. Raises ValueError if it is damaged."""
    result = entry.open()
    mask = result.at(clamp_ratio(result.header, selection.ratio))
    edited = selection.manual_schedule and mask.prunes == "schedule"
    return mask.with_manual_keep(selection.manual_schedule) if edited else mask


def schedule_of(entry: MaskEntry, selection: Selection) -> Schedule:
    """Find the schedule that is shown. Raises ValueError for widths."""
    mask = mask_of(entry, selection)
    if mask.prunes != "schedule":
        raise ValueError("heads, neurons and channels are for all calls; this is for schedules")
    return mask


def comparison_choices(library: MaskLibrary, entry: MaskEntry, owner: str) -> list[tuple[str, str]]:
    """List what a file can be compared with: others for the same model, and for a schedule also the rules."""
    header = entry.header
    files = [
        (f"{title(other)} ({other.source})", other.id)
        for other in [*library.owned_by(owner), *bundled_entries()]
        if other.id != entry.id and _is_comparable(header, other)
    ]
    return [(f"{rule}, same cost", RULE + rule) for rule in RULES if header.prunes == "schedule"] + files


def _is_comparable(header: FileHeader, other: MaskEntry) -> bool:
    """Tell whether another file is for the same model, and for widths also of the same dimensions."""
    with user_errors():
        second = other.header
        if (header.prunes, header.model.id) != (second.prunes, second.model.id):
            return False
        return header.prunes == "schedule" or _sizes(header) == _sizes(second)
    return False


def _sizes(header: Any) -> list[tuple[str, int]]:
    return [(dim.name, dim.size) for dim in header.dims]


def comparison(run: RunTask, library: MaskLibrary, entry: MaskEntry, selection: Selection) -> tuple[str, Any] | None:
    """Find name and mask of the file to compare with, if one is chosen. Raises ValueError where it is missing."""
    if not selection.other:
        return None
    if not selection.other.startswith(RULE):
        other = library.find(selection.other)
        return title(other), mask_of(other, Selection(other.id, selection.ratio))
    plan = next(run(tasks.plan, rule_request(entry, selection, {"prompt": "-"})), None)
    if plan is None:  # a newer run of this visitor ended it
        return None
    return selection.other.removeprefix(RULE), plan.schedule


def rule_request(entry: MaskEntry, selection: Selection, explore: Mapping[str, Any]) -> ExperimentRequest:
    """Make the request by which a rule removes as much as the schedule that is shown."""
    header, kept = entry.header, schedule_of(entry, selection).macs_fraction
    settings = {name: getattr(header, name) for name in ("granularity", "reuse", "order", "max_extrapolation")}
    request = file_request(entry, Selection(entry.id, selection.ratio), explore)
    changes = {"method": str(selection.other).removeprefix(RULE), "settings": settings, "ratio": max(0.0, 1 - kept)}
    return url_state.check_offered(ExperimentRequest(**request.model_dump() | changes))


def file_request(entry: MaskEntry, selection: Selection, explore: Mapping[str, Any]) -> ExperimentRequest:
    """Make the request that a file answers, as `trajectory_request`. Raises ValueError where its model is not here."""
    return url_state.check_offered(trajectory_request(entry, selection, explore))


def trajectory_request(entry: MaskEntry, selection: Selection, explore: Mapping[str, Any]) -> ExperimentRequest:
    """Make the request of a file, with its trajectory, and the prompt, the seed and the baseline of Explore."""
    header = entry.header
    names = ("steps", "sampler", "guidance")
    trajectory = {name: getattr(header, name, header.pruner.config.get(name)) for name in names}
    trajectory = {name: value for name, value in trajectory.items() if value is not None}
    ratio = clamp_ratio(header, selection.ratio)
    manual = {"manual_schedule": selection.manual_schedule}
    return ExperimentRequest(model=header.model.id, ratio=ratio, **manual, **trajectory, **explore)


def schedule_json(mask: Schedule, other: tuple[str, Schedule] | None) -> dict[str, Any] | None:
    """Write a schedule, and one to compare with, as the browser reads them; None for one that is too large to show."""
    if mask.keep.size > MAX_CELLS:
        return None
    graph = mask.header.graph
    value = {"graph": graph_json(graph), "keep": encode_bits(mask.keep), "timesteps": list(range(mask.header.calls))}
    if other is None:
        return value | {"other": None}
    name, second = other
    same_cells = second.keep.shape == mask.keep.shape and second.header.graph.names == graph.names
    keep = encode_bits(second.keep) if same_cells else None
    return value | {"other": {"name": name, "keep": keep, "kept": second.macs_fraction}}


def size_note(mask: Schedule) -> str:
    """Describe a schedule that is too large to show."""
    if mask.keep.size <= MAX_CELLS:
        return ""
    size = f"{mask.header.calls:,} calls of {len(mask.header.units):,} units"
    return f"<p>{size} are too many to show; {percent(mask.macs_fraction)} of the MACs stay.</p>"


def width_summary(widths: Widths, other: tuple[str, Widths] | None) -> str:
    """Show what is left of a network, and how another one differs."""
    if other is None:
        return width_tiles(widths)
    name, second = other
    differing = {dim: int((keep ^ second.keep[dim]).sum()) for dim, keep in widths.keep.items()}
    most = max(differing, key=differing.__getitem__)
    where = f"most in {most} ({differing[most]})" if differing[most] else "nowhere: they are the same"
    return width_tiles(widths) + tiles(
        [
            ("elements that differ", f"{sum(differing.values()):,}", where),
            ("parameters there", percent(second.params_fraction), f"in {name}; {percent(widths.params_fraction)} here"),
            ("MACs there", percent(second.macs_fraction), f"of a call; {percent(widths.macs_fraction)} here"),
        ]
    )


def width_figures(widths: Widths) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw the heads that stay, and the share of neurons or channels that stays in each layer."""
    return figure_json(figures.head_map(widths.keep)), figure_json(figures.share_bars(widths.keep))


def file_json(entry: MaskEntry, result: PruningResult) -> str:
    """Write a file for the browser to save: its name and its bytes, as JSON."""
    name = slug(entry.name) or "mask"
    reached = result.header.ratio.reached
    ratio = "" if result.header.kind == "importance" or reached is None else f"-{100 * reached:.0f}"
    content = b64encode(to_bytes(result)).decode()
    return json.dumps({"name": f"{name}{ratio}.safetensors", "content": content})


def explore_link(entry: MaskEntry, selection: Selection) -> str:
    """Make the query of Explore's address for an importance, or for the schedule that is shown where it was edited."""
    result = schedule_of(entry, selection) if selection.manual_schedule else entry.open()
    return url_state.explore_query(entry, result, selection.ratio)


def mask_file(entry: MaskEntry, selection: Selection) -> str:
    """Make the file of the mask that is shown."""
    return file_json(entry, mask_of(entry, selection))


def importance_file(entry: MaskEntry, selection: Selection) -> str:
    """Make the file of the importance that the mask is taken from."""
    return file_json(entry, entry.open())


def generate_pictures(
    run: RunTask, library: MaskLibrary, selection: Selection, explore: Mapping[str, Any]
) -> Iterator[str]:
    """Generate the pictures of the whole network, the mask, the other one and the few-step baseline, call by call.

    `explore`: prompt, seed and baseline of Explore. Raises ValueError for what cannot be generated.
    """
    entry = library.find(selection.id)
    other = comparison(run, library, entry, selection)
    titles = {"original": "Original", "pruned": "This mask"}
    titles |= ({"other": other[0]} if other else {}) | {"baseline": "Same cost, fewer steps"}
    runs = {"pruned": (file_request(entry, selection, explore), mask_of(entry, selection), True)}
    if other:
        runs["other"] = (_other_request(library, entry, selection, explore), other[1], False)
    frames: dict[str, Frame] = {}
    pictures: dict[str, bytes] = {}
    kept = {"pruned": runs["pruned"][1].macs_fraction} | ({"other": other[1].macs_fraction} if other else {})
    yield cards(frames, pictures, titles)
    for role, arguments in runs.items():
        for frame in throttle(run(tasks.compare, *arguments)):
            if frame.role == "original" and role == "other":
                continue
            shown = role if frame.role == "pruned" else frame.role
            frames[shown] = frame
            pictures |= {shown: frame.picture} if frame.picture else {}
            yield cards(frames, pictures, titles, kept)


def _other_request(
    library: MaskLibrary, entry: MaskEntry, selection: Selection, explore: Mapping[str, Any]
) -> ExperimentRequest:
    if str(selection.other).startswith(RULE):
        return rule_request(entry, selection, explore)
    other = library.find(str(selection.other))
    return file_request(other, Selection(other.id, selection.ratio), explore)
