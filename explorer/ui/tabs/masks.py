"""The Masks tab: all masks there are, where they come from, what two differ in; bring one, edit one, take one away."""

from collections.abc import Iterator, Mapping
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import gradio as gr

from explorer.jobs.executors import PLACES, Executor, Run
from explorer.jobs.shelf import Shelf
from explorer.masks import Importance, Mask
from explorer.ui import address, browser
from explorer.ui.components import LIGHT, alert, markup, plotly_view, user_errors
from explorer.ui.looking import (
    Chosen,
    as_file,
    at,
    beside,
    called,
    decided,
    file_name,
    held_against,
    on_draw,
    rows,
    schedule_of,
    scheduled,
    thinned,
)
from explorer.ui.told import origin
from explorer.ui.visitors import Visitor, deleting
from explorer.widths import WidthImportance

WHY = """<p class="why">A mask is one small file: which units of a network run at which call, or which heads, neurons
and channels stay. An order is a mask for every ratio. Here are those that come with this page, those of your jobs, and
what you bring along; a file is read, never run.</p>"""
CAPTION = (
    "Click a cell to switch it, draw the mouse across several, click a bar for a whole call or unit; with the "
    "keyboard: arrows, space, c for the call, u for the unit, Ctrl+Z and Ctrl+Y. What nobody reads any more goes, too."
)
COLUMNS = ("mask", "model", "from", "made")
FILTERS = ("all", "embedded", "yours")
FIRST = 0.2  # at which an order over widths is looked at first
NOW = LIGHT | {"preprocess": True}
BY_HAND = "(...values) => [...values.slice(0, -1), window.explorerMask?.() ?? '']"
ADDRESS = browser.in_address("mask")
SAVE = """(file) => {
    if (!file) return;
    const { name, content } = JSON.parse(file);
    const href = `data:application/octet-stream;base64,${content}`;
    Object.assign(document.createElement("a"), { download: name, href }).click();
}"""
GO = "(query) => { if (query) location.search = query; }"


class Parts(NamedTuple):
    """What the tab is made of."""

    id: gr.Textbox
    by_hand: gr.Textbox  # the schedule that was switched, which the browser fills in
    which: gr.Radio
    table: gr.HTML
    upload: gr.UploadButton
    alert: gr.HTML
    head: gr.HTML
    ratio: gr.Slider
    other: gr.Dropdown
    view: gr.HTML
    left: gr.HTML
    bars: gr.Row
    heads: gr.HTML
    shares: gr.HTML
    name: gr.Textbox
    keep: gr.Button
    forget: gr.Button
    explore: gr.Button
    whole: gr.Button
    save: gr.Button
    draw: gr.Button
    stop: gr.Button
    pictures: gr.HTML
    goal: gr.Textbox
    file: gr.Textbox

    @property
    def shown(self) -> list[Any]:
        """What a look at a mask changes."""
        what = [self.alert, self.head, self.ratio, self.other, self.view, self.left, self.bars, self.heads, self.shares]
        acts = [self.name, self.keep, self.forget, self.explore, self.whole, self.save, self.draw, self.stop]
        return [*what, *acts, self.pictures]


def build(
    executor: Executor, shelf: Shelf, asked: Mapping[str, gr.components.Component], tab: gr.Tab, visitor: Visitor
) -> None:
    """Lay out the tab and connect it; `asked` are the controls of Explore, whose prompt and seed are drawn."""
    markup(WHY)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            left = _there()
        with gr.Column(scale=5, min_width=320):
            right = _shown()
    hidden = {name: gr.Textbox(visible="hidden", elem_id=f"mask-{name}") for name in ("id", "by_hand", "goal", "file")}
    parts = Parts(**hidden, **left, **right)
    _connect(executor, shelf, parts, tab, visitor)
    _connect_drawing(executor, shelf, parts, asked)


def _there() -> dict[str, Any]:
    """What there is to choose from."""
    left: dict[str, Any] = dict(which=gr.Radio(list(FILTERS), value="all", label="Show", elem_id="mask-which"))
    left["upload"] = gr.UploadButton("Upload a mask", file_types=[".safetensors"], elem_id="mask-upload")
    left["table"] = browser.pick_list(COLUMNS, "Nothing here yet: upload a mask, or edit one.", elem_id="masks")
    return left


def _shown() -> dict[str, Any]:
    """The mask of the moment, and what can be done with it."""
    hidden: dict[str, Any] = dict(visible=False, min_width=80)
    right: dict[str, Any] = dict(alert=markup(elem_id="mask-alert"), head=markup(elem_id="mask-head"))
    with gr.Row():
        label, info = "Pruning ratio", "at which an order is looked at"
        right["ratio"] = gr.Slider(0, 0.95, 0.5, step=0.01, label=label, info=info, visible=False, elem_id="mask-ratio")
        right["other"] = gr.Dropdown([], label="Hold against", visible=False, elem_id="mask-other", interactive=True)
    with gr.Row(elem_classes=["buttons", "many"]):
        right["draw"] = gr.Button("Draw", variant="primary", elem_id="mask-draw", **hidden)
        right["stop"] = gr.Button("Stop", elem_id="mask-stop", **hidden)
        right["explore"] = gr.Button("Open in Explore", elem_id="mask-explore", **hidden)
        right["save"] = gr.Button("Download mask", elem_id="mask-save", **hidden)
        right["whole"] = gr.Button("Download order", elem_id="mask-whole", **hidden)
        right["forget"] = gr.Button("Delete", elem_id="mask-forget", **hidden)
    right["pictures"] = markup(elem_id="mask-pictures")
    right["view"] = browser.mask_map(CAPTION, elem_id="mask")
    right["left"] = markup(elem_id="mask-left")
    with gr.Row(visible=False) as right["bars"]:
        right["heads"] = plotly_view("", "A row is an attention, a cell one of its heads.", elem_id="mask-heads")
        right["shares"] = plotly_view("", "A bar is a layer: the share of its units that stays.", elem_id="mask-shares")
    with gr.Row():
        label, info = "Keep as", "a name for what you made; it appears under yours"
        right["name"] = gr.Textbox(
            label=label, info=info, max_lines=1, max_length=80, visible=False, elem_id="mask-name"
        )
        right["keep"] = gr.Button("Keep", elem_id="mask-keep", **hidden)
    return right


def _connect(executor: Executor, shelf: Shelf, parts: Parts, tab: gr.Tab, visitor: Visitor) -> None:
    """Which event asks what. Whatever brings another mask, its change shows it."""
    owner, guard = visitor.owner, visitor.guard

    def brought(request: gr.Request, file: str | None, who: str) -> tuple:
        with user_errors() as said:
            try:
                guard.refuse_unless_allowed(who, request)
                return "", shelf.add(file or "", file_name(file), who).id
            finally:
                Path(file or "").unlink(missing_ok=True)
        return alert(said), gr.skip()

    def kept(request: gr.Request, id: str, share: float, name: str, who: str, letters: str) -> tuple:
        with user_errors() as said:
            guard.refuse_unless_allowed(who, request)
            return "", shelf.keep(schedule_of(shelf.find(id), share, letters), name, who).id
        return alert(said), gr.skip()

    listing = dict(fn=partial(rows, shelf), inputs=[owner, parts.which], outputs=parts.table, **NOW)

    def look(*what: Any) -> tuple:
        return looked(partial(executor.run, uuid4().hex), shelf, *what)

    looking = dict(fn=look, outputs=parts.shown, trigger_mode="always_last", **NOW)
    wanted = [parts.id, owner, parts.ratio, parts.other]
    visitor.came.then(asked_for, None, parts.id, **NOW)
    gr.on([tab.select, parts.which.change], **listing)
    showing = parts.id.change(look, [parts.id, owner], parts.shown, **NOW)
    showing.then(**listing).then(None, parts.id, None, js=ADDRESS, api_visibility="private")
    parts.ratio.input(inputs=wanted, **looking)
    parts.other.input(inputs=[*wanted, parts.by_hand], js=BY_HAND, **looking)
    parts.table.pick(picked, None, parts.id, **NOW)
    parts.upload.upload(brought, [parts.upload, owner], [parts.alert, parts.id], **NOW)
    at = [parts.id, parts.ratio]
    parts.keep.click(kept, [*at, parts.name, owner, parts.by_hand], [parts.alert, parts.id], js=BY_HAND, **NOW)
    parts.forget.click(deleting(guard, shelf.forget), [parts.id, owner], [parts.alert, parts.id], **NOW)
    for button, act, goal, after in (
        (parts.explore, opened, parts.goal, GO),
        (parts.save, saved, parts.file, SAVE),
        (parts.whole, partial(saved, whole=True), parts.file, SAVE),
    ):
        doing = button.click(partial(act, shelf), [*at, parts.by_hand], [parts.alert, goal], js=BY_HAND, **NOW)
        doing.then(None, goal, None, js=after, api_visibility="private")


def _connect_drawing(
    executor: Executor, shelf: Shelf, parts: Parts, asked: Mapping[str, gr.components.Component]
) -> None:
    """What the mask draws, and what the other one does, for the prompt and seed of Explore."""

    def drawn(request: gr.Request, id: str, share: float, other: str | None, *values: Any) -> Iterator[tuple]:
        question, letters = dict(zip(("prompt", "seed", "rival"), values[:3], strict=True)), values[3]
        run = partial(executor.run, drawer(request))
        yield from on_draw(run, shelf, Chosen(id, share, letters, other), question)

    def halt(request: gr.Request) -> None:
        executor.stop(drawer(request))

    wanted = [parts.id, parts.ratio, parts.other, *(asked[name] for name in ("prompt", "seed", "rival")), parts.by_hand]
    drawing = parts.draw.click(
        drawn,
        wanted,
        [parts.alert, parts.pictures],
        js=BY_HAND,
        trigger_mode="multiple",
        concurrency_limit=PLACES,
        concurrency_id="draw",
        **LIGHT | {"queue": True},
    )
    parts.stop.click(halt, None, None, cancels=[drawing], **LIGHT)


def drawer(request: gr.Request) -> str:
    """For whom this tab draws: what Explore draws for the same visitor goes on beside it."""
    return f"{request.session_hash}-masks"


def asked_for(request: gr.Request) -> str:
    """The mask that the address names."""
    return request.query_params.get("mask", "")[:60]


def picked(event: gr.EventData) -> str:
    """The mask of a row of the list."""
    return str(event.id)[:60]


def looked(
    run: Run,
    shelf: Shelf,
    id: str,
    owner: str,
    share: float | None = None,
    other: str | None = None,
    letters: str = "",
) -> tuple:
    """A mask with all that can be done with it; for `Parts.shown`. What costs the same costs what was made by hand."""
    hidden = gr.update(visible=False)
    nothing = ("", hidden, hidden, None, "", hidden, None, None, *[hidden] * 8, "")
    if not id:
        return "", *nothing
    with user_errors() as said:
        item = shelf.find(id)
        found = item.open()
        share = share if share is not None else 0.5 if isinstance(found, Importance) else FIRST
        order, mask = isinstance(found, Importance | WidthImportance), at(found, share)
        choices = beside(shelf, item, owner)
        other = other if other in [one for _, one in choices] else None
        second = held_against(run, shelf, item, Chosen(id, share, letters, other))
        largest = int(100 * found.header.max_ratio) / 100
        schedule, show = isinstance(mask, Mask), gr.update(visible=True)
        only = [gr.update(visible=one) for one in (schedule, schedule, item.owner == owner and item.how != "a job's")]
        acts = (*only, gr.update(visible=schedule), gr.update(visible=order), show, show, show)
        choosing = gr.update(choices=[("nothing", ""), *choices], value=other or "", visible=bool(choices))
        slider = gr.update(visible=order, maximum=max(largest, 0.01), value=min(share, largest))
        head = f"<h2>{escape(called(item))}</h2>{origin(mask.header, item.how)}"
        return "", head, slider, choosing, *(scheduled(mask, second) if schedule else thinned(mask, second)), *acts, ""
    return alert(said), *nothing


def opened(shelf: Shelf, id: str, share: float, letters: str) -> tuple[str, str]:
    """The query of Explore's address for an order, or for the schedule of the moment where it was switched by hand."""
    with user_errors() as said:
        item = shelf.find(id)
        if isinstance(item.open(), Importance) and not letters:
            return "", address.of_order(item, item.header, share)
        return "", address.of_mask(schedule_of(item, share, letters))
    return alert(said), ""


def saved(shelf: Shelf, id: str, share: float, letters: str, whole: bool = False) -> tuple[str, str]:
    """The mask that is looked at, or the order that it is taken from, as a file."""
    with user_errors() as said:
        item = shelf.find(id)
        return "", as_file(item, item.open() if whole else decided(item, share, letters))
    return alert(said), ""
