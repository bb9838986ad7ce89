"""The Features tab: how alike a unit's output is at all pairs of calls, and what of that the schedule uses."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import gradio as gr
import numpy as np

from explorer import figures, shipped
from explorer.experiment import Plan
from explorer.features import Similarity
from explorer.jobs.executors import Executor, Run
from explorer.ui import address
from explorer.ui.components import LIGHT, alert, as_value, markup, plotly_view, user_errors
from explorer.work import Progress

WHY = """<p class="why">From call to call the picture changes a little, and so does most of what the network computes on
the way: where the map is bright, the output at one call is almost that at the other, and may as well be handed back
instead of computed. That is what makes pruning over time possible (Ma et al., DeepCache; Zhu et al., DiP-GO). Where it
is dark, reuse hurts. The dots are the calls at which the schedule of the Explore tab reuses a value, each at the call
whose value it is.</p>"""
MAP = "Cosine of one unit's outputs at two calls, mean over pictures. Dots: what the schedule on Explore reuses."
CURVES = "The same along the line beside the diagonal: each call with the one before. Grey: all other units."


def build(
    executor: Executor, asked: Mapping[str, gr.components.Component], tab: gr.Tab, keep: gr.HTML, tabs: gr.Tabs
) -> None:
    """Lay out the tab and connect it; `asked` are the controls of the question, `keep` the map that names units."""
    markup(WHY)
    own = gr.State(None)  # what this visitor measured
    with gr.Row():
        unit = gr.Dropdown([], label="Unit", allow_custom_value=True, elem_id="unit", scale=3)
        measure = gr.Button("Measure my prompt", elem_id="measure", scale=1, min_width=160)
    said = markup(elem_id="measured")
    with gr.Row():
        plot = plotly_view("The map comes in a moment.", MAP, elem_id="alike")
        curves = plotly_view("The curves come in a moment.", CURVES, elem_id="adjacent")

    def show(request: gr.Request, name: str | None, mine: Similarity | None, *values: Any) -> tuple:
        return shown(partial(executor.run, request.session_hash), tuple(asked), name, mine, values)

    def measured(request: gr.Request, *values: Any) -> Iterator[tuple]:
        yield from on_measure(partial(executor.run, request.session_hash), tuple(asked), values)

    inputs, outputs = [unit, own, *asked.values()], [unit, said, plot, curves]
    light = {name: value for name, value in LIGHT.items() if name != "preprocess"}
    tab.select(show, inputs, outputs, **light)
    named = keep.unit(None, None, unit, js="() => window.explorer.unit()", api_visibility="private")
    named.then(show, inputs, outputs, **light).then(lambda: gr.Tabs(selected="features"), None, tabs, **light)
    unit.input(show, inputs, outputs, **light)
    measure.click(measured, list(asked.values()), [own, said], show_progress="hidden", api_visibility="private").then(
        show, inputs, outputs, **light
    )


def shown(run: Run, names: tuple[str, ...], unit: str | None, own: Similarity | None, values: tuple) -> tuple:
    """The units to choose from, what the numbers are of, the map and the curves."""
    with user_errors() as said:
        question = address.question(dict(zip(names, values, strict=True)) | {"prompt": "-"})
        found = own if _fits(own, question) else shipped.features(question.model, question.sampler, question.steps)
        units = found.header.units
        unit = unit if unit in units else units[len(units) // 2]
        column = units.index(unit)
        plan = next(run("plan", question))
        figure = figures.similarity_map(found.alike[column], unit, reused(plan, unit))
        curves = figures.adjacent_curves(units, found.adjacent, unit)
        return gr.update(choices=list(units), value=unit), told(found), as_value(figure), as_value(curves)
    return gr.update(), alert(said), None, None


def _fits(own: Similarity | None, question: Any) -> bool:
    """Whether what a visitor measured is of this model and trajectory."""
    if own is None:
        return False
    header = own.header
    return (header.model.id, header.sampler, header.steps) == (question.model, question.sampler, question.steps)


def reused(plan: Plan, unit: str) -> list[tuple[int, int]]:
    """(call, call whose value it holds) wherever `unit` is not computed; none if the schedule has larger units."""
    if unit not in plan.units:
        return []
    column = plan.units.index(unit)
    return [(int(call), int(plan.source[call, column])) for call in np.flatnonzero(plan.fate[:, column])]


def told(found: Similarity) -> str:
    """What the numbers are of."""
    header = found.header
    pictures = "one picture" if header.pictures == 1 else f"{header.pictures} pictures"
    return f"<p>Measured on {pictures}, {header.sampler.upper()} with {header.steps} steps.</p>"


def on_measure(run: Run, names: tuple[str, ...], values: tuple) -> Iterator[tuple]:
    """Draw the visitor's prompt and compare the features of all calls."""
    yield None, "<p role='status'>Drawing your prompt and comparing what every unit hands on at every call ...</p>"
    with user_errors() as said:
        for item in run("measure", address.question(dict(zip(names, values, strict=True)))):
            if not isinstance(item, Progress):
                yield item, told(item)
        return
    yield None, alert(said)
