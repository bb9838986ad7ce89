"""The Masks tab: all masks there are, where they come from, how two differ; upload, edit, keep and download them."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gradio as gr

from explorer.jobs.executors.base import RunTask
from explorer.jobs.mask_library import MaskEntry, MaskLibrary
from explorer.ui import frontend, use_it
from explorer.ui.auth import Visitor, delete_handler
from explorer.ui.components import (
    INSTANT,
    INSTANT_TYPED,
    OPEN_QUERY_JS,
    ExploreParts,
    alert,
    leave_values,
    markup,
    picked_id,
    plotly_view,
    slider_maximum,
    url_key_handler,
    user_errors,
)
from explorer.ui.runs import VisitorRuns
from explorer.ui.views import masks as views
from explorer.ui.views.masks import FIRST_RATIOS, Selection
from explorer.ui.views.use_it import Use, use_of_file

INTRO = """<p class="intro">A mask is one small file: a schedule says which layers of a network run at which call,
widths say which heads, neurons and channels stay. An importance is a mask for every ratio. Here are those that come
with this page, those of your jobs, and those that you upload.
<a href="?tab=supernet&scene=gates">In the lesson: who chooses</a></p>"""
CAPTION = (
    "Click a cell to switch it, drag the mouse across several, click a bar for a whole call or unit; with the "
    "keyboard: arrows, space, c for the call, u for the unit, Ctrl+Z and Ctrl+Y. What no unit reads is removed."
)
COLUMNS = ("mask", "model", "made")
FILTERS = ("all", "bundled", "yours")
TAB = "masks"  # whose runs leave one of Explore for the same visitor alone
SCENE = ("prompt", "seed", "baseline_sampler")  # what is taken from Explore


class View(NamedTuple):
    """The parts of the tab."""

    id: gr.Textbox
    edits: gr.Textbox  # the schedule that was edited, which the browser fills in
    filter: gr.Radio
    table: gr.HTML
    upload: gr.Button
    alert: gr.HTML
    head: gr.HTML
    ratio: gr.Slider
    other: gr.Dropdown
    heatmap: gr.HTML
    summary: gr.HTML
    figures: gr.Row
    heads: gr.HTML
    bars: gr.HTML
    name: gr.Textbox
    keep: gr.Button
    delete: gr.Button
    explore: gr.Button
    importance: gr.Button
    save: gr.Button
    use: gr.Button
    generate: gr.Button
    stop: gr.Button
    pictures: gr.HTML
    query: gr.Textbox
    file: gr.Textbox

    @property
    def shown(self) -> list[Any]:
        """What showing a mask changes."""
        hidden = {"id", "edits", "filter", "table", "upload", "query", "file"}
        return [part for name, part in self._asdict().items() if name not in hidden]

    def emptied(self) -> dict[Any, Any]:
        """Show no mask."""
        buttons = [self.keep, self.delete, self.explore, self.importance, self.save, self.use]
        buttons += [self.generate, self.stop]
        hidden = [self.ratio, self.other, self.figures, self.name, *buttons]
        empty = {self.head: "", self.heatmap: None, self.summary: "", self.heads: None, self.bars: None}
        return dict.fromkeys(hidden, gr.update(visible=False)) | empty | {self.alert: "", self.pictures: ""}


def build(runs: VisitorRuns, library: MaskLibrary, explore: ExploreParts, tab: gr.Tab, visitor: Visitor) -> None:
    """Lay out the tab and connect it; prompt and seed are those of Explore."""
    markup(INTRO)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            left = _make_list()
        with gr.Column(scale=5, min_width=320):
            right = _make_selected()
    hidden = {name: gr.Textbox(visible="hidden", elem_id=f"mask-{name}") for name in ("id", "edits", "query", "file")}
    view = View(**hidden, **left, **right)
    explore.loaded.then(url_key_handler("mask"), None, view.id, **INSTANT_TYPED)
    _connect_selection(runs, library, view, tab, visitor)
    _connect_changes(library, view, visitor)
    _connect_downloads(library, view)
    _connect_generate(runs, library, view, explore)

    def find_use(_: gr.Request, id: str, ratio: float, *values: Any) -> Use:
        selection, scene = Selection(id, ratio, values[-1]), dict(zip(SCENE, values[:-1], strict=True))
        return use_of_file(TAB, library.find(id), selection, scene)

    shown = [view.id, view.ratio, *(explore.request[name] for name in SCENE), view.edits]
    use_it.connect(view.use, explore.drawer, find_use, shown, js=frontend.WITH_EDITS_JS, preprocess=True)


def _make_list() -> dict[str, Any]:
    """Make what there is to choose from."""
    left: dict[str, Any] = dict(filter=gr.Radio(list(FILTERS), value="all", label="Show", elem_id="mask-filter"))
    left["upload"] = gr.Button("Upload a mask", elem_id="mask-upload")
    left["table"] = frontend.pick_list(COLUMNS, "Nothing here yet: upload a mask, or edit one.", elem_id="masks")
    return left


def _make_selected() -> dict[str, Any]:
    """Make the selected mask, and what can be done with it."""
    hidden: dict[str, Any] = dict(visible=False, min_width=80)
    right: dict[str, Any] = dict(alert=markup(elem_id="mask-alert"), head=markup(elem_id="mask-head"))
    with gr.Row():
        label, info = "How much to prune", "an importance has a mask for every ratio"
        right["ratio"] = gr.Slider(0, 0.95, 0.5, step=0.01, label=label, info=info, visible=False, elem_id="mask-ratio")
        right["other"] = gr.Dropdown([], label="Compare with", visible=False, elem_id="mask-other", interactive=True)
    with gr.Row(elem_classes=["buttons", "many"]):
        right["generate"] = gr.Button("Generate", variant="primary", elem_id="mask-generate", **hidden)
        right["stop"] = gr.Button("Stop", elem_id="mask-stop", **hidden)
        right["explore"] = gr.Button("Open in Explore", elem_id="mask-explore", **hidden)
        right["use"] = use_it.make_button("mask", **hidden)
        right["save"] = gr.Button("Download mask", elem_id="mask-save", **hidden)
        right["importance"] = gr.Button("Download importance", elem_id="mask-importance", **hidden)
        right["delete"] = gr.Button("Delete", elem_id="mask-delete", **hidden)
    right["pictures"] = markup(elem_id="mask-pictures")
    right["heatmap"] = frontend.mask_heatmap(CAPTION, elem_id="mask")
    right["summary"] = markup(elem_id="mask-summary")
    with gr.Row(visible=False) as right["figures"]:
        with gr.Column(min_width=320):
            right["heads"] = plotly_view("", "A row is an attention, a cell one of its heads.", elem_id="mask-heads")
        with gr.Column(min_width=320):
            right["bars"] = plotly_view("", "A bar is a layer: the share that stays.", elem_id="mask-bars")
    with gr.Row():
        label, info = "Keep as", "a name for what you made; it appears under yours"
        limits = dict(max_lines=1, max_length=80, visible=False)
        right["name"] = gr.Textbox(label=label, info=info, elem_id="mask-name", **limits)
        right["keep"] = gr.Button("Keep", elem_id="mask-keep", **hidden)
    return right


def _connect_selection(runs: VisitorRuns, library: MaskLibrary, view: View, tab: gr.Tab, visitor: Visitor) -> None:
    """Connect the list. Every event that brings another mask changes its id, and that shows it."""
    token = visitor.token

    def on_show(request: gr.Request, id: str, token: str, *selected: Any) -> dict:
        return show_mask(runs.alone(request), library, view, visitor.owner(token, request), id, *selected)

    def on_list(request: gr.Request, token: str, which: str) -> list[dict[str, Any]]:
        return views.list_rows(library, visitor.owner(token, request), which)

    def on_input(request: gr.Request, *selected: Any) -> dict:
        return leave_values(on_show(request, *selected), view.ratio, view.other)

    listing = dict(fn=on_list, inputs=[token, view.filter], outputs=view.table, **INSTANT_TYPED)
    showing = dict(fn=on_input, outputs=view.shown, trigger_mode="always_last", **INSTANT_TYPED)
    gr.on([tab.select, view.filter.change], **listing)
    tab.select(lambda id: id or views.FIRST_SHOWN, view.id, view.id, **INSTANT_TYPED)
    shown = view.id.change(on_show, [view.id, token], view.shown, **INSTANT_TYPED)
    shown.then(**listing).then(None, view.id, None, js=frontend.write_url_js("mask"), api_visibility="private")
    selected = [view.id, token, view.ratio, view.other]
    view.ratio.input(inputs=selected, **showing)
    view.other.input(inputs=[*selected, view.edits], js=frontend.WITH_EDITS_JS, **showing)
    view.table.pick(picked_id, None, view.id, **INSTANT_TYPED)


def _connect_changes(library: MaskLibrary, view: View, visitor: Visitor) -> None:
    """Connect uploading, keeping and deleting, which not every visitor may do."""
    token, guard = visitor.token, visitor.guard

    def on_keep(request: gr.Request, id: str, ratio: float, name: str, token: str, edits: str) -> dict:
        with user_errors() as sentences:
            requester = guard.check_allowed(token, request)
            mask = views.schedule_of(library.find(id), Selection(id, ratio, edits))
            return {view.alert: "", view.id: library.keep(mask, name, *requester).id}
        return {view.alert: alert(sentences)}

    outputs = [view.alert, view.id]
    upload = dict(js=frontend.UPLOAD_JS, trigger_mode="multiple", api_visibility="private")
    view.upload.click(None, [token, view.alert, view.id], outputs, **upload)
    kept = [view.id, view.ratio, view.name, token, view.edits]
    view.keep.click(on_keep, kept, outputs, js=frontend.WITH_EDITS_JS, **INSTANT_TYPED)
    on_delete = delete_handler(guard, library.delete, view.alert, view.id)
    view.delete.click(on_delete, [view.id, token], outputs, **INSTANT_TYPED)


def _connect_downloads(library: MaskLibrary, view: View) -> None:
    """Connect the buttons that open a mask in Explore and save it; the browser does the second half."""
    selected = [view.id, view.ratio, view.edits]
    for button, make, output, js in (
        (view.explore, views.explore_link, view.query, OPEN_QUERY_JS),
        (view.save, views.mask_file, view.file, frontend.SAVE_FILE_JS),
        (view.importance, views.importance_file, view.file, frontend.SAVE_FILE_JS),
    ):
        handler = action_handler(library, view.alert, output, make)
        made = button.click(handler, selected, [view.alert, output], js=frontend.WITH_EDITS_JS, **INSTANT_TYPED)
        made.then(None, output, None, js=js, api_visibility="private")


def _connect_generate(runs: VisitorRuns, library: MaskLibrary, view: View, explore: ExploreParts) -> None:
    """Connect what generates pictures by the mask, and by the other one, for the prompt and seed of Explore."""

    def on_generate(request: gr.Request, id: str, ratio: float, other: str | None, *values: Any) -> Iterator[dict]:
        from_explore, edits = dict(zip(SCENE, values[:-1], strict=True)), values[-1]
        run = runs.of(request, TAB)
        with user_errors() as sentences:
            for pictures in views.generate_pictures(run, library, Selection(id, ratio, edits, other), from_explore):
                yield {view.alert: "", view.pictures: pictures}
            return
        yield {view.alert: alert(sentences), view.pictures: ""}

    def on_stop(request: gr.Request) -> None:
        runs.stop(request, TAB)

    generating = view.generate.click(
        on_generate,
        [view.id, view.ratio, view.other, *(explore.request[name] for name in SCENE), view.edits],
        [view.alert, view.pictures],
        js=frontend.WITH_EDITS_JS,
        trigger_mode="multiple",
        concurrency_limit=None,
        **INSTANT | {"queue": True},
    )
    view.stop.click(on_stop, None, None, cancels=[generating], **INSTANT)


def show_mask(
    run: RunTask,
    library: MaskLibrary,
    view: View,
    owner: str,
    id: str,
    ratio: float | None = None,
    other: str | None = None,
    edits: str = "",
) -> dict:
    """Show a mask with all that can be done with it; a rule is compared at the cost of what was edited."""
    if not id:
        return view.emptied()
    with user_errors() as sentences:
        entry = library.find(id)
        header = entry.header
        ratio = FIRST_RATIOS[header.prunes] if ratio is None else ratio
        choices = views.comparison_choices(library, entry, owner)
        other = other if other in [value for _, value in choices] else None
        selection = Selection(id, ratio, edits, other)
        mask = views.mask_of(entry, selection._replace(manual_schedule=""))
        second = views.comparison(run, library, entry, selection)
        largest = slider_maximum(header)
        is_importance, show = header.kind == "importance", gr.update(visible=True)
        return view.emptied() | {
            view.head: views.head(entry, mask.header),
            view.ratio: gr.update(visible=is_importance, maximum=max(largest, 0.01), value=min(ratio, largest)),
            view.other: gr.update(choices=[("nothing", ""), *choices], value=other or "", visible=bool(choices)),
            view.importance: gr.update(visible=is_importance),
            view.delete: gr.update(visible=entry.owner == owner and entry.source != "job"),
            **dict.fromkeys([view.save, view.use, view.generate, view.stop], show),
            **(_show_schedule if mask.prunes == "schedule" else _show_widths)(view, mask, second),
        }
    return view.emptied() | {view.alert: alert(sentences)}


def _show_schedule(view: View, mask: Any, other: tuple[str, Any] | None) -> dict:
    show = gr.update(visible=True)
    buttons = dict.fromkeys([view.name, view.keep, view.explore], show)
    return {view.heatmap: views.schedule_json(mask, other), view.summary: views.size_note(mask)} | buttons


def _show_widths(view: View, widths: Any, other: tuple[str, Any] | None) -> dict:
    heads, bars = views.width_figures(widths)
    figures = {view.figures: gr.update(visible=True), view.heads: heads, view.bars: bars}
    return {view.summary: views.width_summary(widths, other)} | figures


def action_handler(
    library: MaskLibrary, alert_box: gr.HTML, output: gr.Textbox, make: Callable[[MaskEntry, Selection], str]
) -> Callable[[str, float, str], dict]:
    """Make the handler of a button: put what `make` makes of the selected mask into `output`, or show an alert."""

    def on_click(id: str, ratio: float, edits: str) -> dict:
        with user_errors() as sentences:
            return {alert_box: "", output: make(library.find(id), Selection(id, ratio, edits))}
        return {alert_box: alert(sentences), output: ""}

    return on_click
