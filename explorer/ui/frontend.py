"""What runs in the browser: the pictures and the map of the Explore tab, and how events reach them. Loads no torch.

The scripts lie in `view/`. The whole state of a view is there, and in the page's address.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import plotly.graph_objects as go

from explorer import catalogue, figures, gallery
from explorer.figures.style import COLOURS, bare_layout
from explorer.ui.components import PLOTLY, as_value

VIEW = Path(__file__).parent / "view"
JOB = "import(new URL(`gradio_api/file=${props.script}`, document.baseURI)).then((job) => job.%s)"
EDITABLE = (
    "<div class='plot' tabindex='0' role='application' aria-label='Map of units by calls'></div>"
    "<p class='edits'><button type='button' data-edit='undo' title='Ctrl+Z' disabled>Undo</button>"
    "<button type='button' data-edit='redo' title='Ctrl+Y' disabled>Redo</button></p>"
)
LOAD = "import(new URL(`gradio_api/file=${props.script}`, document.baseURI)).then((view) => view.%s); // %s"


def preloads() -> str:
    """Has the browser fetch scripts and table while Gradio's own scripts are still on their way."""
    links = [f'<link rel="modulepreload" href="gradio_api/file={file}">' for file in sorted(VIEW.glob("*.js"))]
    table = f'<link rel="preload" as="fetch" crossorigin href="gradio_api/file={gallery.FOLDER / gallery.TABLE}">'
    return "".join([*links, table])


def pictures(defaults: dict[str, Any], **kwargs: Any) -> gr.HTML:
    """The pictures, their numbers and words. `defaults`: of the methods' own settings, by `method.field`.

    Its events: `plan`, where the gallery has no answer, and `choose`, when something in it was clicked.
    """
    checked = gallery.check(gallery.FOLDER, catalogue.revision("emoji-unet"))
    return gr.HTML(
        value=None,
        html_template=(VIEW / "view.html").read_text(encoding="utf-8"),
        js_on_load=LOAD % ("mountView({ element, props, watch, trigger })", 'emits "plan" and "choose"'),
        apply_default_css=False,
        script=str(VIEW / "view.js"),
        folder=f"gradio_api/file={gallery.FOLDER}/" if checked.usable else "",
        missing=list(checked.missing),
        said=list(checked.said),
        figures=_figures() if checked.usable else {},
        defaults=defaults,
        **kwargs,
    )


def _figures() -> dict[str, Any]:
    """An empty map for each set of units that the gallery knows, which the browser fills."""
    table = json.loads((gallery.FOLDER / gallery.TABLE).read_text(encoding="utf-8"))
    calls, found = len(table["timesteps"]), {}
    for size, graph in table["graphs"].items():
        found[size] = as_value(figures.blank_heatmap([unit["name"] for unit in graph["units"]], calls, figures.Words()))
    return found


def keep_map(waiting: str, caption: str, **kwargs: Any) -> gr.HTML:
    """Units by calls: what runs. The sentence `waiting` until it is drawn. Its event `unit`: a name was clicked."""
    return gr.HTML(
        html_template=(
            f"<figure>{EDITABLE}<p class='waiting'>${{waiting}}</p><p class='cell' role='status'></p>"
            "<figcaption>${caption}</figcaption></figure>"
        ),
        js_on_load=LOAD % ("mountMap({ element, props, watch, trigger })", 'emits "unit"'),
        apply_default_css=False,
        script=str(VIEW / "view.js"),
        library=f"gradio_api/file={PLOTLY}",
        waiting=waiting,
        caption=caption,
        **kwargs,
    )


def mask_map(caption: str, **kwargs: Any) -> gr.HTML:
    """A schedule to switch by hand, with what it costs; its value is what `ui.masks` says. `window.explorerMask()` is
    the schedule in letters where it was switched, else empty."""
    return gr.HTML(
        value=None,
        html_template=(
            f"<dl class='tiles'></dl><figure>{EDITABLE}<p class='cell' role='status'></p>"
            "<p class='edited' role='status' hidden>Switched by hand: keep it, or open it in Explore.</p>"
            "<figcaption>${caption}</figcaption></figure>"
        ),
        js_on_load=LOAD % ("mountMask({ element, props, watch })", ""),
        apply_default_css=False,
        script=str(VIEW / "mask.js"),
        library=f"gradio_api/file={PLOTLY}",
        caption=caption,
        **kwargs,
    )


def job_view(waiting: str, **kwargs: Any) -> gr.HTML:
    """A job at work; its value is what `watching.Watch.news` says. The sentence `waiting` until there is one."""
    return gr.HTML(
        value=None,
        html_template=(
            "<div class='waiting'>${waiting}</div><div class='said'></div>"
            "<img class='moment' hidden alt='What is drawn at this step' />"
            "<div class='curve' hidden></div><div class='gates' hidden></div>"
        ),
        js_on_load=JOB % "mountJob({ element, props, watch })",
        apply_default_css=False,
        script=str(VIEW / "job.js"),
        library=f"gradio_api/file={PLOTLY}",
        layout=as_value(go.Figure(layout=bare_layout(240)))["layout"],
        colours=list(COLOURS),
        waiting=waiting,
        **kwargs,
    )


def pick_list(columns: Sequence[str], waiting: str, **kwargs: Any) -> gr.HTML:
    """Rows {id, cells} as a table; the sentence `waiting` while there is none. Its event `pick`: a row was chosen."""
    return gr.HTML(
        value=None,
        html_template="<table></table><p class='waiting'>${waiting}</p>",
        js_on_load=JOB % "mountList({ element, props, watch, trigger })" + ' // emits "pick"',
        apply_default_css=False,
        script=str(VIEW / "job.js"),
        columns=list(columns),
        waiting=waiting,
        **kwargs,
    )


def asked(names: Iterable[str]) -> str:
    """JavaScript that tells the browser's state what the controls hold; it may come before the scripts do."""
    return """(...values) => {
        const asked = Object.fromEntries(NAMES.map((name, i) => [name, values[i]]));
        if (window.explorer) window.explorer.asked(asked, true);
        else window.explorerAsked = asked;
    }""".replace("NAMES", json.dumps(list(names)))


def chosen(names: Iterable[str]) -> str:
    """JavaScript that gives the controls what was clicked in the gallery."""
    return f"() => window.explorer.chosen({json.dumps(list(names))})"


def in_address(name: str) -> str:
    """JavaScript that keeps a value in the page's address under a name; an empty one, which 0 is not, takes it out."""
    return """(value) => {
        const query = new URLSearchParams(location.search);
        value || value === 0 ? query.set(NAME, value) : query.delete(NAME);
        history.replaceState(history.state, "", query.size ? `${location.pathname}?${query}` : location.pathname);
    }""".replace("NAME", json.dumps(name))
