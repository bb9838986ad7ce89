"""The Optimize tab: start a method behind the page, watch it learn, pause and resume it, take its result away."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import gradio as gr

from explorer.jobs.executors.base import Executor
from explorer.jobs.job import ENDED, Job
from explorer.jobs.manager import JOB_METHODS, JobManager, can_finish_early
from explorer.jobs.mask_library import JOB_PREFIX, MaskLibrary
from explorer.masks.result import load_header
from explorer.ui import frontend, url_state, use_it
from explorer.ui.auth import Guard, Visitor, delete_handler
from explorer.ui.components import (
    INSTANT_TYPED,
    OPEN_QUERY_JS,
    ExploreParts,
    alert,
    markup,
    picked_id,
    slider_maximum,
    url_key_handler,
    user_errors,
)
from explorer.ui.job_request import JobRequest, make_request, render_settings
from explorer.ui.views.masks import FIRST_RATIOS, Selection
from explorer.ui.views.optimize import FILTERS, JobView
from explorer.ui.views.use_it import Use, use_of_file

INTRO = """<p class="intro">Here the methods themselves run, and you can watch them learn. A job continues when you
close the page, and can be paused; the address of this page leads back to it, also on other devices.</p>"""
POLL_S, LIST_POLL_S = 1.0, 5.0  # between two updates of a job, and of the list, while the job runs
COLUMNS = ("job", "state", "done", "begun", "")
# Resume takes the place of Pause, and nothing else does.
ACTIONS = {"stop": "Pause", "resume": "Resume", "finish": "Finish now", "duplicate": "Duplicate", "delete": "Delete"}
DUPLICATED = "<p role='status'>Its settings are in the form now: change what you like, and press Start.</p>"
TO_FORM_JS = "() => document.querySelector('#job-request').scrollIntoView({ block: 'nearest' })"
MAX_SLIDER_RATIO = 0.95
SCENE = ("prompt", "seed", "baseline_sampler")  # what is taken from Explore


class View(NamedTuple):
    """The parts of the tab."""

    token: gr.Textbox  # of the visitor
    job: gr.Textbox  # its id; a State does not report changes of events without a queue
    cursor: gr.State
    timer: gr.Timer
    list_timer: gr.Timer
    request: JobRequest
    alert: gr.HTML
    view: gr.HTML
    stop: gr.Button
    finish: gr.Button
    resume: gr.Button
    duplicate: gr.Button
    delete: gr.Button
    save: gr.Button
    use: gr.Button
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
        buttons = [self.stop, self.finish, self.resume, self.duplicate, self.delete, self.save, self.use, self.masks]
        return [self.alert, self.view, self.cursor, self.timer, self.list_timer, *buttons, self.result, self.ratio]

    def emptied(self) -> dict[Any, Any]:
        """Show no job."""
        buttons = [self.stop, self.finish, self.resume, self.duplicate, self.delete, self.save, self.use, self.masks]
        hidden = dict.fromkeys([*buttons, self.result], gr.update(visible=False))
        timers = {self.timer: gr.Timer(active=False), self.list_timer: gr.Timer(active=False)}
        return {self.alert: "", self.view: None, self.cursor: 0} | timers | hidden


def build(
    page: gr.Blocks,
    executor: Executor,
    job_manager: JobManager,
    library: MaskLibrary,
    explore: ExploreParts,
    tab: gr.Tab,
    visitor: Visitor,
) -> None:
    """Lay out the tab and connect it."""
    markup(INTRO)
    states: dict[str, Any] = dict(
        token=visitor.token,
        job=gr.Textbox(visible="hidden", elem_id="job-id"),
        cursor=gr.State(0),
        timer=gr.Timer(POLL_S, active=False),
        list_timer=gr.Timer(LIST_POLL_S, active=False),
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=300, elem_id="job-request"):
            request, settings_column = make_request()
        with gr.Column(scale=5, min_width=320):
            right = _make_selected()
    view, job_view = View(request=request, **states, **right), JobView(job_manager, executor)
    with settings_column:
        render_settings(page, job_manager, request, visitor, view.alert, view.job)
    explore.loaded.then(url_key_handler("job"), None, view.job, **INSTANT_TYPED)
    _connect_selection(view, job_view, tab, visitor)
    _connect_actions(job_manager, library, view, job_view, visitor)

    def find_use(_: gr.Request, id: str, ratio: float, *values: Any) -> Use:
        entry = library.find(f"{JOB_PREFIX}{id}")
        is_schedule = entry.header.prunes == "schedule"
        selection = Selection(entry.id, ratio if is_schedule else FIRST_RATIOS["widths"])
        return use_of_file("optimize", entry, selection, dict(zip(SCENE, values, strict=True)))

    shown = [view.job, view.ratio, *(explore.request[name] for name in SCENE)]
    use_it.connect(view.use, explore.drawer, find_use, shown, preprocess=True)


def _make_selected() -> dict[str, Any]:
    """Make the selected job, what can be done with it, and the list of jobs."""
    right: dict[str, Any] = dict(alert=markup(elem_id="job-alert"))
    right["view"] = frontend.job_view("Start a job, or choose one from the list.", elem_id="job")
    with gr.Row(elem_classes=["buttons", "many"]):
        for name, label in ACTIONS.items():
            right[name] = gr.Button(label, elem_id=f"job-{name}", min_width=80, visible=False)
        right["use"] = use_it.make_button("job", visible=False)
        right["save"] = gr.Button("Download", elem_id="job-save", min_width=80, visible=False)
        right["masks"] = gr.Button("Open in Masks", elem_id="job-masks", min_width=80, visible=False)
    with gr.Row(visible=False) as right["result"]:
        label, info = "How much to skip", "when it opens in Explore"
        shared = dict(step=0.01, label=label, info=info, elem_id="job-ratio", scale=3)
        right["ratio"] = gr.Slider(0, MAX_SLIDER_RATIO, 0.5, **shared)
        right["explore"] = gr.Button("Open in Explore", variant="primary", elem_id="job-explore", min_width=140)
    right["query"] = gr.Textbox(visible=False)
    markup("<h2>Jobs</h2>")
    right["filter"] = gr.Radio(list(FILTERS), value="all", label="Show", elem_id="job-filter")
    right["table"] = frontend.pick_list(COLUMNS, "No jobs yet.", elem_id="jobs")
    return right


def _events(view: View, job_view: JobView, visitor: Visitor) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the arguments of an event that updates the selected job, and of one that updates the list."""

    def on_update(request: gr.Request, id: str, after: int, token: str) -> dict:
        return show_job(job_view, view, id, after, visitor.owner(token, request))

    def on_list(request: gr.Request, token: str, which: str) -> list[dict[str, Any]]:
        return job_view.rows(visitor.owner(token, request), which)

    update = dict(fn=on_update, inputs=[view.job, view.cursor, view.token], outputs=view.shown, **INSTANT_TYPED)
    listing = dict(fn=on_list, inputs=[view.token, view.filter], outputs=view.table, **INSTANT_TYPED)
    return update, listing


def _connect_selection(view: View, job_view: JobView, tab: gr.Tab, visitor: Visitor) -> None:
    """Connect list and timers. Every event that brings another job changes its id, and that shows all its steps."""
    update, listing = _events(view, job_view, visitor)

    def on_job(request: gr.Request, id: str, token: str) -> dict:
        return show_job(job_view, view, id, 0, visitor.owner(token, request))

    def on_list_timer(request: gr.Request, token: str, which: str, id: str) -> dict:
        return {
            view.table: job_view.rows(visitor.owner(token, request), which),
            view.list_timer: gr.Timer(active=job_view.is_active(id)),
        }

    shown = view.job.change(on_job, [view.job, view.token], view.shown, **INSTANT_TYPED).then(**listing)
    shown.then(None, view.job, None, js=frontend.write_url_js("job"), api_visibility="private")
    view.timer.tick(**update)
    gr.on([view.filter.change, tab.select], **listing)
    listed = [view.token, view.filter, view.job]
    view.list_timer.tick(on_list_timer, listed, [view.table, view.list_timer], **INSTANT_TYPED)
    view.table.pick(picked_id, None, view.job, **INSTANT_TYPED)


def _connect_actions(
    manager: JobManager, library: MaskLibrary, view: View, job_view: JobView, visitor: Visitor
) -> None:
    """Connect the buttons of the selected job."""
    update, listing = _events(view, job_view, visitor)
    selected, request = [view.job, view.token], view.request
    actions = {view.stop: manager.stop, view.finish: manager.finish, view.resume: manager.resume}
    for button, act in actions.items():
        handler = action_handler(act, visitor.guard, view)
        button.click(handler, selected, [view.alert, view.timer], **INSTANT_TYPED).then(**update).then(**listing)
    on_delete = delete_handler(visitor.guard, manager.delete, view.alert, view.job)
    view.delete.click(on_delete, selected, [view.alert, view.job], **INSTANT_TYPED)

    def on_duplicate(id: str) -> dict:
        with user_errors() as sentences:
            return {view.alert: DUPLICATED, **request.filled_in(manager.store.get(id))}
        return {view.alert: alert(sentences)}

    duplicated = view.duplicate.click(on_duplicate, view.job, [view.alert, *request], **INSTANT_TYPED)
    duplicated.then(None, None, None, js=TO_FORM_JS, api_visibility="private")
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
            act(id, guard.check_allowed(token, request).owner)
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
        return dict.fromkeys([view.save, view.use, view.masks, view.result], gr.update(visible=False))
    header = load_header(job_view.store.results / (job.result or "none"))
    is_schedule = header.prunes == "schedule"
    slider = {view.ratio: gr.update(maximum=slider_maximum(header))} if is_schedule else {}
    return {
        view.save: gr.update(visible=True),
        view.use: gr.update(visible=True),
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
