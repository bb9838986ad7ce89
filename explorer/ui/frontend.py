"""The components that run in the browser, and how events reach them. Their scripts are in `static/`. Loads no torch."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr
import plotly.graph_objects as go

from explorer.bundled import gallery
from explorer.experiment import ExperimentRequest
from explorer.figures.style import COLOURS, METHOD_COLOURS, PLAIN_NAMES, bare_layout
from explorer.jobs.mask_library import JOB_PREFIX
from explorer.measures.table import METRICS
from explorer.models import catalogue
from explorer.pruners import PRUNERS, SAMPLER_TITLES, method_title, methods_for
from explorer.ui import url_state
from explorer.ui.components import LIBRARY, STATIC, figure_json, mount_script
from explorer.ui.views.heatmap import heatmap_style

GALLERY_ADDRESS = "explorer/gallery/"
DEFAULT_MODEL = ExperimentRequest.model_fields["model"].default  # which an address does not need to name
# Fills the last input with the mask that was edited by hand.
WITH_EDITS_JS = "(...values) => [...values.slice(0, -1), window.explorerManualMask?.() ?? '']"
# Suggests the names that a model knows.
SUGGEST_JS = """
const prompt = () => document.querySelector("#prompt input, #prompt textarea");
const attach = () => prompt()?.setAttribute("list", "known-names-list");
attach(); watch("value", attach); setTimeout(attach, 500);
"""
GENERATE_JS = "(...values) => [...values.slice(0, -1), window.explorer?.manualSchedule() ?? '']"
NEW_SEED_JS = "() => Math.floor(Math.random() * 2 ** 32)"
SAVE_FILE_JS = """(file) => {
    if (!file) return;
    const { name, content } = JSON.parse(file);
    const href = `data:application/octet-stream;base64,${content}`;
    Object.assign(document.createElement("a"), { download: name, href }).click();
}"""
OPEN_MASKS_JS = (
    f"(job) => {{ location.search = new URLSearchParams({{ mask: `{JOB_PREFIX}${{job}}`, tab: 'masks' }}); }}"
)
SAVE_RESULT_JS = """(job) => {
    const href = new URL(`explorer/results/${encodeURIComponent(job)}`, document.baseURI);
    Object.assign(document.createElement("a"), { download: "", href }).click();
}"""
# Returns the alert and the id of the selected mask: the new one, or both as they were where no file was chosen.
UPLOAD_JS = """async (token, alert, selected) => {
    const { uploadFile } = await import(new URL("explorer/static/upload.js", document.baseURI));
    return uploadFile(token, alert, selected);
}"""
FONT_FILES = [
    f"static/fonts/IBMPlexSans/IBMPlexSans-{weight}.woff2" for weight in ("Regular", "Bold")
]  # which Gradio brings
FIRST_STYLES = ("style.css", "map.css", "firstScreen/firstScreen.css")  # of what is there before Gradio is
EDITABLE_MAP = (
    "<div class='plot' tabindex='0' role='application' aria-label='Map of layers by calls'></div>"
    "<p class='edit-buttons'><button type='button' data-edit='undo' title='Ctrl+Z' disabled>Undo</button>"
    "<button type='button' data-edit='redo' title='Ctrl+Y' disabled>Redo</button></p>"
    "<details class='as-table'><summary>As a table</summary><div><table></table></div></details>"
)


def head_markup(theme_hash: str) -> str:
    """Make what the page's head holds: the scripts that go before Gradio's own or run while it mounts the page, the
    styles of the first screen, and the links by which the browser fetches the rest and the first model's table
    meanwhile. The first two scripts run before Gradio's, which then finds what they do."""
    links = [f'<link rel="preload" as="font" type="font/woff2" crossorigin href="{file}">' for file in FONT_FILES]
    links += [f'<link rel="modulepreload" href="explorer/static/{file.name}">' for file in sorted(STATIC.glob("*.js"))]
    links.append(f'<link rel="preload" as="fetch" crossorigin href="{GALLERY_ADDRESS}{DEFAULT_MODEL}/{gallery.TABLE}">')
    styles = [f"theme.css?v={theme_hash}", *(f"explorer/static/{file}" for file in FIRST_STYLES)]
    links += [f'<link rel="stylesheet" href="{file}">' for file in styles]
    scripts = {"eventStream.js": "", "firstScreen/firstScreen.js": "", "confirmDelete.js": "async", "useIt.js": "async"}
    tags = [f'<script type="module" {when} src="explorer/static/{file}"></script>' for file, when in scripts.items()]
    return "".join([*links, *tags, f"<style>{_option_styles()}{_narrow_styles()}</style>"])


def _narrow_styles() -> str:
    """Repeat the rules for narrow windows for the first screen alone. Gradio adds all styles once more, but these only
    for what is its own, so that those for wide windows would come last."""
    css = (STATIC / "style.css").read_text(encoding="utf-8")
    blocks = re.findall(r"^@media \(max-width[^\n]*(?:\{\n.*?^\}|\} \})", css, re.M | re.S)
    return "".join(block.replace("{", "{ #first-screen {", 1) + "}" for block in blocks)


def _option_styles() -> str:
    """Give each method its hue in menus, whose options Gradio names by their titles."""
    return "".join(
        f'[role="option"][aria-label="{method_title(name)}"] {{ --hue: {colour}; }}'
        for name, colour in METHOD_COLOURS.items()
        if name in PRUNERS
    )


def lead(**kwargs: Any) -> gr.HTML:
    """Make the task of the page and the scenes to choose from; the script of `pictures` fills both in."""
    template = (STATIC / "lead.html").read_text(encoding="utf-8")
    return gr.HTML(value=None, html_template=template, apply_default_css=False, **kwargs)


def pictures(**kwargs: Any) -> gr.HTML:
    """Make the pictures, their numbers and captions.

    Its events: `address`, where the page was opened with one that says something, `plan`, where the gallery has no
    answer, and `choose`, when something in it was clicked.
    """
    return gr.HTML(
        value=None,
        html_template=(STATIC / "view.html").read_text(encoding="utf-8"),
        js_on_load=mount_script("mountView({ element, props, watch, trigger })", 'emits "address", "plan", "choose"'),
        apply_default_css=False,
        script="view.js",
        model=DEFAULT_MODEL,
        galleries={model: _gallery_facts(model) for model in catalogue.EMBEDDED},
        metrics=_metric_rows(),
        samplers=SAMPLER_TITLES,
        titles={name: method.title for name, method in PRUNERS.items()},
        hues=METHOD_COLOURS,
        plainNames=[(path, name.replace("\\", "$")) for path, name in PLAIN_NAMES],
        tabKeys=list(url_state.TAB_KEYS),
        defaults=_setting_defaults(),
        **kwargs,
    )


def _setting_defaults() -> dict[str, Any]:
    """List the defaults of the methods' own settings, by `method.field`."""
    return {
        f"{method}.{name}": field.default
        for method in methods_for("schedule")
        for name, field in PRUNERS[method].config.model_fields.items()
    }


def _gallery_facts(model: str) -> dict[str, Any]:
    """Say where the browser finds a model's gallery, "" for nowhere, and what is wrong with it."""
    checked = gallery.check_gallery(gallery.GALLERIES / model, catalogue.weights_revision(model))
    return {
        "folder": f"{GALLERY_ADDRESS}{model}/" if checked.usable else "",
        "missing": list(checked.missing),
        "warnings": list(checked.warnings),
    }


def _metric_rows() -> dict[str, Any]:
    fields = ("label", "unit", "digits", "help")
    return {name: {field: getattr(metric, field) for field in fields} for name, metric in METRICS.items()}


def schedule_heatmap(waiting: str, caption: str, **kwargs: Any) -> gr.HTML:
    """Make the map of units by calls, at first the sentence `waiting`. Its event `unit`: a layer's features were asked
    for."""
    return gr.HTML(
        html_template=(
            f"<figure>{EDITABLE_MAP}<p class='waiting'>${{waiting}}</p><p class='cell-status' role='status'></p>"
            "<figcaption>${caption}</figcaption></figure>"
        ),
        js_on_load=mount_script("mountHeatmap({ element, props, watch, trigger })", 'emits "unit"'),
        apply_default_css=False,
        script="view.js",
        style=heatmap_style(),
        waiting=waiting,
        caption=caption,
        **kwargs,
    )


def mask_heatmap(caption: str, **kwargs: Any) -> gr.HTML:
    """Make a schedule to edit by hand, with what it costs; its value is what `views.masks.schedule_json` makes.

    `window.explorerManualMask()` is the schedule as `encode_bits` writes it where it was edited, else empty.
    """
    return gr.HTML(
        value=None,
        html_template=(
            f"<dl class='tiles'></dl><figure>{EDITABLE_MAP}<p class='cell-status' role='status'></p>"
            "<p class='edited-note' role='status' hidden>Edited by hand: keep it, or open it in Explore.</p>"
            "<figcaption>${caption}</figcaption></figure>"
        ),
        js_on_load=mount_script("mountMask({ element, props, watch })"),
        apply_default_css=False,
        script="mask.js",
        style=heatmap_style(),
        caption=caption,
        **kwargs,
    )


def job_view(waiting: str, **kwargs: Any) -> gr.HTML:
    """Make the view of a job, at first the sentence `waiting`; its value is made by `views.optimize.JobView`."""
    return gr.HTML(
        value=None,
        html_template=(
            "<div class='waiting'>${waiting}</div><div class='description'></div>"
            "<img class='preview' hidden alt='What is generated at this step' />"
            "<div class='curves' hidden></div><div class='gates' hidden></div>"
        ),
        js_on_load=mount_script("mountJob({ element, props, watch })"),
        apply_default_css=False,
        script="job.js",
        library=LIBRARY,
        layout=figure_json(go.Figure(layout=bare_layout(240)))["layout"],
        colours=list(COLOURS),
        waiting=waiting,
        **kwargs,
    )


def pick_list(columns: Sequence[str], waiting: str, **kwargs: Any) -> gr.HTML:
    """Make a table of rows {id, cells}, the sentence `waiting` while empty. Its event `pick`: a row was chosen."""
    return gr.HTML(
        value=None,
        html_template="<table></table><p class='waiting'>${waiting}</p>",
        js_on_load=mount_script("mountList({ element, props, watch, trigger })", 'emits "pick"'),
        apply_default_css=False,
        script="job.js",
        columns=list(columns),
        waiting=waiting,
        **kwargs,
    )


def set_request_js(names: Iterable[str]) -> str:
    """Make JavaScript that hands the controls' values to the browser's state, which may be loaded later."""
    return """(...values) => {
        const request = Object.fromEntries(NAMES.map((name, i) => [name, values[i]]));
        if (window.explorer) window.explorer.setRequest(request, true);
        else window.explorerRequest = request;
    }""".replace("NAMES", json.dumps(list(names)))


def unless_addressed(js: str) -> str:
    """Make JavaScript that does nothing where the page's address says what to show."""
    return f"(...values) => {{ if (!location.search) ({js})(...values); }}"


def chosen_values_js(names: Iterable[str]) -> str:
    """Make JavaScript that gives the controls what was clicked in the gallery."""
    return f"() => window.explorer.chosenValues({json.dumps(list(names))})"


def write_url_js(key: str) -> str:
    """Make JavaScript that keeps a tab's value in the address under one of TAB_KEYS, or deletes an empty one."""
    assert key in url_state.TAB_KEYS, key
    write = f"module.writeKey({json.dumps(key)}, value)"
    return (
        f"(value) => {{ import(new URL('explorer/static/urlState.js', document.baseURI)).then((module) => {write}); }}"
    )
