"""The button "Use it" of several tabs, and the drawer that it opens: lines of Python, commands, the file, a report."""

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

import gradio as gr

from explorer.ui.components import INSTANT, STATIC, mount_script, user_errors
from explorer.ui.views.use_it import Use, drawer_json

OPENINGS = count()  # each answer is another value, also where nothing has changed
EXPLORE_JS = """async (...values) => {
    const { shownValues } = await import(new URL("explorer/static/useIt.js", document.baseURI));
    return shownValues(NAMES, values);
}"""


def make_drawer() -> gr.HTML:
    """Make the drawer, closed; its value is what `views.use_it.drawer_json` makes, or a sentence as `error`."""
    return gr.HTML(
        value=None,
        html_template=(STATIC / "useIt.html").read_text(encoding="utf-8"),
        js_on_load=mount_script("mountUseIt({ element, props, watch })"),
        apply_default_css=False,
        script="useIt.js",
        elem_id="use-it",
    )


def make_button(place: str, **options: Any) -> gr.Button:
    """Make the button of a tab; the browser opens the drawer at once and fills it when the answer is there."""
    options = {"min_width": 80} | options
    return gr.Button("Use it", elem_id=f"{place}-use", elem_classes="use-it", **options)


def explore_js(names: Iterable[str]) -> str:
    """Make JavaScript that sends what Explore shows: the values of these controls, and what was edited."""
    return EXPLORE_JS.replace("NAMES", json.dumps(list(names)))


def connect(
    button: gr.Button,
    drawer: gr.HTML,
    find: Callable[..., Use],
    inputs: Sequence[gr.components.Component],
    **options: Any,
) -> None:
    """Have a button show what `find(request, *values)` finds; it raises ValueError for what cannot be used."""

    def on_use(request: gr.Request, *values: Any) -> dict[str, Any]:
        with user_errors() as sentences:
            return drawer_json(find(request, *values)) | {"opening": next(OPENINGS)}
        return {"error": sentences[0], "opening": next(OPENINGS)}

    button.click(on_use, list(inputs), drawer, **INSTANT | options)
