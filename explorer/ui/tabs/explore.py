"""The Explore tab: a request on the left; on the right its three pictures, which units run at which call, the cost."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import gradio as gr

from explorer.experiment import ExperimentRequest
from explorer.jobs import tasks
from explorer.jobs.executors.base import RunTask
from explorer.jobs.mask_library import MaskLibrary
from explorer.models.catalogue import available_models
from explorer.pruners import PRUNERS, SAMPLER_TITLES
from explorer.ui import controls, frontend, own_model, url_state, use_it
from explorer.ui.components import INSTANT, ExploreParts, alert, markup, user_errors
from explorer.ui.markup import throttle
from explorer.ui.runs import VisitorRuns
from explorer.ui.views.explore import (
    LOADING_NOTE,
    cards_json,
    names_datalist,
    new_cards,
    plan_json,
    prompt_note,
    turns_note,
    verdict,
)
from explorer.ui.views.heatmap import CAPTION
from explorer.ui.views.use_it import Use, use_of_request
from explorer.ui.views.widths import width_choices

PROMPT = "octopus"
OPENING = {"prompt": PROMPT, "seed": "1"}  # at 80 % the same picture, as 10 steps are not; at 95 % it breaks
# The page opens with the gallery's best result, next to the strongest few-step sampler; the command line is simpler.
DEFAULTS = {name: field.default for name, field in ExperimentRequest.model_fields.items()}
DEFAULTS |= {"prompt": PROMPT, "method": "dipgo", "steps": 50, "ratio": 0.8, "baseline_sampler": "unipc"}
# What the heatmap shows: decisions, or one of the tables that an importance has.
SHOW = {"what runs": "decision", "what goes first": "removal_ratio", "importance": "score"}
# Of runs: the browser drops what one sends after a later one began. A restarted server goes on with larger ones.
RUN_NUMBERS = count(time.time_ns() // 1_000_000)


class View(NamedTuple):
    """Where answers are shown."""

    alert: gr.HTML
    unknown_words: gr.HTML
    names: gr.HTML
    pictures: gr.HTML
    verdict: gr.HTML
    show: gr.Radio  # one of SHOW, where there is an importance
    heatmap: gr.HTML
    queue_place: gr.HTML
    generate: gr.Button
    stop: gr.Button
    use: gr.Button


class Controls(NamedTuple):
    """Where requests come from: the controls by name, and the group of each method's own settings."""

    by_name: dict[str, gr.components.Component]
    groups: dict[str, gr.Column]
    new_seed: gr.Button
    manual_schedule: gr.Textbox  # a schedule that was edited, which the browser fills in when pictures are generated
    widths: gr.Dropdown

    @property
    def inputs(self) -> list[gr.components.Component]:
        return list(self.by_name.values())

    def values(self, given: Sequence[Any]) -> dict[str, Any]:
        """Name the values of `inputs`, and after them that of `manual_schedule` where it is given."""
        return dict(zip((*self.by_name, url_state.MANUAL), given, strict=False))

    def show_group(self, method: str) -> dict[Any, Any]:
        """Show the settings of `method` and hide the others."""
        return {group: gr.update(visible=name == method) for name, group in self.groups.items()}


def build(page: gr.Blocks, runs: VisitorRuns, library: MaskLibrary | None, drawer: gr.HTML) -> ExploreParts:
    """Lay out the tab and connect it; an importance of the library can take the place of a method."""
    frontend.lead(elem_id="lead")
    ratio = gr.Slider(
        0, 0.95, DEFAULTS["ratio"], step=0.01, label="How much of the arithmetic to skip", elem_id="ratio"
    )
    with gr.Row(elem_id="explore"):
        with gr.Column(scale=11, min_width=320, elem_id="results"):
            shown: dict[str, Any] = dict(
                pictures=frontend.pictures(elem_id="pictures"), verdict=markup(elem_id="verdict")
            )
        with gr.Column(scale=9, min_width=300, elem_id="side"):
            shown |= _make_map()
            with gr.Column(elem_id="controls"):
                made, notes = _make_controls(ratio)
    request = dict(made.by_name)
    made.by_name["show"] = shown["show"]
    view = View(**notes, **shown)
    loaded = _connect(page, runs, library, made, view)

    def find_use(request: gr.Request, *values: Any) -> Use:
        return use_of_request(runs.alone(request), library, made.values(values))

    js = use_it.explore_js(made.by_name)
    use_it.connect(view.use, drawer, find_use, [*made.inputs, made.manual_schedule], js=js)
    return ExploreParts(request, shown["heatmap"], made.widths, loaded, drawer)


def _make_controls(ratio: gr.Slider) -> tuple[Controls, dict[str, Any]]:
    """Make what a visitor sets, and the parts of the view that are among it."""
    models = available_models()
    methods = [*dict.fromkeys(method for model in models for method in url_state.offered_methods(model))]
    names = names_datalist(DEFAULTS["model"])
    view: dict[str, Any] = dict(names=markup(names, elem_id="known-names", js_on_load=frontend.SUGGEST_JS))
    made: dict[str, gr.components.Component] = {
        "model": gr.Dropdown([*models, own_model.CHOICE], label="Model", value=DEFAULTS["model"], elem_id="model"),
        "prompt": gr.Textbox(label="Prompt", value=PROMPT, max_lines=1, elem_id="prompt"),
        "ratio": ratio,
    }
    offered = controls.method_choices(url_state.offered_methods(DEFAULTS["model"]))
    made["method"] = gr.Dropdown(offered, label="Pruning method", value=DEFAULTS["method"], elem_id="method")
    files = width_choices(DEFAULTS["model"])
    shared: dict[str, Any] = dict(value=None, visible=bool(files), interactive=True, elem_id="prune-widths")
    widths = gr.Dropdown(files, label="Or prune widths instead", info="fewer heads, neurons or channels", **shared)
    with gr.Row(elem_classes="buttons"):
        view["generate"] = gr.Button("Generate", variant="primary", elem_id="generate", min_width=80, scale=2)
        view["stop"] = gr.Button("Stop", interactive=False, elem_id="stop", min_width=80)
        new_seed = gr.Button("New seed", elem_id="new-seed", min_width=80)
    view["queue_place"] = markup(elem_id="queue-place")
    view["unknown_words"] = markup(elem_id="unknown-words")  # above a button, it would move what is being pressed
    view["alert"] = markup(elem_id="alert")
    with gr.Row(elem_classes="numbers"):
        made["seed"] = gr.Number(int(OPENING["seed"]), label="Seed", precision=0, min_width=90, elem_id="seed")
        made["steps"] = gr.Number(DEFAULTS["steps"], label="Steps", precision=0, min_width=80, elem_id="steps")
    groups = _make_advanced(made, methods)
    return Controls(made, groups, new_seed, gr.Textbox(visible=False), widths), view


def _make_advanced(made: dict[str, gr.components.Component], methods: Sequence[str]) -> dict[str, gr.Column]:
    """Make what is folded away; all joins `made`. Returns a group of generated controls per method, all but one hidden.

    A learned method has one control: which of its files.
    """
    groups = {}
    with gr.Accordion("More", open=False, elem_id="more"):
        for method in methods:
            row = PRUNERS[method]
            with gr.Column(visible=method == DEFAULTS["method"], elem_id=f"settings-{method}") as groups[method]:
                markup(f"<h3>Settings of {row.title}</h3>")
                made |= controls.make_controls(row.config, method, row.chosen_by)
        samplers, baseline = [(title, name) for name, title in SAMPLER_TITLES.items()], DEFAULTS["baseline_sampler"]
        made["sampler"] = gr.Dropdown(samplers, label="Sampler", value=DEFAULTS["sampler"], elem_id="sampler")
        label, info = "Baseline sampler", "the sampler that gets the same MACs, in fewer steps"
        shared = dict(value=baseline, elem_id="baseline-sampler")
        made["baseline_sampler"] = gr.Dropdown(samplers, label=label, info=info, **shared)
        made["guidance"] = gr.Number(DEFAULTS["guidance"], label="Guidance", step=0.5, elem_id="guidance")
    return groups


def _make_map() -> dict[str, Any]:
    with gr.Row(elem_id="side-head"):
        markup("<h2>Which layer runs at which call</h2>", elem_id="heading")
        use = use_it.make_button("explore", scale=0)
    shared: dict[str, Any] = dict(show_label=False, container=False, elem_id="show")
    show = gr.Radio(list(SHOW.items()), value="decision", label="What the map shows", **shared)
    heatmap = frontend.schedule_heatmap("The heatmap is loading.", CAPTION, elem_id="heatmap")
    return dict(heatmap=heatmap, show=show, use=use)


def _connect(page: gr.Blocks, runs: VisitorRuns, library: MaskLibrary | None, made: Controls, view: View) -> Any:
    """Connect controls and view. The browser itself answers what the gallery has; Python is called for the rest.

    Returns the event after which the controls are as the address says; without an address there is none.
    """
    js = frontend.set_request_js(made.by_name)
    set_request: dict[str, Any] = dict(fn=None, inputs=made.inputs, js=js, api_visibility="private")
    model, method, prompt = (made.by_name[name] for name in ("model", "method", "prompt"))
    groups = list(made.groups.values())
    show_group = dict(fn=made.show_group, inputs=method, outputs=groups, **INSTANT)

    def on_load(request: gr.Request) -> dict:
        return from_url(request.query_params, library, made, view)

    def on_plan(request: gr.Request, *values: Any) -> dict:
        return plan(runs.of(request, "plan"), library, view, made.values(values))

    page.load(**set_request | {"js": frontend.unless_addressed(js)})
    of_address = [*made.inputs, *groups, view.names, view.unknown_words, view.alert]
    loaded = view.pictures.address(on_load, None, of_address, **INSTANT)
    loaded.then(**set_request)
    changed = [control.input for name, control in made.by_name.items() if name not in ("model", "ratio", "prompt")]
    gr.on([*changed, made.by_name["ratio"].release, prompt.submit], **set_request)
    method.input(**show_group)
    of_model = [*(one for one in made.inputs if one is not model), *groups, view.names, view.unknown_words]
    on_other_model = own_model.connect_choice(model, DEFAULTS["model"])
    known = on_other_model(partial(on_model, made, view), [model, method, prompt], of_model, **INSTANT)
    known.then(**set_request)
    chosen_js = frontend.chosen_values_js(made.by_name)
    chosen = view.pictures.choose(None, None, made.inputs, js=chosen_js, api_visibility="private")
    chosen.then(**set_request).then(**show_group)
    new_seed = made.new_seed.click(None, None, made.by_name["seed"], js=frontend.NEW_SEED_JS, api_visibility="private")
    new_seed.then(**set_request)
    view.pictures.plan(on_plan, made.inputs, [view.alert, view.heatmap], trigger_mode="always_last", **INSTANT)
    gr.on([prompt.blur, prompt.submit], prompt_note, [model, prompt], view.unknown_words, **INSTANT)
    _connect_generate(runs, library, made, view)
    return loaded


def _connect_generate(runs: VisitorRuns, library: MaskLibrary | None, made: Controls, view: View) -> None:
    """Connect the buttons. Stop is active while pictures are generated; a second request ends the first."""

    def on_generate(request: gr.Request, *values: Any) -> Iterator[dict]:
        yield from generate(runs.of(request), library, view, made.values(values), turns_note(runs.under_way()))

    starts = [view.generate.click, made.by_name["prompt"].submit]
    started = gr.on(starts, lambda: gr.update(interactive=True), None, view.stop, **INSTANT)
    generating = started.then(
        on_generate,
        [*made.inputs, made.manual_schedule],
        [view.alert, view.unknown_words, view.pictures, view.verdict, view.heatmap, view.queue_place],
        js=frontend.GENERATE_JS,
        trigger_mode="multiple",
        concurrency_limit=None,
        show_progress_on=view.queue_place,
        **INSTANT | {"queue": True, "show_progress": "minimal"},
    )
    runs.connect_stop(view.stop, generating)


def from_url(query: Mapping[str, str], library: MaskLibrary | None, made: Controls, view: View) -> dict:
    """Set the controls as the address says, and the names that the model knows."""
    asked = query if {*query} & {*url_state.REQUEST_KEYS} else OPENING
    values, sentences = url_state.read(asked, DEFAULTS, library)
    values |= {"show": query["show"]} if query.get("show") in SHOW.values() else {}
    choices = controls.method_choices(url_state.offered_methods(values["model"]))
    if (method := values["method"]).startswith(url_state.IMPORTANCE):
        entry, _ = url_state.find_importance(method, library)
        choices.append((f"{entry.name} ({entry.source})", method))
    values["method"] = gr.update(value=method, choices=choices)
    return {
        **{made.by_name[name]: value for name, value in values.items() if name in made.by_name},
        **made.show_group(method),
        view.names: names_datalist(values["model"]),
        view.unknown_words: prompt_note(values["model"], values["prompt"]),
        view.alert: alert(sentences),
    }


def on_model(made: Controls, view: View, model: str, method: str, prompt: str) -> dict:
    """Offer the names and methods of another model; show its gallery, or change only a method that it lacks."""
    values = {"method": method, "prompt": prompt} | url_state.opening_values(model, method)
    offered = controls.method_choices(url_state.offered_methods(model))
    return {
        **{made.by_name[name]: value for name, value in values.items() if name in made.by_name},
        **made.show_group(values["method"]),
        made.by_name["method"]: gr.update(value=values["method"], choices=offered),
        view.names: names_datalist(model),
        view.unknown_words: prompt_note(model, values["prompt"]),
    }


def plan(run: RunTask, library: MaskLibrary | None, view: View, values: Mapping[str, Any]) -> dict:
    """Compute the schedule and its cost, without a prompt; its alert is that of `generate`, which may come before."""
    shown: dict[Any, Any] = {}
    with user_errors() as sentences:
        request, path = url_state.with_importance({**values, "prompt": "-"}, library)
        for planned in run(tasks.plan, request, path, True):  # nothing, where another run of this visitor ended it
            shown[view.heatmap] = plan_json(request, planned)
        url_state.make_request(values)
    return shown | {view.alert: alert(sentences)}


def generate(
    run: RunTask, library: MaskLibrary | None, view: View, values: Mapping[str, Any], note: str = ""
) -> Iterator[dict]:
    """Plan, then generate the three pictures by the plan's schedule, with an update for each preview; until the verdict
    there is a note."""
    yield {view.alert: "", view.verdict: note or LOADING_NOTE}
    with user_errors() as sentences:
        request, path = url_state.with_importance(values, library)
        planned = next(run(tasks.plan, request, path, True), None)
        if planned is None:  # a newer run of this visitor ended it
            return
        cards, number = new_cards(request, planned), next(RUN_NUMBERS)
        words = prompt_note(request.model, request.prompt)
        yield {view.heatmap: plan_json(request, planned), view.unknown_words: words, view.verdict: note}
        yield {view.pictures: cards_json(cards, request, number)}
        for frame in throttle(run(tasks.compare, request, planned.schedule)):
            cards[frame.role] = cards[frame.role].updated(frame)
            yield {view.pictures: cards_json(cards, request, number)}
        yield {view.verdict: verdict(request, planned, cards)}
    yield {view.alert: alert(sentences)} | ({view.verdict: ""} if sentences else {})
