"""The Optimize tab: start a method behind the page, watch it learn, stop and resume it, take away what it found."""

import json
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from explorer import catalogue
from explorer.jobs.estimates import estimate
from explorer.jobs.executors import Executor
from explorer.jobs.foreman import METHODS, Foreman, learns
from explorer.jobs.ledger import ENDED
from explorer.jobs.shelf import JOB, Shelf
from explorer.masks import Importance
from explorer.pruners.configs import CONFIGS, WIDTHS
from explorer.ui import address, browser, controls
from explorer.ui.components import LIGHT, alert, markup, user_errors
from explorer.ui.visitors import Guard, Visitor, deleting
from explorer.ui.watching import STATES, Watch, settings_of
from explorer.widths import found_in

WHY = """<p class="why">Here the methods themselves run, behind the page: they go on when you close it, and every step
is kept, so that nothing is lost when something breaks. The address of this page leads back to the job that it shows,
also from elsewhere.</p>"""
POLL, LIST = 1.0, 5.0  # seconds between two looks at a job, and at the list, while the job runs
JOBS = ("job", "state", "done", "begun", "")  # columns of the list
ACTS = {"stop": "Pause", "finish": "Finish now", "resume": "Resume", "duplicate": "Duplicate", "forget": "Delete"}
ROWS = ("rows",)  # those of FLUX, which no model of the page is
NOW = LIGHT | {"preprocess": True}
ADDRESS = browser.in_address("job")
LOOK = "(job) => { location.search = new URLSearchParams({ mask: `job-${job}`, tab: 'masks' }); }"
GO = "(address) => { if (address) location.search = address; }"


class Parts(NamedTuple):
    """What the tab is made of."""

    owner: gr.State  # whose jobs they are
    job: gr.Textbox  # its id; a State does not tell of its changes where the queue is left out
    cursor: gr.State
    preset: gr.Textbox  # settings to begin with, where a job is duplicated, as JSON
    timer: gr.Timer
    slow: gr.Timer
    model: gr.Dropdown
    method: gr.Dropdown
    prompts: gr.Textbox
    alert: gr.HTML
    view: gr.HTML
    stop: gr.Button
    finish: gr.Button
    resume: gr.Button
    duplicate: gr.Button
    forget: gr.Button
    save: gr.DownloadButton
    found: gr.Row
    ratio: gr.Slider
    explore: gr.Button
    look: gr.Button
    goal: gr.Textbox
    which: gr.Radio
    table: gr.HTML

    @property
    def seen(self) -> list[Any]:
        """What a look at a job changes."""
        acts = [self.stop, self.finish, self.resume, self.duplicate, self.forget]
        return [
            self.alert,
            self.view,
            self.cursor,
            self.timer,
            self.slow,
            *acts,
            self.save,
            self.look,
            self.found,
            self.ratio,
        ]


def build(page: gr.Blocks, executor: Executor, foreman: Foreman, shelf: Shelf, tab: gr.Tab, visitor: Visitor) -> None:
    """Lay out the tab and connect it."""
    markup(WHY)
    states: dict[str, Any] = dict(
        owner=visitor.owner,
        job=gr.Textbox(visible="hidden", elem_id="job-id"),
        cursor=gr.State(0),
        preset=gr.Textbox("{}", visible="hidden", elem_id="job-preset"),
    )
    states |= dict(timer=gr.Timer(POLL, active=False), slow=gr.Timer(LIST, active=False))
    with gr.Row():
        with gr.Column(scale=2, min_width=300, elem_id="job-asked"):
            left, place = _asked()
        with gr.Column(scale=5, min_width=320):
            right = _shown()
    parts, watch = Parts(**states, **left, **right), Watch(foreman, executor)
    with place:
        _settings(page, foreman, parts, visitor.guard)
    _connect(foreman, shelf, parts, watch, tab, visitor)


def _asked() -> tuple[dict[str, Any], gr.Column]:
    """What is asked of a job, and the place for the settings of its method."""
    models = [row["id"] for row in catalogue.listing() if row["available"]]
    label, info = "Prompts", "one a line; empty: the model's own names"
    asked: dict[str, Any] = dict(interactive=True)  # which Gradio does not see, as others make the inputs
    left = dict(
        model=gr.Dropdown(models, label="Model", value=models[0] if models else None, elem_id="job-model", **asked),
        method=gr.Dropdown(list(METHODS), label="Method", value="dipgo", elem_id="job-method", **asked),
        prompts=gr.Textbox(label=label, info=info, lines=2, max_lines=6, elem_id="job-prompts", **asked),
    )
    return left, gr.Column(elem_id="job-settings")


def _shown() -> dict[str, Any]:
    """The job of the moment, what can be done with it, and all jobs."""
    right: dict[str, Any] = dict(alert=markup(elem_id="job-alert"))
    right["view"] = browser.job_view("Start a job, or choose one from the list.", elem_id="job")
    with gr.Row(elem_classes=["buttons", "many"]):
        for name, label in ACTS.items():
            right[name] = gr.Button(label, elem_id=f"job-{name}", min_width=80, visible=False)
        right["save"] = gr.DownloadButton("Download", elem_id="job-save", min_width=80, visible=False)
        right["look"] = gr.Button("Open in Masks", elem_id="job-look", min_width=80, visible=False)
    with gr.Row(visible=False) as right["found"]:
        label, info = "Pruning ratio", "at which it opens in Explore"
        right["ratio"] = gr.Slider(0, 0.95, 0.5, step=0.01, label=label, info=info, elem_id="job-ratio", scale=3)
        right["explore"] = gr.Button("Open in Explore", variant="primary", elem_id="job-explore", min_width=140)
    right["goal"] = gr.Textbox(visible=False)
    markup("<h2>Jobs</h2>")
    right["which"] = gr.Radio(list(STATES), value="all", label="Show", elem_id="job-which")
    right["table"] = browser.pick_list(JOBS, "No jobs yet.", elem_id="jobs")
    return right


def _settings(page: gr.Blocks, foreman: Foreman, parts: Parts, guard: Guard) -> None:
    """The controls of the chosen method, made anew for another one; what it will take; the start."""

    @gr.render(inputs=[parts.method, parts.preset], triggers=[page.load, parts.method.change, parts.preset.change])
    def fields(method: str, preset: str) -> None:
        begins = json.loads(preset).get(method, {})
        start, guess = gr.Button("Start", variant="primary", elem_id="job-start"), markup(elem_id="job-guess")
        with gr.Accordion(f"Settings of {method}", open=bool(begins), elem_id="job-more"):
            made = controls.of_config((CONFIGS | WIDTHS)[method], "set", skip=ROWS, values=begins)
        keys = tuple(made)

        def guessed(model: str, *given: Any) -> str:
            with user_errors() as said:
                return f"<p>{escape(estimate(model, method, settings_of(keys, given)).sentence())}</p>"
            return alert(said)

        def begun(request: gr.Request, who: str, model: str, lines: str, *given: Any) -> tuple:
            with user_errors() as said:
                guard.refuse_unless_allowed(who, request)
                prompts = [line.strip() for line in lines.splitlines() if line.strip()]
                job = foreman.submit(who, method, model, settings_of(keys, given), prompts)
                return "", job.id
            return alert(said), gr.skip()

        changes = [parts.model.change, *(control.change for control in made.values())]
        gr.on(changes, guessed, [parts.model, *made.values()], guess, trigger_mode="always_last", **NOW)
        asked = [parts.owner, parts.model, parts.prompts, *made.values()]
        start.click(begun, asked, [parts.alert, parts.job], **NOW)


def _connect(foreman: Foreman, shelf: Shelf, parts: Parts, watch: Watch, tab: gr.Tab, visitor: Visitor) -> None:
    """Which event asks what. Whatever brings another job, its change shows it from the first step on."""

    def anew(id: str, owner: str) -> tuple:
        return looked(watch, id, 0, owner)

    def more(id: str, after: int, owner: str) -> tuple:
        return looked(watch, id, after, owner)

    listing = dict(fn=watch.rows, inputs=[parts.owner, parts.which], outputs=parts.table, **NOW)
    looking = dict(fn=more, inputs=[parts.job, parts.cursor, parts.owner], outputs=parts.seen, **NOW)
    at_job = [parts.job, parts.owner]
    visitor.came.then(asked_for, None, parts.job, **NOW).then(**listing)
    showing = parts.job.change(anew, at_job, parts.seen, **NOW).then(**listing)
    showing.then(None, parts.job, None, js=ADDRESS, api_visibility="private")
    parts.timer.tick(**looking)
    gr.on([parts.which.change, tab.select], **listing)
    parts.slow.tick(
        lambda owner, which, id: (watch.rows(owner, which), gr.Timer(active=watch.works(id))),
        [parts.owner, parts.which, parts.job],
        [parts.table, parts.slow],
        **NOW,
    )
    acts = {parts.stop: foreman.stop, parts.finish: foreman.finish, parts.resume: foreman.resume}
    for button, act in acts.items():
        button.click(done_to(act, visitor.guard), at_job, [parts.alert, parts.timer], **NOW).then(**looking).then(
            **listing
        )
    parts.forget.click(deleting(visitor.guard, foreman.forget), at_job, [parts.alert, parts.job], **NOW)
    copy = [parts.model, parts.method, parts.prompts, parts.preset]
    parts.duplicate.click(lambda id: copied(foreman, id), parts.job, copy, **NOW)
    parts.table.pick(picked, None, parts.job, **NOW)
    at_ratio = [parts.job, parts.ratio]
    opening = parts.explore.click(
        lambda id, share: opened(shelf, id, share), at_ratio, [parts.alert, parts.goal], **NOW
    )
    opening.then(None, parts.goal, None, js=GO, api_visibility="private")
    parts.look.click(None, parts.job, None, js=LOOK, api_visibility="private")


def asked_for(request: gr.Request) -> str:
    """The job that the address names."""
    return request.query_params.get("job", "")[:40]


def picked(event: gr.EventData) -> str:
    """The job of a row of the list."""
    return str(event.id)[:40]


def done_to(act: Callable[[str, str], Any], guard: Guard) -> Callable[[gr.Request, str, str], tuple]:
    """A button: pause, finish or resume, and a look soon."""

    def touch(request: gr.Request, id: str, owner: str) -> tuple:
        with user_errors() as said:
            guard.refuse_unless_allowed(owner, request)
            act(id, owner)
        return alert(said), gr.Timer(active=True)

    return touch


def copied(foreman: Foreman, id: str) -> tuple:
    """The controls as a job had them, to change and start again."""
    job = foreman.ledger.get(id)
    settings = {name: value for name, value in job.settings.items() if name != "end"}  # it may have been finished early
    return job.model, job.method, "\n".join(job.prompts), json.dumps({job.method: settings, "of": id})


def looked(watch: Watch, id: str, after: int, owner: str) -> tuple:
    """What is new of a job since the cursor, and what can be done with it; for `Parts.seen`."""
    hidden = gr.update(visible=False)
    nothing = (None, 0, *[gr.Timer(active=False)] * 2, *[hidden] * 5, hidden, hidden, hidden, gr.skip())
    if not id:
        return "", *nothing
    with user_errors() as said:
        job, events = watch.ledger.get(id), watch.ledger.events(id, after)
        mine, file = job.owner == owner, watch.ledger.results / (job.result or "none")
        finds = job.state not in ("done", "finishing") and learns(job.method) and 0 < job.done < job.total
        can = (job.state in ("queued", "running"), finds, job.state in ("interrupted", "failed"))
        acts = [gr.update(visible=mine and one) for one in can]
        acts += [gr.update(visible=True), gr.update(visible=mine and job.state in (*ENDED, "queued"))]
        schedule = job.state == "done" and job.method in CONFIGS
        largest = int(100 * found_in(file).header.max_ratio) / 100 if schedule else 0.95
        return (
            gr.skip(),
            watch.news(job, events, fresh=not after),
            events[-1].cursor if events else after,
            gr.Timer(active=job.state not in ENDED),
            gr.skip() if job.state in ENDED else gr.Timer(active=True),  # its own tick ends it, with a last list
            *acts,
            gr.update(visible=job.state == "done", value=str(file) if job.state == "done" else None),
            gr.update(visible=job.state == "done"),
            gr.update(visible=schedule),
            gr.update(maximum=largest) if schedule else gr.skip(),
        )
    return alert(said), *nothing


def opened(shelf: Shelf, id: str, share: float) -> tuple[str, str]:
    """The query of Explore's address for what a job found, an order at a ratio."""
    with user_errors() as said:
        item = shelf.find(f"{JOB}{id}")
        found = item.open()
        return "", address.of_order(item, found.header, share) if isinstance(found, Importance) else address.of_mask(
            found
        )
    return alert(said), ""
