"""The Features tab: how similar a unit's output is at all pairs of calls, and what of that the schedule uses."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from explorer import figures
from explorer.bundled import masks as bundled
from explorer.experiment import ExperimentRequest, SchedulePlan, Status
from explorer.jobs import tasks
from explorer.jobs.executors.base import RunTask
from explorer.measures.similarity_file import Similarity
from explorer.progress import Progress
from explorer.pruners import SAMPLER_TITLES
from explorer.ui import url_state
from explorer.ui.components import (
    INSTANT_TYPED,
    NO_FIGURE,
    ExploreParts,
    alert,
    figure_json,
    leave_values,
    markup,
    plotly_view,
    url_key_handler,
    user_errors,
)
from explorer.ui.frontend import write_url_js
from explorer.ui.measured_features import MAX_CALLS, MeasuredFeatures
from explorer.ui.runs import VisitorRuns

INTRO = """<p class="intro">From call to call the picture changes a little, and so does what each layer hands on. Where
the map is bright, a layer's output at one call is almost that at the other, and can be reused instead of computed:
that is what makes pruning over time possible. Where it is dark, reuse hurts. The dots are what the schedule on
Explore reuses. <a href="?tab=supernet&scene=similar">In the lesson: little changes from call to call</a></p>"""
MAP_CAPTION = (
    "How alike one layer's outputs at two calls are (cosine, mean over pictures). Dots: what the schedule reuses."
)
CURVES_CAPTION = "The same along the line next to the diagonal: each call with the one before. Grey: all other layers."
TAB = "features"  # whose schedules are computed beside those of Explore
UNIT_JS = "() => window.explorer.unit()"


class View(NamedTuple):
    """The parts of the tab."""

    unit: gr.Dropdown
    measure: gr.Button
    measured_on: gr.HTML
    similarity: gr.HTML
    adjacent: gr.HTML
    own: gr.State  # the id of what this visitor measured

    @property
    def shown(self) -> list[Any]:
        return [self.unit, self.measured_on, self.similarity, self.adjacent]


def build(runs: VisitorRuns, explore: ExploreParts, tab: gr.Tab, tabs: gr.Tabs) -> None:
    """Lay out the tab and connect it to Explore's request and heatmap."""
    markup(INTRO)
    own, kept = gr.State(None), MeasuredFeatures()
    with gr.Row():
        unit = gr.Dropdown([], label="Layer", allow_custom_value=True, elem_id="unit", scale=3)
        measure = gr.Button("Measure my prompt", elem_id="measure", scale=1, min_width=160)
    measured_on = markup(elem_id="measured")
    with gr.Row():
        with gr.Column(min_width=320):
            similarity = plotly_view("The map is loading.", MAP_CAPTION, elem_id="similarity")
        with gr.Column(min_width=320):
            adjacent = plotly_view("The curves are loading.", CURVES_CAPTION, elem_id="adjacent")
    view = View(unit, measure, measured_on, similarity, adjacent, own)

    def on_show(request: gr.Request, name: str | None, own: str | None, *values: Any) -> dict:
        return show(runs.of(request, TAB), view, name, kept.find(own), dict(zip(explore.request, values, strict=True)))

    def on_input(request: gr.Request, *given: Any) -> dict:
        return leave_values(on_show(request, *given), unit)

    def on_measured(request: gr.Request, name: str | None, own: str | None, *values: Any) -> Any:
        return on_show(request, name, own, *values) if own else gr.skip()  # which leaves the reason for having none

    def on_measure(request: gr.Request, *values: Any) -> Iterator[dict]:
        yield from measure_features(runs.of(request), view, kept, dict(zip(explore.request, values, strict=True)))

    controls = list(explore.request.values())
    showing = dict(fn=on_show, inputs=[unit, own, *controls], outputs=view.shown, **INSTANT_TYPED)
    explore.loaded.then(url_key_handler("unit"), None, unit, **INSTANT_TYPED)
    tab.select(**showing)
    unit.change(None, unit, None, js=write_url_js("unit"), api_visibility="private")
    unit.input(**showing | {"fn": on_input})
    named = explore.heatmap.unit(None, None, unit, js=UNIT_JS, api_visibility="private")
    named.then(**showing).then(lambda: gr.Tabs(selected="features"), None, tabs, **INSTANT_TYPED)
    options = dict(show_progress="hidden", api_visibility="private", concurrency_limit=None)
    measured = measure.click(on_measure, controls, [own, measured_on], **options)
    measured.then(**showing | {"fn": on_measured})


def show(run: RunTask, view: View, unit: str | None, own: Similarity | None, values: Mapping[str, Any]) -> dict:
    """Show the units to choose from, what was measured, the map and the curves."""
    with user_errors() as sentences:
        request = url_state.make_request({**values, "prompt": "-"})
        measured = own if own is not None and _is_of(own, request) else _find(request)
        units = measured.header.units
        unit = unit if unit in units else units[len(units) // 2]
        column = units.index(unit)
        reused = [call for plan in run(tasks.plan, request) for call in reused_calls(plan, unit)]
        return {
            view.unit: gr.update(choices=[(figures.plain_name(one), one) for one in units], value=unit),
            view.measured_on: describe(measured),
            view.similarity: figure_json(figures.similarity_map(measured.alike[column], unit, reused)),
            view.adjacent: figure_json(figures.adjacent_curves(units, measured.adjacent, unit)),
        }
    return {view.measured_on: alert(sentences), view.similarity: NO_FIGURE, view.adjacent: NO_FIGURE}


def _find(request: ExperimentRequest) -> Similarity:
    return bundled.feature_similarity(request.model, request.sampler, request.steps)


def _is_of(own: Similarity, request: ExperimentRequest) -> bool:
    """Tell whether what a visitor measured is of this model and trajectory."""
    header = own.header
    return (header.model.id, header.sampler, header.steps) == (request.model, request.sampler, request.steps)


def reused_calls(plan: SchedulePlan, unit: str) -> list[tuple[int, int]]:
    """List (call, source call) wherever `unit` is not computed; empty if the schedule has larger units."""
    if unit not in plan.units:
        return []
    column = plan.units.index(unit)
    calls = np.flatnonzero(plan.status[:, column] != Status.COMPUTED)
    return [(int(call), int(plan.source_call[call, column])) for call in calls]


def describe(measured: Similarity) -> str:
    """Say what the numbers were measured on."""
    header = measured.header
    pictures = "one picture" if header.pictures == 1 else f"{header.pictures} pictures"
    return f"<p>Measured on {pictures}, {SAMPLER_TITLES[header.sampler]} with {header.steps} steps.</p>"


def measure_features(run: RunTask, view: View, kept: MeasuredFeatures, values: Mapping[str, Any]) -> Iterator[dict]:
    """Generate the visitor's prompt and compare the features of all calls."""
    waiting = "Generating your prompt and comparing what every unit returns at every call ..."
    yield {view.own: None, view.measured_on: f"<p role='status'>{waiting}</p>"}
    with user_errors() as sentences:
        request = url_state.make_request(values)
        if request.steps > MAX_CALLS:
            raise ValueError(f"features are measured here over at most {MAX_CALLS} steps, not {request.steps}")
        for item in run(tasks.measure, request):
            if not isinstance(item, Progress):
                yield {view.own: kept.keep(item), view.measured_on: describe(item)}
        return
    yield {view.measured_on: alert(sentences)}
