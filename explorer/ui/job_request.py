"""The request of a job on the Optimize tab: model, method and that method's settings, how long it takes, the start."""

import json
from collections.abc import Mapping
from functools import partial
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from explorer.jobs.estimates import estimate
from explorer.jobs.job import Job
from explorer.jobs.manager import JOB_METHODS, JobManager
from explorer.models.catalogue import RUN, available_models, list_models, own_run
from explorer.pruners import PRUNERS, method_title
from explorer.pruners.presets import GOOD, PRESETS
from explorer.ui import controls
from explorer.ui.auth import Visitor
from explorer.ui.components import INSTANT_TYPED, alert, markup, user_errors

DEFAULT_METHOD = "dipgo"


class JobRequest(NamedTuple):
    """The controls of a request."""

    model: gr.Dropdown
    method: gr.Dropdown
    prompts: gr.Textbox
    preset: gr.Textbox  # settings to begin with, where a job is duplicated, as JSON

    def filled_in(self, job: Job) -> dict[Any, Any]:
        """Show the request of a job."""
        settings = {name: value for name, value in job.settings.items() if name != "stop_after"}  # of an early finish
        preset = json.dumps({job.method: settings, "of": job.id})
        return {
            self.model: job.model,
            self.method: job.method,
            self.prompts: "\n".join(job.prompts),
            self.preset: preset,
        }


def make_request() -> tuple[JobRequest, gr.Column]:
    """Make the controls, and the place for the settings of the method."""
    models = available_models()
    label, info = "Prompts", "one per line; empty: the model's own names"
    shared: dict[str, Any] = dict(interactive=True)  # which Gradio does not infer, because @gr.render makes the events
    request = JobRequest(
        model=gr.Dropdown(models, label="Model", value=models[0] if models else None, elem_id="job-model", **shared),
        method=gr.Dropdown(
            controls.method_choices(JOB_METHODS), label="Method", value=DEFAULT_METHOD, elem_id="job-method", **shared
        ),
        prompts=gr.Textbox(label=label, info=info, lines=2, max_lines=6, elem_id="job-prompts", **shared),
        preset=gr.Textbox("{}", visible="hidden", elem_id="job-preset"),
    )
    return request, gr.Column(elem_id="job-settings")


def render_settings(
    page: gr.Blocks, manager: JobManager, request: JobRequest, visitor: Visitor, alert_box: gr.HTML, job_id: gr.Textbox
) -> None:
    """Make the controls of the chosen method, anew for another one; the estimate; the start, which sets `job_id`."""
    model, prompts = request.model, request.prompts

    @gr.render(
        inputs=[request.method, request.preset, request.model],
        triggers=[page.load, request.method.change, request.preset.change],
    )
    def render(method: str, preset: str, chosen_model: str) -> None:
        if method not in JOB_METHODS:
            return
        values, chosen = preset_of(method, preset)
        values = own_run(chosen_model) | dict(values)
        if method in PRESETS:
            titles, info = list(PRESETS[method]), "each fills in the settings below"
            size = gr.Radio(
                titles, label="How much work", info=info, value=chosen, elem_id="job-size", interactive=True
            )
            size.input(partial(fill_in_size, method), size, request.preset, **INSTANT_TYPED)
        start = gr.Button("Start", variant="primary", elem_id="job-start")
        estimate_box = markup(elem_id="job-estimate")
        with gr.Accordion(f"Settings of {method_title(method)}", open=not chosen, elem_id="job-more"):
            made = controls.make_controls(PRUNERS[method].config, "set", skip=(), values=values)
        fit_to_model(made, method, model, chosen_model)
        keys, inputs = tuple(made), list(made.values())

        def on_change(model: str, *given: Any) -> str:
            with user_errors() as sentences:
                return f"<p>{escape(estimate(model, method, settings_from_controls(keys, given)).describe())}</p>"
            return alert(sentences)

        estimate_box.value = on_change(chosen_model, *(control.value for control in inputs))

        def on_start(request: gr.Request, token: str, model: str, lines: str, *given: Any) -> dict:
            with user_errors() as sentences:
                requester = visitor.guard.check_allowed(token, request)
                prompts = [line.strip() for line in lines.splitlines() if line.strip()]
                chosen = settings_from_controls(keys, given)
                job = manager.submit(requester.owner, method, model, chosen, prompts, requester.address)
                return {alert_box: "", job_id: job.id}
            return {alert_box: alert(sentences)}

        changes = [model.change, *(control.change for control in inputs)]
        gr.on(changes, on_change, [model, *inputs], estimate_box, trigger_mode="always_last", **INSTANT_TYPED)
        start.click(on_start, [visitor.token, model, prompts, *inputs], [alert_box, job_id], **INSTANT_TYPED)


def fit_to_model(made: Mapping[str, Any], method: str, model: gr.Dropdown, chosen_model: str) -> None:
    """Have a method's controls follow the model: how it runs, and whether it has AdaLN channels."""
    if adaln := made.get("set.prune_adaln"):
        adaln.visible = has_adaln_channels(chosen_model)
        model.change(offer_adaln, model, adaln, **INSTANT_TYPED)
    of_run = {name: made[f"set.{name}"] for name in RUN if f"set.{name}" in made}
    model.select(partial(fill_in_run, method, tuple(of_run)), model, list(of_run.values()), **INSTANT_TYPED)


def has_adaln_channels(model_id: str) -> bool:
    """Say whether a model has AdaLN channels that can be pruned: FLUX has."""
    return any(row["id"] == model_id and row["denoiser"] == "FluxTransformer2DModel" for row in list_models())


def offer_adaln(model_id: str) -> dict[str, Any]:
    """Show the setting for a model that has such channels; for another one it is off."""
    return gr.update(visible=True) if has_adaln_channels(model_id) else gr.update(visible=False, value=False)


def fill_in_run(method: str, names: tuple[str, ...], model_id: str) -> list[Any]:
    """Choose how another model runs, as it was made to, else by the method's defaults; one value for each name."""
    fields, own = PRUNERS[method].config.model_fields, own_run(model_id)
    return [own.get(name, fields[name].default) for name in names]


def fill_in_size(method: str, title: str) -> str:
    """Make the settings to begin with for one of PRESETS."""
    settings = PRESETS.get(method, {}).get(title, {})
    return json.dumps({method: dict(settings), "of": title})


def preset_of(method: str, preset: str) -> tuple[Mapping[str, Any], str | None]:
    """Read the settings to begin with, and which of PRESETS they are, if any; those of another method do not count."""
    try:
        document = json.loads(preset)
        values, title = document[method], document["of"]
    except (ValueError, TypeError, KeyError):
        return {}, GOOD
    return (values if isinstance(values, dict) else {}), (title if title in [*PRESETS.get(method, {})] else None)


def settings_from_controls(keys: tuple[str, ...], values: tuple[Any, ...]) -> Mapping[str, Any]:
    """Read a method's settings from its controls; an empty one keeps its default."""
    return {key.partition(".")[2]: value for key, value in zip(keys, values, strict=True) if value not in (None, "")}
