""" "Your model ..." among the models of Explore: a drawer that says what can be pruned of a network of one's own."""

import json
from collections.abc import Callable
from itertools import count
from typing import Any

import gradio as gr

from explorer.ui.components import INSTANT, STATIC, mount_script, user_errors
from explorer.ui.runs import VisitorRuns
from explorer.ui.views.own_model import describe

CHOICE = ("Your model …", "your model")  # the last model of the list; the browser chooses the one before again
ANSWERS = count()  # each is another value, also where nothing has changed
CHOOSE_JS = """async (model, changed) => {
    if (model !== CHOICE) return [model, `${performance.now()}`];
    const { openOwnModel } = await import(new URL("explorer/static/ownModel.js", document.baseURI));
    return [openOwnModel(FALLBACK), changed];
}"""


def make_drawer(runs: VisitorRuns) -> gr.HTML:
    """Make the drawer, closed, and connect it. Its event `describe` brings a name and the text of a config.json."""
    drawer = gr.HTML(
        value=None,
        html_template=(STATIC / "ownModel.html").read_text(encoding="utf-8"),
        js_on_load=mount_script("mountOwnModel({ element, props, watch, trigger })", 'emits "describe"'),
        apply_default_css=False,
        script="ownModel.js",
        elem_id="own-model",
    )

    def on_describe(request: gr.Request, event: gr.EventData) -> dict[str, Any]:
        with user_errors() as sentences:
            runs.count_change(request)
            found = describe(runs.of(request, "own-model"), *brought_by(event))
            return found | {"answer": next(ANSWERS)}
        return {"error": sentences[0], "answer": next(ANSWERS)}

    drawer.describe(on_describe, None, drawer, **INSTANT)
    return drawer


def brought_by(event: gr.EventData) -> tuple[Any, Any]:
    """Read the name and the text that an event brings; None for what a client left out."""
    try:
        return event.name, event.config
    except (AttributeError, TypeError):
        return None, None


def connect_choice(model: gr.Dropdown, fallback: str) -> Callable[..., Any]:
    """Have the entry of the list open the drawer instead; returns the event of another model, as `model.input` was."""
    js = CHOOSE_JS.replace("CHOICE", json.dumps(CHOICE[1])).replace("FALLBACK", json.dumps(fallback))
    changed = gr.Textbox(visible="hidden", elem_id="model-changed")
    both = [model, changed]
    model.input(None, both, both, js=js, api_visibility="private")
    return changed.change
