"""The Explore tab: a question on the left; on the right its three pictures, which units run at which call, the cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from explorer import catalogue, experiment, figures, shipped
from explorer.experiment import Plan, Question
from explorer.pruners.configs import AT_ONCE, CONFIGS, SAMPLERS
from explorer.ui import address, controls, story
from explorer.ui.components import alert, as_value, markup, plotly_view, user_errors

PROMPT = "red apple"
DEFAULTS = {name: field.default for name, field in Question.model_fields.items()}
MAP_CAPTION = (
    "Each column is one call of the network, each row one unit of it. A reused unit hands back the value it computed "
    "at an earlier call. A dead one feeds only units that do not run, so it does not run either. At a skipped call the "
    "network is not entered at all: its last estimate of the noise serves again. Point at a cell."
)
SHOW = {"decision": None, "order": "goes", "score": "score"}  # what the map shows, by the field of the plan
LIGHT = dict(queue=False, show_progress="hidden", api_visibility="private", preprocess=False)
SUGGEST = """
const attach = () => document.querySelector("#prompt input, #prompt textarea")?.setAttribute("list", "known-names");
attach(); watch("value", attach); setTimeout(attach, 500);
"""


class View(NamedTuple):
    """Where answers go."""

    alert: gr.HTML
    unseen: gr.HTML
    names: gr.HTML
    pictures: gr.HTML
    verdict: gr.HTML
    cost: gr.HTML
    show: gr.Radio  # decision, order or score, where there is an order
    keep: gr.HTML
    place: gr.HTML  # in the queue of those who draw
    draw: gr.Button
    stop: gr.Button


class Asked(NamedTuple):
    """Where questions come from: the controls by name, and the group of each method's own settings."""

    controls: dict[str, gr.components.Component]
    groups: dict[str, gr.Column]
    dice: gr.Button

    @property
    def inputs(self) -> list[gr.components.Component]:
        return list(self.controls.values())


def build(page: gr.Blocks) -> None:
    """Lay out the tab and connect it."""
    with gr.Row(elem_id="explore"):
        with gr.Column(scale=2, min_width=300, elem_id="controls"):
            asked, left = _controls()
        with gr.Column(scale=5, min_width=320, elem_id="results"):
            right = _results()
    asked.controls["show"] = right["show"]
    _connect(page, asked, View(**left, **right))


def _controls() -> tuple[Asked, dict[str, Any]]:
    """What a visitor sets, and the parts of the view that sit among it."""
    names = markup(elem_id="names", js_on_load=SUGGEST)
    models = [row["id"] for row in catalogue.listing() if row["available"]]
    asked: dict[str, gr.components.Component] = {
        "model": gr.Dropdown(models, label="Model", value=DEFAULTS["model"], elem_id="model"),
        "prompt": gr.Textbox(label="Prompt", value=PROMPT, max_lines=1, elem_id="prompt"),
    }
    unseen = markup(elem_id="unseen")
    learned = dict.fromkeys(method for model in models for method in shipped.methods(model))
    methods = [*learned, *AT_ONCE]
    asked["method"] = gr.Dropdown(methods, label="Pruning method", value=DEFAULTS["method"], elem_id="method")
    label, info = "Pruning ratio", "share of the trajectory's MACs to remove"
    asked["ratio"] = gr.Slider(0, 0.95, DEFAULTS["ratio"], step=0.01, label=label, info=info, elem_id="ratio")
    with gr.Row(elem_classes="buttons"):
        draw = gr.Button("Draw", variant="primary", elem_id="draw", min_width=80, scale=2)
        stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=80)
        dice = gr.Button("New seed", elem_id="dice", min_width=80)
    place = markup(elem_id="place")
    trouble = markup(elem_id="alert")
    with gr.Row(elem_classes="numbers"):
        asked["seed"] = gr.Number(DEFAULTS["seed"], label="Seed", precision=0, min_width=90, elem_id="seed")
        asked["steps"] = gr.Number(DEFAULTS["steps"], label="Steps", precision=0, min_width=80, elem_id="steps")
    with gr.Accordion("More", open=False, elem_id="more"):
        groups = _settings(asked, methods)
        asked["sampler"] = gr.Dropdown(list(SAMPLERS), label="Sampler", value=DEFAULTS["sampler"], elem_id="sampler")
        label, info = "Rival sampler", "the sampler that gets as many MACs, in fewer steps"
        asked["rival"] = gr.Dropdown(list(SAMPLERS), label=label, info=info, value=DEFAULTS["rival"], elem_id="rival")
        asked["guidance"] = gr.Number(DEFAULTS["guidance"], label="Guidance", step=0.5, elem_id="guidance")
    return Asked(asked, groups, dice), dict(
        alert=trouble, unseen=unseen, names=names, place=place, draw=draw, stop=stop
    )


def _settings(asked: dict[str, gr.components.Component], methods: Sequence[str]) -> dict[str, gr.Column]:
    """One group of generated controls per method, all but one hidden; their controls join `asked`.

    What was learned beforehand has one: which of its files.
    """
    groups = {}
    for method in methods:
        with gr.Column(visible=method == DEFAULTS["method"], elem_id=f"settings-{method}") as groups[method]:
            markup(f"<h3>Settings of {method}</h3>")
            asked |= controls.of_config(CONFIGS[method], method, CONFIGS[method].CHOICE)
    return groups


def _results() -> dict[str, Any]:
    pictures = markup(story.strip(story.blank()), elem_id="pictures")
    verdict = markup(elem_id="verdict")
    markup("<h2>What runs at which call</h2>", elem_id="heading")
    waiting = "Loading the model for the first time. This takes some seconds, and you can type meanwhile."
    cost = markup(elem_id="cost")
    show = gr.Radio(list(SHOW), value="decision", label="Show", visible=False, elem_id="show")
    keep = plotly_view(elem_id="keep", waiting=waiting, caption=MAP_CAPTION)
    return dict(pictures=pictures, verdict=verdict, keep=keep, cost=cost, show=show)


def _connect(page: gr.Blocks, asked: Asked, view: View) -> None:
    """Which event asks what. Only what a visitor does asks something; values that were set by an answer do not."""

    def on_load(request: gr.Request) -> dict:
        return opened(request.query_params, asked, view)

    plan = partial(on_plan, view, tuple(asked.controls))
    planned = [view.alert, view.cost, view.show, view.keep]
    outputs = [*asked.inputs, *asked.groups.values(), view.names, view.unseen, view.alert]
    page.load(on_load, None, outputs, **LIGHT).then(partial(plan, keep_alert=True), asked.inputs, planned, **LIGHT)
    gr.on(_moved(asked), plan, asked.inputs, planned, trigger_mode="always_last", **LIGHT)
    asked.controls["method"].input(
        partial(group_of, asked.groups), asked.controls["method"], list(asked.groups.values()), **LIGHT
    )
    prompt, model = asked.controls["prompt"], asked.controls["model"]
    gr.on([prompt.blur, prompt.submit, model.input], on_words, [model, prompt], view.unseen, **LIGHT)
    _connect_drawing(asked, view)
    _connect_address(asked)


def _moved(asked: Asked) -> list:
    """The events after which the schedule is another one."""
    others = [control.input for name, control in asked.controls.items() if name not in ("prompt", "seed", "guidance")]
    return [*others, asked.controls["ratio"].release]


def _connect_drawing(asked: Asked, view: View) -> None:
    """Busy at once, even while all places are taken; at rest again whatever happened."""
    both = [view.draw, view.stop]
    asking = gr.on(
        [view.draw.click, asked.controls["prompt"].submit], partial(buttons, view, True), None, both, **LIGHT
    )
    drawing = asking.then(
        partial(on_draw, view, tuple(asked.controls)),
        asked.inputs,
        [view.alert, view.unseen, view.pictures, view.verdict, view.cost, view.show, view.keep, view.place],
        trigger_mode="once",
        concurrency_limit=4,
        concurrency_id="draw",
        show_progress_on=view.place,
        **LIGHT | {"queue": True, "show_progress": "minimal"},
    )
    drawing.then(partial(buttons, view, False), None, both, **LIGHT)
    view.stop.click(partial(buttons, view, False), None, both, cancels=[drawing], **LIGHT)


def _connect_address(asked: Asked) -> None:
    """The dice and the address live in the browser alone."""
    write = dict(fn=None, inputs=asked.inputs, js=address.writer(asked.controls), api_visibility="private")
    changed = [control.input for control in asked.inputs]
    gr.on([*changed, asked.controls["ratio"].release, asked.controls["prompt"].submit], **write)
    roll = "() => Math.floor(Math.random() * 2 ** 32)"
    asked.dice.click(None, None, asked.controls["seed"], js=roll, api_visibility="private").then(**write)


def opened(query: Mapping[str, str], asked: Asked, view: View) -> dict:
    """The controls as the address asks for them, and the names the model knows."""
    values, said = address.read(query, PROMPT)
    values |= {"show": query["show"]} if query.get("show") in SHOW else {}
    names = "".join(f'<option value="{escape(name)}">' for name in experiment.known_names(values["model"]))
    return {
        **{asked.controls[name]: value for name, value in values.items() if name in asked.controls},
        **dict(zip(asked.groups.values(), group_of(asked.groups, values["method"]), strict=True)),
        view.names: f'<datalist id="known-names">{names}</datalist>',
        view.unseen: on_words(values["model"], values["prompt"]),
        view.alert: alert(said),
    }


def group_of(groups: Mapping[str, gr.Column], method: str) -> list[dict]:
    """Show the settings of `method` and hide the others."""
    return [gr.update(visible=name == method) for name in groups]


def on_words(model: str, prompt: str) -> str:
    """Name the words that the model never saw."""
    with user_errors():
        return story.never_seen(experiment.unknown_words(model, prompt))
    return ""


def on_plan(view: View, names: tuple[str, ...], *values: Any, keep_alert: bool = False) -> dict:
    """The schedule and its cost; no picture, so no prompt is needed."""
    with user_errors() as said:
        asked = dict(zip(names, values, strict=True))
        question = address.question(asked | {"prompt": "-"})
        return shown(view, question, experiment.plan(question), asked["show"]) | (
            {} if keep_alert else {view.alert: ""}
        )
    return {view.alert: alert(said)}


def shown(view: View, question: Question, plan: Plan, show: str) -> dict:
    """A plan in numbers and as a map: what is decided, or the order and the scores that decide it."""
    what = SHOW.get(show) if plan.goes is not None else None
    if what is None:
        keep = figures.keep_heatmap(plan.units, plan.shares, plan.timesteps, plan.fate, plan.source)
    else:
        keep = figures.order_heatmap(plan.units, plan.timesteps, getattr(plan, what), plan.reached, what)
    choice = gr.update(visible=plan.goes is not None)
    return {view.cost: story.cost(question, plan), view.show: choice, view.keep: as_value(keep)}


def buttons(view: View, busy: bool) -> dict:
    """Draw when idle, Stop when busy."""
    return {view.draw: gr.update(interactive=not busy), view.stop: gr.update(interactive=busy)}


def on_draw(view: View, names: tuple[str, ...], *values: Any) -> Iterator[dict]:
    """Plan, then draw the three pictures, one update a call."""
    yield {view.alert: "", view.verdict: ""}
    with user_errors() as said:
        asked = dict(zip(names, values, strict=True))
        question = address.question(asked)
        plan = experiment.plan(question)
        cards, footer = story.dealt(question, plan), story.drawn_for(question)
        yield shown(view, question, plan, asked["show"]) | {view.unseen: on_words(question.model, question.prompt)}
        yield {view.pictures: story.strip(cards, question.prompt, footer)}
        for frame in experiment.compare(question):
            last = cards[frame.role]
            cards[frame.role] = replace(last, frame=frame, picture=frame.picture or last.picture)
            yield {view.pictures: story.strip(cards, question.prompt, footer)}
        yield {view.verdict: story.verdict(question, plan, cards["pruned"].frame, cards["rival"].frame)}
    yield {view.alert: alert(said)}
