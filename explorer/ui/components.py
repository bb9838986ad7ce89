"""What several tabs share: plotly figures, the alert, and turning a user error into one sentence."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import plotly.graph_objects as go

from explorer.errors import format_error
from explorer.experiment import EMPTY_PROMPT
from explorer.masks.file_format import FileHeader
from explorer.ui import url_state

PLOTLY = Path(str(files("plotly") / "package_data" / "plotly.min.js"))
STATIC = Path(__file__).parent / "static"
LIBRARY = f"explorer/plotly/{PLOTLY.name}"  # where the page serves it, see `routes`
NO_FIGURE: dict[str, Any] = {}  # the value of a plotly view that has nothing to show
OPEN_QUERY_JS = "(query) => { if (query) location.search = query; }"  # opens another view of the page
# Options of events that are answered at once. Handlers get values as the browser sends them; typed, as Python does.
INSTANT = dict(queue=False, show_progress="hidden", api_visibility="private", preprocess=False)
INSTANT_TYPED = INSTANT | {"preprocess": True}
IN_BROWSER = dict(api_visibility="private")  # with fn=None and js


class ExploreParts(NamedTuple):
    """What other tabs need of Explore."""

    request: dict[str, gr.components.Component]  # the controls of a request, by name
    heatmap: gr.HTML
    widths: gr.Dropdown  # leads to the tab of width pruning
    loaded: Any  # the event after which the controls are as the address says, which a page without one lacks
    drawer: gr.HTML  # of `use_it`, for all tabs


def mount_script(call: str, emits: str = "") -> str:
    """Make a component's JavaScript: import the script that its prop `script` names, and call a function of it.

    `emits` names the component's own events in quotes, which is how Gradio finds them.
    """
    module = "import(new URL(`explorer/static/${props.script}`, document.baseURI))"
    return f"{module}.then((module) => module.{call}); // {emits}"


def plotly_view(waiting: str, caption: str, **kwargs: Any) -> gr.HTML:
    """Make a plotly figure that takes its colours from the page; it shows the sentence `waiting` until it has a value.

    Not gr.Plot: that one bundles an older plotly.js, overwrites `window.Plotly` with it, and emits no clicks.
    """
    return gr.HTML(
        html_template=(
            "<figure><div class='plot'></div><p class='waiting' role='status'>${waiting}</p>"
            "<figcaption>${caption}</figcaption></figure>"
        ),
        js_on_load=mount_script("mountFigure({ element, props, watch })"),
        apply_default_css=False,
        script="plotlyView.js",
        library=LIBRARY,
        waiting=waiting,
        caption=caption,
        **kwargs,
    )


def figure_json(figure: go.Figure) -> dict[str, Any]:
    """Convert a figure to what a plotly view takes as its value."""
    return json.loads(figure.to_json())


def markup(value: str = "", js_on_load: str | None = None, **kwargs: Any) -> gr.HTML:
    """Make a piece of the page from text that was escaped where it was put together."""
    return gr.HTML(value, apply_default_css=False, js_on_load=js_on_load, **kwargs)


@contextmanager
def user_errors() -> Iterator[list[str]]:
    """Turn a user error into one sentence: the list holds it afterwards, and is empty if all went well."""
    sentences: list[str] = []
    try:
        yield sentences
    except ValueError as error:
        sentences.append(format_error(error))


def alert(sentences: list[str]) -> str:
    """Make a box that screen readers announce; empty without sentences. One that begins with the name of a request's
    field (`errors.format_error`) names that field, for `static/fieldErrors.js`."""
    return "".join(f'<p class="alert" role="alert"{_field_of(one)}>{escape(one)}</p>' for one in sentences)


def _field_of(sentence: str) -> str:
    field = "prompt" if sentence == EMPTY_PROMPT else sentence.partition(" ")[0]
    return f' data-field="{field}"' if field in url_state.REQUEST_KEYS else ""


def leave_values(shown: dict[Any, Any], *controls: Any) -> dict[Any, Any]:
    """Return what an answer shows, but with the values of these controls as they are: on a slow connection, a visitor
    may have chosen others since the event."""
    chosen = {
        one: {name: value for name, value in shown[one].items() if name != "value"} for one in controls if one in shown
    }
    return shown | chosen


def url_key_handler(key: str) -> Callable[[gr.Request], str]:
    """Make a handler that reads one of `url_state.TAB_KEYS` from the page's address."""

    def on_load(request: gr.Request) -> str:
        return url_state.read_key(request.query_params, key)

    return on_load


def slider_maximum(header: FileHeader) -> float:
    """Compute the largest ratio of a slider for a file: whole percents."""
    return int(100 * header.max_ratio) / 100


def picked_id(event: gr.EventData) -> str:
    """Find the id of the row of a list that was picked; empty where there is none."""
    try:
        return str(event.id)[: url_state.MAX_CHARACTERS]
    except (AttributeError, TypeError):  # a client sent something else
        return ""
