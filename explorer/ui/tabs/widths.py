"""The Width pruning tab: a network with fewer heads, neurons or channels, what is left of it, and what it generates."""

import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from explorer import figures
from explorer.bundled import masks as bundled
from explorer.experiment import ExperimentRequest, request_of_widths, widths_at
from explorer.jobs import tasks
from explorer.jobs.executors.base import RunTask
from explorer.masks.width import Widths
from explorer.masks.width_header import WidthHeader
from explorer.sampling.generate import Frame
from explorer.ui import frontend, url_state, use_it
from explorer.ui.components import (
    IN_BROWSER,
    INSTANT,
    INSTANT_TYPED,
    NO_FIGURE,
    ExploreParts,
    alert,
    figure_json,
    leave_values,
    markup,
    plotly_view,
    slider_maximum,
    user_errors,
)
from explorer.ui.markup import cards, throttle, width_tiles
from explorer.ui.runs import VisitorRuns
from explorer.ui.views.use_it import Use
from explorer.ui.views.widths import (
    PAPER_THRESHOLD,
    TITLES,
    example_cards,
    file_with_threshold,
    footer,
    own_threshold,
    own_threshold_js,
    request_for,
    threshold_overlap,
    use_of_widths,
    width_choices,
)

INTRO = """<p class="intro">A schedule leaves parts of the network out at some calls; here they are removed for all
calls: attention heads and neurons of feed-forward layers (EcoDiff), or channels of convolutions (Diff-Pruning), in
the order that a method learned. What is left is a network with fewer parameters, which needs less memory and less time
at every call. Prompt, seed, steps and guidance are those of the Explore tab.</p>"""
HEADS_CAPTION = "A row is an attention, a cell one of its heads. Blue stays, pale is removed."
BARS_CAPTION = "A bar is a layer: the share of its neurons or channels that stays."
CURVE_CAPTION = (
    "Diff-Pruning's idea: with the same pictures and noise the loss is largest where there is little noise. Only "
    "timesteps before the loss first falls below the threshold say which channels matter; the others are mostly noise."
)
WAITING = "The figure is loading."
DROP_OTHERS_JS = "(pictures, ...of) => pictures?.includes(`data-of=\"${of.join(' ')}\"`) ? pictures : ''"


class View(NamedTuple):
    """The parts of the tab."""

    file: gr.Dropdown
    ratio: gr.Slider
    generate: gr.Button
    stop: gr.Button
    use: gr.Button
    alert: gr.HTML
    summary: gr.HTML
    examples: gr.HTML  # pictures that were generated beforehand, until a visitor has some of their own
    pictures: gr.HTML
    heads_column: gr.Column
    heads: gr.HTML
    bars: gr.HTML
    loss_column: gr.Column
    threshold: gr.Slider
    timesteps: gr.HTML
    loss_curve: gr.HTML

    @property
    def shown(self) -> list[Any]:
        """What showing a file changes."""
        figures_shown = [
            self.examples,
            self.heads_column,
            self.heads,
            self.bars,
            self.loss_column,
            self.timesteps,
            self.loss_curve,
        ]
        return [self.file, self.ratio, self.alert, self.summary, *figures_shown]


class Selection(NamedTuple):
    """What is shown: a file of a model, at a ratio; the threshold is Diff-Pruning's."""

    model: str
    file: str | None
    ratio: float
    threshold: float = PAPER_THRESHOLD


def build(runs: VisitorRuns, explore: ExploreParts, tab: gr.Tab, tabs: gr.Tabs) -> View:
    """Lay out the tab and connect it to Explore. Returns the view, which `from_url` fills in."""
    markup(INTRO)
    view = _make_view()
    model, request = explore.request["model"], explore.request
    selected = [model, view.file, view.ratio, view.threshold]
    shown = dict(inputs=selected, trigger_mode="always_last", **INSTANT_TYPED)

    def on_tab(gradio_request: gr.Request, *selected: Any) -> dict:
        return show_tab(view, Selection(*selected), gradio_request.query_params)

    tab.select(on_tab, selected, [*view.shown, view.threshold], trigger_mode="once", **INSTANT_TYPED)
    # First and in the browser: Gradio begins the events of a control one after another, each when the one before has
    # been answered, and what Python answers late must take away neither what was generated nor what was dragged since.
    changed = [view.file.input, view.ratio.input, view.ratio.release, view.threshold.input, view.threshold.release]
    js = DROP_OTHERS_JS
    gr.on([*changed, model.change], None, [view.pictures, *selected[:3]], view.pictures, js=js, **IN_BROWSER)
    # Not at its input, which Gradio repeats when it is answered.
    view.file.select(None, [model, view.file, view.threshold], view.threshold, js=own_threshold_js(), **IN_BROWSER)
    # One event, so that the answer to an earlier value never comes after that to a later one. A reset is a release.
    gr.on(changed, lambda *selected: on_change(view, Selection(*selected)), outputs=view.shown, **shown)
    _connect_generate(runs, view, request)

    def find_use(_: gr.Request, file: str | None, ratio: float, *values: Any) -> Use:
        return use_of_widths(file, ratio, dict(zip(request, values, strict=True)))

    use_it.connect(view.use, explore.drawer, find_use, [view.file, view.ratio, *request.values()])
    for event in (explore.loaded.then, model.change):
        event(list_files, model, explore.widths, **INSTANT)

    def on_choice(model: str, file: str) -> dict:
        return {view.file: list_files(model, file), explore.widths: None} | _threshold_of(view, model, file)

    chosen = [view.file, view.threshold, explore.widths]
    opening = explore.widths.select(on_choice, [model, explore.widths], chosen, **INSTANT)
    opening.then(lambda: gr.Tabs(selected="widths"), None, tabs, **INSTANT)
    for control, key in ((view.file, "widths"), (view.ratio, "widths_ratio")):
        control.change(None, control, None, js=frontend.write_url_js(key), **IN_BROWSER)
    return view


def _make_view() -> View:
    with gr.Row():
        file = gr.Dropdown([], label="Learned by", elem_id="widths-file", scale=2)
        label, info = "How many of the parameters to remove", "heads, neurons or channels, for all calls"
        ratio = gr.Slider(0, 0.9, 0.2, step=0.01, label=label, info=info, elem_id="widths-ratio", scale=3)
        with gr.Column(scale=1, min_width=150):
            generate = gr.Button("Generate", variant="primary", elem_id="widths-generate")
            with gr.Row(elem_classes="buttons"):
                stop = gr.Button("Stop", interactive=False, elem_id="widths-stop", min_width=60)
                use = use_it.make_button("widths", min_width=60)
    alert_box = markup(elem_id="widths-alert")
    summary = markup(elem_id="widths-summary")
    with gr.Column(elem_id="widths-pictures", min_width=0):
        examples, pictures = markup(elem_id="widths-examples"), markup(elem_id="widths-generated")
    with gr.Row():
        with gr.Column(min_width=320, visible=False) as heads_column:
            heads = plotly_view(WAITING, HEADS_CAPTION, elem_id="widths-heads")
        with gr.Column(min_width=320):
            bars = plotly_view(WAITING, BARS_CAPTION, elem_id="widths-bars")
    with gr.Column(visible=False, elem_id="widths-loss") as loss_column:
        label, info = "Threshold", "the share of the largest loss at which the method stops; the paper's is 0.05"
        threshold = gr.Slider(0, 0.5, PAPER_THRESHOLD, step=0.005, label=label, info=info, elem_id="threshold")
        timesteps = markup(elem_id="widths-timesteps")
        loss_curve = plotly_view(WAITING, CURVE_CAPTION, elem_id="loss-curve")
    controls = (file, ratio, generate, stop, use, alert_box, summary, examples, pictures)
    return View(*controls, heads_column, heads, bars, loss_column, threshold, timesteps, loss_curve)


def _connect_generate(runs: VisitorRuns, view: View, request: Mapping[str, gr.components.Component]) -> None:
    def on_generate(gradio_request: gr.Request, file: str | None, ratio: float, *values: Any) -> Iterator[dict]:
        given = dict(zip(request, values, strict=True))
        yield from generate(runs.of(gradio_request), view, file, ratio, given)

    view.generate.click(lambda: gr.update(interactive=True), None, view.stop, **INSTANT)
    generating = view.generate.click(
        on_generate,
        [view.file, view.ratio, *request.values()],
        [view.alert, view.pictures],
        trigger_mode="multiple",
        concurrency_limit=None,
        **INSTANT | {"queue": True},
    )
    runs.connect_stop(view.stop, generating)


def list_files(model: str, file: str | None = None) -> dict:
    """Offer the width files of a model, and choose one."""
    choices = width_choices(model, file)
    return gr.update(choices=choices, value=file, visible=bool(choices))


def from_url(view: View, query: Mapping[str, str], model: str | None = None) -> dict:
    """Choose the file and the ratio that an address names; what is not there changes nothing."""
    file, ratio = url_state.read_key(query, "widths"), url_state.read_key(query, "widths_ratio")
    model = model or query.get("model", ExperimentRequest.model_fields["model"].default)
    headers = bundled.width_headers(model)
    if file not in headers:
        return {view.file: gr.skip()}
    largest = slider_maximum(headers[file])
    value = {"value": min(float(ratio), largest)} if re.fullmatch(r"0?\.\d{1,9}|0", ratio) else {}
    ratio_shown = gr.update(maximum=largest) | value
    return {view.file: list_files(model, file), view.ratio: ratio_shown} | _threshold_of(view, model, file)


def _threshold_of(view: View, model: str, file: str) -> dict:
    own = own_threshold(bundled.width_headers(model)[file])
    return {} if own is None else {view.threshold: own}


def show_tab(view: View, selection: Selection, query: Mapping[str, str]) -> dict:
    """Show what is selected. Before a file is, the address counts: the tab may be opened before `from_url` answers."""
    if selection.file or view.ratio not in (named := from_url(view, query, selection.model)):
        return show(view, selection)
    file, ratio = named[view.file]["value"], named[view.ratio].get("value", selection.ratio)
    threshold = named.get(view.threshold, selection.threshold)
    return show(view, selection._replace(file=file, ratio=ratio, threshold=threshold)) | named


def show(view: View, selection: Selection) -> dict:
    """Show the files to choose from, what is left in numbers and figures, the loss over timesteps."""
    model, file, ratio, threshold = selection
    headers, hidden = bundled.width_headers(model), gr.update(visible=False)
    if not headers:
        sentence = f"no widths come with the project for {model}; make some on Optimize, and open them in Masks"
        no_file = {view.file: gr.update(choices=[], value=None), view.alert: alert([sentence])}
        empty = {view.summary: "", view.timesteps: "", view.examples: ""} | dict.fromkeys(
            (view.heads, view.bars), NO_FIGURE
        )
        return no_file | empty | {view.heads_column: hidden, view.loss_column: hidden}
    file = file if file in headers else next(iter(headers))
    header = headers[file]
    largest = slider_maximum(header)
    widths = widths_at(request_of_widths(model, header, min(max(ratio, 0.0), largest)))
    return {
        view.file: list_files(model, file),
        view.ratio: gr.update(maximum=largest) | ({"value": largest} if ratio > largest else {}),
        view.alert: "",
        view.summary: width_tiles(widths),
        view.examples: example_cards(model, file, ratio),
        view.heads_column: gr.update(visible=any(dim.endswith(":heads") for dim in widths.keep)),
        view.heads: figure_json(figures.head_map(widths.keep)),
        view.bars: figure_json(figures.share_bars(widths.keep)),
        view.loss_column: gr.update(visible=bool(header.trace)),
        view.timesteps: f"<p role='status'>{_timesteps_sentence(headers, file, widths, threshold)}</p>",
        view.loss_curve: figure_json(figures.threshold_curve(header.trace, threshold)),
    }


def _timesteps_sentence(headers: Mapping[str, WidthHeader], file: str, widths: Widths, threshold: float) -> str:
    trace = headers[file].trace
    used = f"{figures.num_used_timesteps(trace, threshold)} of {len(trace)} timesteps are used. "
    return used + (threshold_overlap(headers, file, widths) if trace else "")


def on_change(view: View, selection: Selection) -> dict:
    """Show the file whose threshold is nearest to the selected one."""
    headers, file = bundled.width_headers(selection.model), selection.file
    file = file_with_threshold(headers, file, selection.threshold) if file in headers else file
    shown = show(view, selection._replace(file=file))
    return leave_values(shown, view.file) if file == selection.file else shown


def generate(run: RunTask, view: View, file: str | None, ratio: float, values: Mapping[str, Any]) -> Iterator[dict]:
    """Generate the three pictures, one update per call; or show an alert."""
    selection = escape(f"{values['model']} {file} {ratio}")

    def of_selection(content: str) -> str:  # which `DROP_OTHERS_JS` reads
        return f'<div data-of="{selection}">{content}</div>'

    nothing = of_selection(cards({}, {}, TITLES))
    yield {view.alert: "", view.pictures: nothing}
    with user_errors() as sentences:
        request = request_for(file, ratio, values)
        frames, pictures = dict[str, Frame](), dict[str, bytes]()
        kept = {"pruned": widths_at(request).macs_fraction}
        for frame in throttle(run(tasks.compare, request)):
            frames[frame.role] = frame
            pictures |= {frame.role: frame.picture} if frame.picture else {}
            yield {view.pictures: of_selection(cards(frames, pictures, TITLES, kept))}
        yield {view.pictures: of_selection(cards(frames, pictures, TITLES, kept) + footer(request, frames))}
    if sentences:
        yield {view.alert: alert(sentences), view.pictures: nothing}
