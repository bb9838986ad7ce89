"""What the Masks tab shows of files: in a list, as a map or bars, beside another one; what they are asked to draw."""

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from time import localtime, strftime
from typing import Any, NamedTuple

import gradio as gr

from explorer import figures
from explorer.drawing import Frame
from explorer.experiment import Question
from explorer.files import bytes_of
from explorer.jobs.executors import Run
from explorer.jobs.shelf import Item, Shelf, embedded
from explorer.letters import packed
from explorer.masks import Header, Importance, Mask
from explorer.sites import WidthHeader
from explorer.ui import address
from explorer.ui.components import alert, as_value, user_errors
from explorer.ui.story import graph_of
from explorer.ui.told import cards, numbers, spaced, tiles, title
from explorer.widths import Found, WidthImportance, Widths

RULES = ("uniform", "random")
RULE = "rule:"  # before one of them
CELLS = 40_000  # more are not drawn


def file_name(path: str | None) -> str:
    """What a file that came was called, which Gradio made harmless; it is only shown."""
    return (path or "").rpartition("/")[2].removesuffix(".safetensors")


def rows(shelf: Shelf, owner: str, which: str) -> list[dict[str, Any]]:
    """The list: what is the visitor's own first, newest first."""
    own = shelf.own(owner) if which != "embedded" else []
    found = []
    for item in own + (embedded() if which != "yours" else []):
        name, model = item.name, "damaged"
        with user_errors():
            name, model = called(item), item.header.model.id
        when = strftime("%d %b %Y", localtime(item.created))
        found.append({"id": item.id, "cells": [name, model, item.how, when]})
    return found


def called(item: Item) -> str:
    """What a file is called; widths that nobody named by what they are."""
    own = item.how in ("uploaded", "by hand")
    return title(item.header) if isinstance(item.header, WidthHeader) and not own else item.name


def at(found: Found, share: float) -> Mask | Widths:
    """The mask of an order at a ratio, or the largest that it can reach; a mask as it is."""
    if isinstance(found, Importance | WidthImportance):
        return found.at(min(max(float(share), 0.0), found.header.max_ratio))
    return found


def decided(item: Item, share: float, letters: str) -> Mask | Widths:
    """What is looked at, as it was switched by hand."""
    mask = at(item.open(), share)
    return mask.by_hand(letters) if letters and isinstance(mask, Mask) else mask


def schedule_of(item: Item, share: float, letters: str) -> Mask:
    """The schedule that is looked at, as it was switched by hand. Raises ValueError for widths."""
    mask = decided(item, share, letters)
    if not isinstance(mask, Mask):
        raise ValueError("heads, neurons and channels are for all calls; this is for schedules")
    return mask


def beside(shelf: Shelf, item: Item, owner: str) -> list[tuple[str, str]]:
    """What can be held against a file: others for the same model, and for a schedule what needs no learning."""
    own = item.header
    files = [
        (f"{called(other)} ({other.how})", other.id)
        for other in [*shelf.own(owner), *embedded()]
        if other.id != item.id and _fits(own, other)
    ]
    return [(f"{rule}, same cost", RULE + rule) for rule in RULES if isinstance(own, Header)] + files


def _fits(own: Header | WidthHeader, other: Item) -> bool:
    """Schedules for the same model; widths also for the same sites."""
    with user_errors():
        two = other.header
        if own.model.id == two.model.id and isinstance(own, WidthHeader) and isinstance(two, WidthHeader):
            return [(site.name, site.size) for site in own.sites] == [(site.name, site.size) for site in two.sites]
        return own.model.id == two.model.id and isinstance(own, Header) and isinstance(two, Header)
    return False


def held_against(run: Run, shelf: Shelf, item: Item, chosen: "Chosen") -> tuple[str, Mask | Widths] | None:
    """The other one, by name. Raises ValueError where there is none."""
    if not chosen.other:
        return None
    if not chosen.other.startswith(RULE):
        other = shelf.find(chosen.other)
        return called(other), at(other.open(), chosen.share)
    mask = schedule_of(item, chosen.share, chosen.letters)
    plan = next(run("plan", rule_of(item, chosen, {"prompt": "-"})))
    return chosen.other.removeprefix(RULE), Mask(mask.header, plan.fate == 0)


def rule_of(item: Item, chosen: "Chosen", asked: Mapping[str, Any]) -> Question:
    """The question that asks a rule for as much as a schedule leaves out."""
    header, kept = item.header, schedule_of(item, chosen.share, chosen.letters).kept
    settings = {name: getattr(header, name) for name in ("granularity", "reuse", "order", "reach")}
    question = question_of(item, chosen.share, "", asked)
    changes = {"method": chosen.other.removeprefix(RULE), "settings": settings, "ratio": max(0.0, 1 - kept)}
    return address.offered(Question(**question.model_dump() | changes))


def scheduled(mask: Mask, other: tuple[str, Mask] | None) -> tuple:
    """The map of a schedule; for `view` to `shares` of `Parts`."""
    header, nothing = mask.header, (gr.update(visible=False), None, None)
    if mask.keep.size > CELLS:
        size = f"{header.calls:,} calls of {len(header.units):,} units"
        return None, f"<p>{size} are too many to draw; {mask.kept:.1%} of the MACs stay.</p>", *nothing
    names = header.graph.names
    figure, versus = (as_value(figures.blank_heatmap(names, header.calls, w)) for w in (figures.ALONE, figures.BESIDE))
    value = {"graph": graph_of(header.graph), "keep": packed(mask.keep), "timesteps": list(range(header.calls))}
    value |= {"figure": figure, "versus": versus, "other": None}
    if other:
        name, second = other
        same = second.keep.shape == mask.keep.shape and second.header.graph.names == names
        value["other"] = {"name": name, "keep": packed(second.keep) if same else None, "kept": second.kept}
    return value, "", *nothing


def thinned(widths: Widths, other: tuple[str, Widths] | None) -> tuple:
    """What is left of a network; for `view` to `shares` of `Parts`."""
    told = numbers(widths)
    if other:
        name, second = other
        gone = {site: int((keep ^ second.keep[site]).sum()) for site, keep in widths.keep.items()}
        most = max(gone, key=gone.__getitem__)
        where = f"most in {most} ({gone[most]})" if gone[most] else "nowhere: they are the same"
        told += tiles(
            [
                ("units that differ", f"{sum(gone.values()):,}", where),
                ("parameters there", f"{second.kept:.1%}", f"in {name}; {widths.kept:.1%} here"),
                ("MACs there", f"{second.kept_macs:.1%}", f"of a call; {widths.kept_macs:.1%} here"),
            ]
        )
    maps = as_value(figures.head_map(widths.keep)), as_value(figures.share_bars(widths.keep))
    return None, told, gr.update(visible=True), *maps


def as_file(item: Item, found: Found) -> str:
    """A file for the browser to save: its name and its bytes, as JSON."""
    plain = "".join(letter if letter.isalnum() or letter in "-_+. " else "-" for letter in item.name)
    reached = found.header.ratio.reached
    share = "" if found.header.kind == "importance" or reached is None else f" {100 * reached:.0f}"
    content = b64encode(bytes_of(found)).decode()
    return json.dumps({"name": f"{plain}{share}.safetensors", "content": content})


def question_of(item: Item, share: float, letters: str, asked: Mapping[str, Any]) -> Question:
    """The question that a file answers, with the prompt, the seed and the rival of Explore."""
    header = item.header
    its = {name: getattr(header, name, header.pruner.config.get(name)) for name in ("steps", "sampler", "guidance")}
    its = {name: value for name, value in its.items() if value is not None}
    ratio = min(max(float(share), 0.0), header.max_ratio)
    return address.offered(Question(model=header.model.id, ratio=ratio, keep=letters, **its, **asked))


class Chosen(NamedTuple):
    """What is looked at: a file, a ratio for an order, the schedule where it was switched by hand, another file."""

    id: str
    share: float
    letters: str = ""
    other: str | None = None


def on_draw(run: Run, shelf: Shelf, chosen: Chosen, asked: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The alert and the pictures, one update a call: the whole network, the mask, the other one, the few-step rival."""
    roles = {"original": "Original", "pruned": "This mask", "other": "", "rival": "Same cost, fewer steps"}
    with user_errors() as said:
        item = shelf.find(chosen.id)
        runs = {"pruned": (question_of(item, chosen.share, chosen.letters, asked), str(item.path), True)}
        if chosen.other and chosen.other.startswith(RULE):
            roles["other"] = chosen.other.removeprefix(RULE)
            runs["other"] = (rule_of(item, chosen, asked), "", False)
        elif chosen.other:
            other = shelf.find(chosen.other)
            roles["other"] = called(other)
            runs["other"] = (question_of(other, chosen.share, "", asked), str(other.path), False)
        roles = {role: name for role, name in roles.items() if name}
        frames: dict[str, Frame] = {}
        seen: dict[str, bytes] = {}
        yield "", cards(frames, seen, roles)
        for role, asking in runs.items():
            for frame in spaced(run("compare", *asking)):
                if frame.role == "original" and role == "other":
                    continue
                shown = role if frame.role == "pruned" else frame.role
                frames[shown] = frame
                seen |= {shown: frame.picture} if frame.picture else {}
                yield "", cards(frames, seen, roles)
        return
    yield alert(said), ""
