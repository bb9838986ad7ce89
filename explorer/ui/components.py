"""What several tabs share: the plotly view, the alert, the turning of a user's mistake into one sentence."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import plotly.graph_objects as go

from explorer import experiment

PLOTLY = Path(str(files("plotly") / "package_data" / "plotly.min.js"))
FOLDER = Path(__file__).parent
# of events that are answered within a moment
LIGHT = dict(queue=False, show_progress="hidden", api_visibility="private", preprocess=False)


class Explored(NamedTuple):
    """What other tabs need of Explore."""

    question: dict[str, gr.components.Component]  # its controls, by name
    keep: gr.HTML
    smaller: gr.Dropdown  # leads to a smaller network
    came: Any  # the event by which the controls are as the address asks


def plotly_view(waiting: str, caption: str, **kwargs: Any) -> gr.HTML:
    """A plotly figure that takes its colours from the page; the sentence `waiting` until there is one.

    Not gr.Plot: that one bundles an older plotly.js, overwrites `window.Plotly` with it, and emits no clicks.
    """
    return gr.HTML(
        html_template=(
            "<figure><div class='plot'></div><p class='waiting' role='status'>${waiting}</p>"
            "<figcaption>${caption}</figcaption></figure>"
        ),
        js_on_load=(FOLDER / "plotly_view.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        script=f"gradio_api/file={PLOTLY}",
        waiting=waiting,
        caption=caption,
        **kwargs,
    )


def as_value(figure: go.Figure) -> dict[str, Any]:
    """What a plotly view is given to show."""
    return json.loads(figure.to_json())


def markup(value: str = "", js_on_load: str | None = None, **kwargs: Any) -> gr.HTML:
    """A piece of the page made of text that was escaped where it was put together."""
    return gr.HTML(value, apply_default_css=False, js_on_load=js_on_load, **kwargs)


@contextmanager
def user_errors() -> Iterator[list[str]]:
    """The one place where a user's mistake becomes a sentence: what was raised inside is in the list afterwards."""
    said: list[str] = []
    try:
        yield said
    except ValueError as error:
        said.append(experiment.sentence(error))


def alert(said: list[str]) -> str:
    """The sentence as a box that screen readers announce; nothing if all went well."""
    return "".join(f'<p class="alert" role="alert">{escape(sentence)}</p>' for sentence in said)
