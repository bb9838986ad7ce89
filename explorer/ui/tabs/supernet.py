"""The SuperNet tab: a lesson that the browser teaches by itself (`static/supernet/`), from what `bundled.lesson` has.

Python is called for one thing: to draw a SubNet that is not among the prepared ones.
"""

from collections.abc import Iterator
from typing import Any

import gradio as gr
from pydantic import ValidationError

from explorer.bundled.lesson import SCENES, request_values
from explorer.errors import format_error
from explorer.experiment import ExperimentRequest
from explorer.figures.style import METHOD_COLOURS
from explorer.jobs import tasks
from explorer.jobs.executors.base import RunTask
from explorer.pruners import PRUNERS, SAMPLER_TITLES
from explorer.ui.components import INSTANT, STATIC, mount_script
from explorer.ui.markup import data_url
from explorer.ui.runs import VisitorRuns

TAB = "supernet"  # whose run is beside those of Explore
# Fills the inputs with what was chosen: the decisions, the scene, whether of stages or layers.
CHOICE_JS = "() => window.explorerLesson.choice()"
LOADING = "The lesson is loading."
FAILED = "The lesson could not be loaded. Reload the page to try again."


def build(runs: VisitorRuns) -> None:
    """Lay out the tab."""
    lesson = gr.HTML(
        value=None,
        html_template=(STATIC / TAB / "lesson.html").read_text(encoding="utf-8"),
        js_on_load=mount_script("mountLesson({ element, props, watch, trigger })", 'emits "draw"'),
        apply_default_css=False,
        elem_id="lesson",
        script=f"{TAB}/lesson.js",
        titles=_titles(),
        hues=METHOD_COLOURS,
        loading=LOADING,
        failed=FAILED,
    )
    chosen = [gr.Textbox(visible=False) for _ in range(3)]

    def on_draw(request: gr.Request, *choice: str) -> Iterator[dict[str, Any]]:
        yield from draw(runs.of(request, TAB), *choice)

    options = INSTANT | {"queue": True}
    lesson.draw(on_draw, chosen, lesson, js=CHOICE_JS, trigger_mode="always_last", concurrency_limit=None, **options)


def _titles() -> dict[str, str]:
    """Name the methods, their variants in the gallery, and the samplers with fewer steps."""
    samplers = {f"{name}-steps": title for name, title in SAMPLER_TITLES.items()}
    variants = {"dipgo-published": f"{PRUNERS['dipgo'].title} as published", "taylor-channels": PRUNERS["taylor"].title}
    return {name: method.title for name, method in PRUNERS.items()} | samplers | variants


def draw(run: RunTask, schedule: str, prompt: str, granularity: str = "stage") -> Iterator[dict[str, Any]]:
    """Draw a scene of the lesson by a schedule; yields the picture and its closeness, or one sentence."""
    answer: dict[str, Any] = {"schedule": schedule, "prompt": prompt}
    try:
        values = request_values(prompt, dict(SCENES)[prompt], schedule, granularity)
        request = ExperimentRequest.model_validate(values)
        for frame in run(tasks.compare, request, None, False):
            if frame.role == "pruned" and frame.done:
                yield answer | {"picture": data_url(frame.picture), "psnr": round(frame.psnr, 2)}
                return
    except KeyError:
        yield answer | {"error": "there is no such picture in the lesson"}
    except (ValidationError, ValueError) as error:
        yield answer | {"error": format_error(error)}
