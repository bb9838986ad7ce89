"""The Explore tab: a question on the left; on the right its three pictures, which units run at which call, the cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from explorer import catalogue, prompts, shipped
from explorer.experiment import Question
from explorer.jobs.executors import PLACES, Executor, Run
from explorer.jobs.shelf import Shelf
from explorer.pruners.configs import AT_ONCE, CONFIGS, SAMPLERS
from explorer.ui import address, browser, controls, story
from explorer.ui.components import LIGHT, Explored, alert, markup, user_errors
from explorer.ui.told import spaced

PROMPT = "red apple"
# What the page opens with: the best that is drawn already, beside the strongest of the few-step samplers. A question by
# command line has simpler defaults.
DEFAULTS = {name: field.default for name, field in Question.model_fields.items()}
DEFAULTS |= {"prompt": PROMPT, "method": "dipgo", "steps": 50, "ratio": 0.8, "rival": "unipc"}
MAP_CAPTION = (
    "Each column is one call of the network, each row one unit of it. A reused unit hands back the value it computed "
    "at an earlier call. A dead one feeds only units that do not run, so it does not run either. At a skipped call the "
    "network is not entered at all: its last estimate of the noise serves again. Click a cell to switch it, a bar to "
    "switch a whole call or unit; with the keyboard: arrows, space, c for the call, u for the unit. The name of a unit "
    "leads to its features."
)
FALLBACK = Question.model_fields["method"].default
SHOW = {"decision": None, "order": "goes", "score": "score"}  # what the map shows, by the field of the plan
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
    by_hand: gr.Textbox  # a schedule that was edited, which the browser fills in when something is drawn

    @property
    def inputs(self) -> list[gr.components.Component]:
        return list(self.controls.values())


def build(page: gr.Blocks, executor: Executor, shelf: Shelf | None) -> Explored:
    """Lay out the tab and connect it; an order on the shelf can take the place of a method."""
    with gr.Row(elem_id="explore"):
        with gr.Column(scale=2, min_width=300, elem_id="controls"):
            asked, smaller, left = _controls()
        with gr.Column(scale=5, min_width=320, elem_id="results"):
            right = _results()
    question = dict(asked.controls)
    asked.controls["show"] = right["show"]
    came = _connect(page, executor, shelf, asked, View(**left, **right))
    return Explored(question, right["keep"], smaller, came)


def _controls() -> tuple[Asked, gr.Dropdown, dict[str, Any]]:
    """What a visitor sets, the way to smaller networks, and the parts of the view that sit among it."""
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
    label, info = "Or a smaller network", "without heads, neurons or channels, at every call"
    smaller = gr.Dropdown([], label=label, info=info, value=None, visible=False, interactive=True, elem_id="smaller")
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
    by_hand = gr.Textbox(visible=False)
    parts = dict(alert=trouble, unseen=unseen, names=names, place=place, draw=draw, stop=stop)
    return Asked(asked, groups, dice, by_hand), smaller, parts


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
    defaults = {
        f"{method}.{name}": field.default
        for method, config in CONFIGS.items()
        for name, field in config.model_fields.items()
    }
    pictures = browser.pictures(defaults, elem_id="pictures")
    verdict = markup(elem_id="verdict")
    markup("<h2>What runs at which call</h2>", elem_id="heading")
    show = gr.Radio(list(SHOW), value="decision", label="Show", elem_id="show")
    keep = browser.keep_map("The map is drawn in a moment.", MAP_CAPTION, elem_id="keep")
    return dict(pictures=pictures, verdict=verdict, keep=keep, show=show)


def _connect(page: gr.Blocks, executor: Executor, shelf: Shelf | None, asked: Asked, view: View) -> Any:
    """Which event asks what. The browser itself answers what the gallery holds; Python hears of the rest. Returns the
    event by which the visitor has come."""

    def on_load(request: gr.Request) -> dict:
        return opened(request.query_params, shelf, asked, view)

    tell = dict(fn=None, inputs=asked.inputs, js=browser.asked(asked.controls), api_visibility="private")
    model, method, prompt = (asked.controls[name] for name in ("model", "method", "prompt"))
    groups = partial(group_of, asked.groups), method, list(asked.groups.values())
    other = [method, *asked.groups.values(), view.names, view.unseen]
    outputs = [*asked.inputs, *asked.groups.values(), view.names, view.unseen, view.alert]
    came = page.load(on_load, None, outputs, **LIGHT)
    came.then(**tell)
    changed = [control.input for name, control in asked.controls.items() if name not in ("model", "ratio")]
    gr.on([*changed, asked.controls["ratio"].release, asked.controls["prompt"].submit], **tell)
    method.input(*groups, **LIGHT)
    model.input(partial(on_model, asked, view), [model, method, prompt], other, **LIGHT).then(**tell)
    chosen = view.pictures.choose(None, None, asked.inputs, js=browser.chosen(asked.controls), api_visibility="private")
    chosen.then(**tell).then(*groups, **LIGHT)
    roll = "() => Math.floor(Math.random() * 2 ** 32)"
    asked.dice.click(None, None, asked.controls["seed"], js=roll, api_visibility="private").then(**tell)

    def plan(request: gr.Request, *values: Any) -> dict:
        return on_plan(partial(executor.run, request.session_hash), shelf, view, tuple(asked.controls), *values)

    view.pictures.plan(plan, asked.inputs, [view.alert, view.keep], trigger_mode="always_last", **LIGHT)
    gr.on([prompt.blur, prompt.submit], on_words, [model, prompt], view.unseen, **LIGHT)
    _connect_drawing(executor, shelf, asked, view)
    return came


def _connect_drawing(executor: Executor, shelf: Shelf | None, asked: Asked, view: View) -> None:
    """Stop is there while something is drawn. A second question takes the place of the first."""

    def draw(request: gr.Request, *values: Any) -> Iterator[dict]:
        yield from on_draw(partial(executor.run, request.session_hash), shelf, view, tuple(asked.controls), *values)

    def rest(request: gr.Request) -> dict:
        return gr.update(interactive=executor.busy(request.session_hash, "compare"))

    def stop(request: gr.Request) -> dict:
        executor.stop(request.session_hash)
        return gr.update(interactive=False)

    asking = gr.on(
        [view.draw.click, asked.controls["prompt"].submit],
        lambda: gr.update(interactive=True),
        None,
        view.stop,
        **LIGHT,
    )
    drawing = asking.then(
        draw,
        [*asked.inputs, asked.by_hand],
        [view.alert, view.unseen, view.pictures, view.verdict, view.keep, view.place],
        js="(...values) => [...values.slice(0, -1), window.explorer?.byHand() ?? '']",
        trigger_mode="multiple",
        concurrency_limit=PLACES,
        concurrency_id="draw",
        show_progress_on=view.place,
        **LIGHT | {"queue": True, "show_progress": "minimal"},
    )
    drawing.then(rest, None, view.stop, **LIGHT)
    view.stop.click(stop, None, view.stop, cancels=[drawing], **LIGHT)


def opened(query: Mapping[str, str], shelf: Shelf | None, asked: Asked, view: View) -> dict:
    """The controls as the address asks for them, and the names the model knows."""
    values, said = address.read(query, DEFAULTS, shelf)
    method = values["method"]
    values |= {"show": query["show"]} if query.get("show") in SHOW else {}
    choices: list[Any] = methods_for(values["model"])
    if method.startswith(address.ORDER):
        item, _ = address.order_of(method, shelf)
        choices.append((f"{item.name} ({item.how})", method))
    values["method"] = gr.update(value=method, choices=choices)
    return {
        **{asked.controls[name]: value for name, value in values.items() if name in asked.controls},
        **dict(zip(asked.groups.values(), group_of(asked.groups, method), strict=True)),
        view.names: datalist(values["model"]),
        view.unseen: on_words(values["model"], values["prompt"]),
        view.alert: alert(said),
    }


def datalist(model: str) -> str:
    """The names that a model knows, for the prompt to suggest."""
    names = "".join(f'<option value="{escape(name)}">' for name in prompts.known_names(model))
    return f'<datalist id="known-names">{names}</datalist>'


def methods_for(model: str) -> list[str]:
    """What the page offers for a model: what was learned for it, then what needs no learning."""
    return [*shipped.methods(model), *AT_ONCE]


def on_model(asked: Asked, view: View, model: str, method: str, prompt: str) -> dict:
    """Another model: its names, and its methods; where it lacks the one of the moment, one that needs no learning."""
    methods = methods_for(model)
    method = method if method in methods else FALLBACK
    return {
        **dict(zip(asked.groups.values(), group_of(asked.groups, method), strict=True)),
        asked.controls["method"]: gr.update(value=method, choices=methods),
        view.names: datalist(model),
        view.unseen: on_words(model, prompt),
    }


def group_of(groups: Mapping[str, gr.Column], method: str) -> list[dict]:
    """Show the settings of `method` and hide the others."""
    return [gr.update(visible=name == method) for name in groups]


def on_words(model: str, prompt: str) -> str:
    """Name the words that the model never saw."""
    with user_errors():
        return story.never_seen(prompts.unknown_words(model, prompt), prompts.heeded(model))
    return ""


def on_plan(run: Run, shelf: Shelf | None, view: View, names: tuple[str, ...], *values: Any) -> dict:
    """The schedule and its cost; no picture, so no prompt is needed."""
    with user_errors() as said:
        question, order = address.with_order(dict(zip(names, values, strict=True)) | {"prompt": "-"}, shelf)
        for plan in run("plan", question, order):
            return {view.alert: "", view.keep: story.planned(question, plan)}
    return {view.alert: alert(said)}


def on_draw(run: Run, shelf: Shelf | None, view: View, names: tuple[str, ...], *values: Any) -> Iterator[dict]:
    """Plan, then draw the three pictures, with an update for each preview."""
    yield {view.alert: "", view.verdict: ""}
    with user_errors() as said:
        question, order = address.with_order(dict(zip((*names, "keep"), values, strict=True)), shelf)
        plan = next(run("plan", question, order))
        cards = story.dealt(question, plan)
        yield {view.keep: story.planned(question, plan), view.unseen: on_words(question.model, question.prompt)}
        yield {view.pictures: story.shown(cards, question)}
        for frame in spaced(run("compare", question, order)):
            last = cards[frame.role]
            cards[frame.role] = replace(last, frame=frame, picture=frame.picture or last.picture)
            yield {view.pictures: story.shown(cards, question)}
        yield {view.verdict: story.verdict(question, plan, cards)}
    yield {view.alert: alert(said)}
