"""The Optimize tab: start a method behind the page, watch it learn, pause and resume it, take its result away."""

import json
from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from explorer.jobs.estimates import estimate
from explorer.jobs.executors.base import Executor
from explorer.jobs.job import ENDED, Job
from explorer.jobs.manager import JOB_METHODS, JobManager, can_finish_early
from explorer.jobs.mask_library import JOB_PREFIX, MaskLibrary
from explorer.masks.result import load_header
from explorer.models.catalogue import available_models
from explorer.pruners import PRUNERS
from explorer.ui import controls, frontend, url_state
from explorer.ui.auth import Guard, Visitor, delete_handler, owner_of
from explorer.ui.components import (
    INSTANT_TYPED,
    OPEN_QUERY_JS,
    alert,
    markup,
    picked_id,
    slider_maximum,
    url_key_handler,
    user_errors,
)
from explorer.ui.views.optimize import FILTERS, JobView, settings_from_controls

INTRO = """<p class="intro">Here the methods themselves run, behind the page: they continue when you close it, and every
step is kept, so that nothing is lost when something breaks. The address of this page leads back to the job that it
shows, also on other devices.</p>"""
POLL_S, LIST_POLL_S = 1.0, 5.0  # between two updates of a job, and of the list, while the job runs
COLUMNS = ("job", "state", "done", "begun", "")
ACTIONS = {"stop": "Pause", "finish": "Finish now", "resume": "Resume", "duplicate": "Duplicate", "delete": "Delete"}
FLUX_ONLY = ("prune_adaln",)  # settings for a model that is not on the page
DEFAULT_METHOD = "dipgo"
MAX_SLIDER_RATIO = 0.95


class View(NamedTuple):
    """The parts of the tab."""

    token: gr.Textbox  # of the visitor
    job: gr.Textbox  # its id; a State does not report changes of events without a queue
    cursor: gr.State
    preset: gr.Textbox  # settings to begin with, where a job is duplicated, as JSON
    timer: gr.Timer
    list_timer: gr.Timer
    model: gr.Dropdown
    method: gr.Dropdown
    prompts: gr.Textbox
    alert: gr.HTML
    view: gr.HTML
    stop: gr.Button
    finish: gr.Button
    resume: gr.Button
    duplicate: gr.Button
    delete: gr.Button
    save: gr.Button
    masks: gr.Button
    result: gr.Row
    ratio: gr.Slider
    explore: gr.Button
    query: gr.Textbox
    filter: gr.Radio
    table: gr.HTML

    @property
    def shown(self) -> list[Any]:
        """What showing a job changes."""
        buttons = [self.stop, self.finish, self.resume, self.duplicate, self.delete, self.save, self.masks]
        return [self.alert, self.view, self.cursor, self.timer, self.list_timer, *buttons, self.result, self.ratio]

    def emptied(self) -> dict[Any, Any]:
        """Show no job."""
        buttons = [self.stop, self.finish, self.resume, self.duplicate, self.delete, self.save, self.masks]
        hidden = dict.fromkeys([*buttons, self.result], gr.update(visible=False))
        timers = {self.timer: gr.Timer(active=False), self.list_timer: gr.Timer(active=False)}
        return {self.alert: "", self.view: None, self.cursor: 0} | timers | hidden


def build(
    page: gr.Blocks, executor: Executor, job_manager: JobManager, library: MaskLibrary, tab: gr.Tab, visitor: Visitor
) -> None:
    """Lay out the tab and connect it."""
    markup(INTRO)
    states: dict[str, Any] = dict(
        token=visitor.token,
        job=gr.Textbox(visible="hidden", elem_id="job-id"),
        cursor=gr.State(0),
        preset=gr.Textbox("{}", visible="hidden", elem_id="job-preset"),
        timer=gr.Timer(POLL_S, active=False),
        list_timer=gr.Timer(LIST_POLL_S, active=False),
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=300, elem_id="job-request"):
            left, settings_column = _make_request()
        with gr.Column(scale=5, min_width=320):
            right = _make_selected()
    view, job_view = View(**states, **left, **right), JobView(job_manager, executor)
    with settings_column:
        _render_settings(page, job_manager, view, visitor.guard)
    _connect_selection(view, job_view, tab, visitor)
    _connect_actions(job_manager, library, view, job_view, visitor.guard)


def _make_request() -> tuple[dict[str, Any], gr.Column]:
    """Make the controls of a job's request, and the place for the settings of its method."""
    models = available_models()
    label, info = "Prompts", "one per line; empty: the model's own names"
    shared: dict[str, Any] = dict(interactive=True)  # which Gradio does not infer, because @gr.render makes the events
    left = dict(
        model=gr.Dropdown(models, label="Model", value=models[0] if models else None, elem_id="job-model", **shared),
        method=gr.Dropdown(list(JOB_METHODS), label="Method", value=DEFAULT_METHOD, elem_id="job-method", **shared),
        prompts=gr.Textbox(label=label, info=info, lines=2, max_lines=6, elem_id="job-prompts", **shared),
    )
    return left, gr.Column(elem_id="job-settings")


def _make_selected() -> dict[str, Any]:
    """Make the selected job, what can be done with it, and the list of jobs."""
    right: dict[str, Any] = dict(alert=markup(elem_id="job-alert"))
    right["view"] = frontend.job_view("Start a job, or choose one from the list.", elem_id="job")
    with gr.Row(elem_classes=["buttons", "many"]):
        for name, label in ACTIONS.items():
            right[name] = gr.Button(label, elem_id=f"job-{name}", min_width=80, visible=False)
        right["save"] = gr.Button("Download", elem_id="job-save", min_width=80, visible=False)
        right["masks"] = gr.Button("Open in Masks", elem_id="job-masks", min_width=80, visible=False)
    with gr.Row(visible=False) as right["result"]:
        label, info = "Pruning ratio", "at which it opens in Explore"
        shared = dict(step=0.01, label=label, info=info, elem_id="job-ratio", scale=3)
        right["ratio"] = gr.Slider(0, MAX_SLIDER_RATIO, 0.5, **shared)
        right["explore"] = gr.Button("Open in Explore", variant="primary", elem_id="job-explore", min_width=140)
    right["query"] = gr.Textbox(visible=False)
    markup("<h2>Jobs</h2>")
    right["filter"] = gr.Radio(list(FILTERS), value="all", label="Show", elem_id="job-filter")
    right["table"] = frontend.pick_list(COLUMNS, "No jobs yet.", elem_id="jobs")
    return right


def _render_settings(page: gr.Blocks, job_manager: JobManager, view: View, guard: Guard) -> None:
    """Make the controls of the chosen method, anew for another one; the estimate; the start."""

    @gr.render(inputs=[view.method, view.preset], triggers=[page.load, view.method.change, view.preset.change])
    def render(method: str, preset: str) -> None:
        values = json.loads(preset).get(method, {})
        start = gr.Button("Start", variant="primary", elem_id="job-start")
        estimate_box = markup(elem_id="job-estimate")
        with gr.Accordion(f"Settings of {method}", open=bool(values), elem_id="job-more"):
            made = controls.make_controls(PRUNERS[method].config, "set", skip=FLUX_ONLY, values=values)
        keys, inputs = tuple(made), list(made.values())

        def on_change(model: str, *given: Any) -> str:
            with user_errors() as sentences:
                return f"<p>{escape(estimate(model, method, settings_from_controls(keys, given)).describe())}</p>"
            return alert(sentences)

        def on_start(request: gr.Request, token: str, model: str, lines: str, *given: Any) -> dict:
            with user_errors() as sentences:
                owner = guard.check_allowed(token, request)
                prompts = [line.strip() for line in lines.splitlines() if line.strip()]
                job = job_manager.submit(owner, method, model, settings_from_controls(keys, given), prompts)
                return {view.alert: "", view.job: job.id}
            return {view.alert: alert(sentences)}

        changes = [view.model.change, *(control.change for control in inputs)]
        gr.on(changes, on_change, [view.model, *inputs], estimate_box, trigger_mode="always_last", **INSTANT_TYPED)
        start.click(on_start, [view.token, view.model, view.prompts, *inputs], [view.alert, view.job], **INSTANT_TYPED)


def _events(view: View, job_view: JobView) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the arguments of an event that updates the selected job, and of one that updates the list."""

    def on_update(id: str, after: int, token: str) -> dict:
        return show_job(job_view, view, id, after, owner_of(token))

    def on_list(token: str, which: str) -> list[dict[str, Any]]:
        return job_view.rows(owner_of(token), which)

    update = dict(fn=on_update, inputs=[view.job, view.cursor, view.token], outputs=view.shown, **INSTANT_TYPED)
    listing = dict(fn=on_list, inputs=[view.token, view.filter], outputs=view.table, **INSTANT_TYPED)
    return update, listing


def _connect_selection(view: View, job_view: JobView, tab: gr.Tab, visitor: Visitor) -> None:
    """Connect list and timers. Every event that brings another job changes its id, and that shows all its steps."""
    update, listing = _events(view, job_view)

    def on_job(id: str, token: str) -> dict:
        return show_job(job_view, view, id, 0, owner_of(token))

    def on_list_timer(token: str, which: str, id: str) -> dict:
        return {
            view.table: job_view.rows(owner_of(token), which),
            view.list_timer: gr.Timer(active=job_view.is_active(id)),
        }

    visitor.loaded.then(url_key_handler("job"), None, view.job, **INSTANT_TYPED).then(**listing)
    shown = view.job.change(on_job, [view.job, view.token], view.shown, **INSTANT_TYPED).then(**listing)
    shown.then(None, view.job, None, js=frontend.write_url_js("job"), api_visibility="private")
    view.timer.tick(**update)
    gr.on([view.filter.change, tab.select], **listing)
    listed = [view.token, view.filter, view.job]
    view.list_timer.tick(on_list_timer, listed, [view.table, view.list_timer], **INSTANT_TYPED)
    view.table.pick(picked_id, None, view.job, **INSTANT_TYPED)


def _connect_actions(manager: JobManager, library: MaskLibrary, view: View, job_view: JobView, guard: Guard) -> None:
    """Connect the buttons of the selected job."""
    update, listing = _events(view, job_view)
    selected = [view.job, view.token]
    actions = {view.stop: manager.stop, view.finish: manager.finish, view.resume: manager.resume}
    for button, act in actions.items():
        handler = action_handler(act, guard, view)
        button.click(handler, selected, [view.alert, view.timer], **INSTANT_TYPED).then(**update).then(**listing)
    on_delete = delete_handler(guard, manager.delete, view.alert, view.job)
    view.delete.click(on_delete, selected, [view.alert, view.job], **INSTANT_TYPED)

    def on_duplicate(id: str) -> dict:
        job = manager.store.get(id)
        settings = {name: value for name, value in job.settings.items() if name != "stop_after"}  # of an early finish
        preset, prompts = json.dumps({job.method: settings, "of": job.id}), "\n".join(job.prompts)
        return {view.model: job.model, view.method: job.method, view.prompts: prompts, view.preset: preset}

    copied = [view.model, view.method, view.prompts, view.preset]
    view.duplicate.click(on_duplicate, view.job, copied, **INSTANT_TYPED)
    opening = view.explore.click(
        partial(explore_link, library, view), [view.job, view.ratio], [view.alert, view.query], **INSTANT_TYPED
    )
    opening.then(None, view.query, None, js=OPEN_QUERY_JS, api_visibility="private")
    view.masks.click(None, view.job, None, js=frontend.OPEN_MASKS_JS, api_visibility="private")
    view.save.click(None, view.job, None, js=frontend.SAVE_RESULT_JS, api_visibility="private")


def action_handler(act: Callable[[str, str], Any], guard: Guard, view: View) -> Callable[[gr.Request, str, str], dict]:
    """Make the handler of a button that pauses, finishes or resumes; an update follows soon."""

    def on_click(request: gr.Request, id: str, token: str) -> dict:
        with user_errors() as sentences:
            act(id, guard.check_allowed(token, request))
        return {view.alert: alert(sentences), view.timer: gr.Timer(active=True)}

    return on_click


def show_job(job_view: JobView, view: View, id: str, after: int, owner: str) -> dict:
    """Show what is new of a job since the cursor `after`, and what can be done with it."""
    if not id:
        return view.emptied()
    with user_errors() as sentences:
        job, events = job_view.store.get(id), job_view.store.events(id, after)
        # at the end, the list's timer stops by its own tick, with a last update of the list
        list_timer = {} if job.state in ENDED else {view.list_timer: gr.Timer(active=True)}
        return {
            view.view: job_view.update(job, events, fresh=not after),
            view.cursor: events[-1].cursor if events else after,
            view.timer: gr.Timer(active=job.state not in ENDED),
            **list_timer,
            **_show_actions(view, job, job.owner == owner),
            **_show_result(job_view, view, job),
        }
    return view.emptied() | {view.alert: alert(sentences)}


def _show_actions(view: View, job: Job, is_owner: bool) -> dict:
    unfinished = 0 < job.done < job.total
    can = {
        view.stop: job.state in ("queued", "running"),
        view.finish: job.state not in ("done", "finishing") and can_finish_early(job.method) and unfinished,
        view.resume: job.state in ("interrupted", "failed"),
        view.delete: job.state in (*ENDED, "queued"),
    }
    actions = {button: gr.update(visible=is_owner and possible) for button, possible in can.items()}
    return actions | {view.duplicate: gr.update(visible=job.method in JOB_METHODS)}


def _show_result(job_view: JobView, view: View, job: Job) -> dict:
    if job.state != "done":
        return dict.fromkeys([view.save, view.masks, view.result], gr.update(visible=False))
    header = load_header(job_view.store.results / (job.result or "none"))
    is_schedule = header.prunes == "schedule"
    slider = {view.ratio: gr.update(maximum=slider_maximum(header))} if is_schedule else {}
    return {
        view.save: gr.update(visible=True),
        view.masks: gr.update(visible=True),
        view.result: gr.update(visible=is_schedule),
        **slider,
    }


def explore_link(library: MaskLibrary, view: View, id: str, ratio: float) -> dict:
    """Make the query of Explore's address for the result of a job; an importance opens at a ratio."""
    with user_errors() as sentences:
        entry = library.find(f"{JOB_PREFIX}{id}")
        return {view.alert: "", view.query: url_state.explore_query(entry, entry.open(), ratio)}
    return {view.alert: alert(sentences), view.query: ""}
