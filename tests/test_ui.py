"""The page without a browser: texts, addresses and generated controls."""

import json
from types import SimpleNamespace
from urllib.parse import parse_qsl

import gradio as gr
import numpy as np
import pytest
from pydantic import BaseModel, Field

from explorer.experiment import ExperimentRequest, SchedulePlan, load_cached
from explorer.jobs.mask_library import MaskLibrary
from explorer.masks.block_graph import BlockGraph, Unit
from explorer.masks.encoding import decode_bits
from explorer.masks.learned_coefficients import combined
from explorer.models import catalogue
from explorer.sampling.generate import Frame
from explorer.ui import controls, markup, url_state
from explorer.ui.components import alert, leave_values, user_errors
from explorer.ui.job_request import preset_of
from explorer.ui.tabs.explore import DEFAULTS, PROMPT, View, generate
from explorer.ui.views import explore

HERE = "a-model-that-is-here"
REQUEST = ExperimentRequest(prompt="dog")


class FakeSchedule:
    """The fields of a schedule that a plan needs."""

    def __init__(self, keep: np.ndarray):
        self.keep = keep


def make_plan(status: list[list[int]], order: int = 0) -> SchedulePlan:
    table = np.array(status, dtype=np.int8)
    calls, units = table.shape
    names = tuple(f"unit {index}" for index in range(units))
    graph = BlockGraph([Unit(name=name, kind="stream", reuse="output", macs=1, reads=()) for name in names], "layer")
    return SchedulePlan(
        **dict(schedule=FakeSchedule(table == 0), graph=graph, order=order, units=names),
        **dict(macs_share=np.full(units, 1 / units), timesteps=np.arange(calls), status=table, source_call=table * 0),
        **dict(asked=0.5, reached=0.5, max_ratio=0.9, kept=0.5, macs_per_call=10**9, macs_total=4 * 10**9),
        **dict(macs_kept=2 * 10**9, calls=calls, baseline_sampler="dpm++", baseline_steps=2, baseline_kept=0.5),
    )


def last_frame(role: str, ssim: float) -> Frame:
    return Frame(role, 4, 4, b"png", 1.0, True, ssim, 20.0)


def finished_cards(pruned: float, baseline: float) -> dict[str, explore.Card]:
    frames = {"pruned": last_frame("pruned", pruned), "baseline": last_frame("baseline", baseline)}
    return {role: explore.Card(role, role, 0.5, frame) for role, frame in frames.items()}


def test_stopped_run_has_no_verdict():
    cards = finished_cards(0.9, 0.8) | {"baseline": explore.Card("baseline", "stopped")}
    assert explore.verdict(REQUEST, make_plan([[0], [1]]), cards) == ""


@pytest.fixture
def model_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_state, "available_models", lambda: [HERE])


@pytest.mark.parametrize(
    ("pruned", "baseline", "sentence"),
    [(0.9, 0.8, "Here pruning pays"), (0.8, 0.9, "Here pruning does not pay"), (0.9, 0.903, "A tie")],
)
def test_verdict_names_the_better_picture(pruned: float, baseline: float, sentence: str):
    words = explore.verdict(REQUEST, make_plan([[0, 0], [1, 0]]), finished_cards(pruned, baseline))
    assert sentence in words
    assert f"SSIM {pruned:.3f} pruned, {baseline:.3f} DPM-Solver++" in words


def test_the_verdict_calls_a_coarser_sampler_by_its_name():
    words = explore.verdict(REQUEST, make_plan([[0, 0], [2, 2]]), finished_cards(0.9, 0.8))
    assert "Here skipping whole calls, that is DDIM with fewer steps, pays" in words


@pytest.mark.parametrize(
    ("sampler", "order", "status", "expected"),
    [
        ("ddim", 0, [[0, 0], [2, 2]], True),
        ("ddim", 0, [[0, 0], [1, 0]], False),
        ("ddim", 0, [[0, 0], [0, 0]], False),
        ("dpm++", 0, [[0, 0], [2, 2]], False),
        ("ddim", 1, [[0, 0], [2, 2]], False),
    ],
)
def test_whole_calls_under_ddim_are_called_a_coarser_sampler(sampler: str, order: int, status: list, expected: bool):
    request = ExperimentRequest(prompt="dog", sampler=sampler)
    assert explore.is_only_fewer_steps(request, make_plan(status, order)) is expected


def test_the_browser_gets_picture_cost_and_ssim_of_a_card():
    cards = explore.new_cards(REQUEST, make_plan([[0], [1]]))
    cards["baseline"] = cards["baseline"].updated(last_frame("baseline", 0.875))
    shown = explore.cards_json(cards, REQUEST, run=7)
    assert shown["run"] == 7
    baseline = shown["cards"]["baseline"]
    assert (baseline["what"], baseline["kept"], baseline["ssim"], baseline["done"]) == (
        "DPM-Solver++, 2 steps",
        0.5,
        0.875,
        True,
    )
    assert baseline["picture"] == "data:image/png;base64,cG5n"
    assert shown["cards"]["pruned"]["call"] == 0 and "picture" not in shown["cards"]["pruned"]
    assert "seed 0, 25 steps" in shown["footer"]


def test_the_browser_gets_schedule_and_cost_of_a_plan_and_no_figure():
    plan = explore.plan_json(REQUEST, make_plan([[0, 0], [1, 0]]))
    assert decode_bits(plan["keep"], (2, 2)).tolist() == [[True, True], [False, True]]
    assert len(plan["graph"]["units"]) == 2 and plan["kept"] == 0.5 and "removal_ratio" not in plan
    assert not {"figure", "data", "layout"} & set(plan)


def test_unknown_words_are_escaped():
    assert "never seen in training: <b>&lt;i&gt;, zebu</b>" in explore.unknown_words_note(["<i>", "zebu"])
    assert explore.unknown_words_note([]) == ""


def test_request_has_the_non_empty_settings_of_its_method(model_here: None):
    values = {"model": HERE, "method": "deepcache", "prompt": "dog", "steps": 4}
    settings = {"deepcache.branch": 1, "deepcache.interval": "", "uniform.interval": 3}
    assert url_state.make_request(values | settings).settings == {"branch": 1}


@pytest.mark.parametrize("model", ["/etc", "sd15", "..", "nobody/nothing"])
def test_visitors_cannot_name_folders_or_start_downloads(model_here: None, model: str):
    with pytest.raises(ValueError, match=f"is not here; choose one of {HERE}"):
        url_state.make_request({"model": model, "method": "uniform", "prompt": "dog"})


def test_an_address_gives_typed_values(model_here: None):
    query = {"model": HERE, "steps": "4", "ratio": "0.25", "method": "deepcache", "deepcache.branch": "1", "other": "x"}
    values, sentences = url_state.read(query, DEFAULTS)
    assert not sentences
    shown = [values[name] for name in ("steps", "ratio", "prompt", "deepcache.branch")]
    assert shown == [4, 0.25, PROMPT, 1]


def test_an_address_that_names_a_model_alone_opens_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(url_state, "available_models", lambda: ["emoji-unet", "emoji-nothing"])
    values, sentences = url_state.read({"model": "emoji-nothing"}, DEFAULTS)
    assert not sentences and (values["model"], values["method"], values["ratio"]) == ("emoji-nothing", "uniform", 0.5)
    monkeypatch.setattr(url_state, "available_models", lambda: ["emoji-unet", "emoji-ddpm"])
    values, _ = url_state.read({"model": "emoji-ddpm", "ratio": "0.42"}, DEFAULTS)
    opening = url_state.opening_values("emoji-ddpm", "dipgo", 0.4)
    assert (values["method"], values["ratio"]) == (opening["method"], 0.42)
    values, _ = url_state.read({"model": "emoji-ddpm", "method": "random", "seed": "5"}, DEFAULTS)
    assert (values["method"], values["ratio"], values["seed"], values["prompt"]) == ("random", 0.8, 5, PROMPT)
    values, _ = url_state.read({"model": "emoji-unet"}, DEFAULTS)
    assert (values["model"], values["method"], values["ratio"]) == ("emoji-unet", "dipgo", 0.8)


@pytest.mark.parametrize("named", [{}, {"method": "random"}, {"method": "uniform", "sampler": "dpm++"}])
def test_a_model_of_flow_matching_opens_with_samplers_that_it_has(monkeypatch: pytest.MonkeyPatch, named: dict):
    row = {"id": "tiny-flux", "pipeline": "FluxPipeline", "available": True, "run": {"sampler": "euler"}}
    monkeypatch.setitem(catalogue._added, "tiny-flux", row)
    values, sentences = url_state.read({"model": "tiny-flux"} | named, DEFAULTS)
    expected = (named.get("method", "uniform"), named.get("sampler", "euler"), "unipc")
    assert not sentences and (values["method"], values["sampler"], values["baseline_sampler"]) == expected
    assert url_state.opening_values("tiny-flux", "dipgo")["sampler"] == "euler"
    assert "sampler" not in url_state.opening_values("emoji-nothing", "dipgo")


@pytest.mark.parametrize("wrong", [{"steps": "many"}, {"ratio": "nan"}, {"deepcache.branch": "-1"}, {"prompt": " "}])
def test_invalid_address_gives_the_defaults_and_a_sentence(model_here: None, wrong: dict):
    values, sentences = url_state.read({"model": HERE, "seed": "7", "method": "deepcache"} | wrong, DEFAULTS)
    assert len(sentences) == 1
    assert (values["seed"], values["prompt"], values["steps"]) == (0, PROMPT, 50)


def test_no_key_of_the_address_has_two_meanings():
    explore_keys = {*url_state.REQUEST_KEYS, url_state.MANUAL, "show", "view"}
    assert not explore_keys & set(url_state.TAB_KEYS)


def test_importance_replaces_a_method(tmp_path):
    library, id = MaskLibrary(tmp_path), "emoji-unet/dipgo-ddim-25"
    method = f"importance:{id}"
    values, sentences = url_state.read({"method": method, "steps": "7", "ratio": "0.4"}, DEFAULTS, library)
    assert not sentences and (values["method"], values["steps"], values["ratio"]) == (method, 25, 0.4)
    request, path = url_state.with_importance(values, library)
    assert request.method == "dipgo" and path == str(library.find(id).path)
    assert url_state.make_request(values).method == "uniform"  # for tabs that need no schedule
    entry, _ = url_state.find_importance(method, library)
    query = dict(parse_qsl(url_state.explore_query(entry, entry.open(), 0.4)))
    assert url_state.read(query, DEFAULTS, library)[0]["method"] == method
    with pytest.raises(ValueError, match="is for emoji-unet under ddim with 25 steps; choose those, or another method"):
        url_state.with_importance(values | {"steps": 24}, library)


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("../../etc/passwd", "there is no mask '../../etc/passwd'"),
        ("emoji-unet/ecodiff", "'ecodiff' is no importance of schedules"),
        ("job-<b>", "there is no mask 'job-<b>'"),
    ],
)
def test_invalid_importance_is_one_sentence(id, message, tmp_path):
    values, (sentence,) = url_state.read({"method": f"importance:{id}"}, DEFAULTS, MaskLibrary(tmp_path))
    assert message in sentence and values["method"] == DEFAULTS["method"]
    assert "keeps no masks" in url_state.read({"method": f"importance:{id}"}, DEFAULTS)[1][0]


def test_learned_coefficients_have_an_address_as_an_importance_only(tmp_path):
    entry = MaskLibrary(tmp_path).find("emoji-unet/dipgo-ddim-25")
    order = entry.open()
    used = combined(order.header.graph, order.at(0.5).keep).sum()
    learned = order.with_coefficients({0.5: np.ones((used, 4))})
    assert "method=importance" in url_state.explore_query(entry, learned, 0.4)
    with pytest.raises(ValueError, match="use the command generate"):
        url_state.explore_query(entry, learned.at(0.5), 0.4)


def test_widths_have_no_address_on_explore(tmp_path):
    entry = MaskLibrary(tmp_path).find("emoji-unet/ecodiff")
    with pytest.raises(ValueError, match="Explore shows schedules"):
        url_state.explore_query(entry, entry.open(), 0.2)


def test_controls_are_generated_from_a_config():
    class Config(BaseModel):
        share: float = Field(0.5, ge=0, le=1, description="how much")
        rounds: int = Field(3, ge=1, le=100_000)
        every: int | None = Field(None, ge=1)
        fast: bool = False
        steps: int = 25  # every request has it, so it has its own control

    with gr.Blocks():
        made = controls.make_controls(Config, "method")
    kinds = {name: type(control) for name, control in made.items()}
    expected = [gr.Slider, gr.Number, gr.Textbox, gr.Checkbox]
    assert kinds == dict(zip(("method.share", "method.rounds", "method.every", "method.fast"), expected, strict=True))
    assert (made["method.share"].info, made["method.share"].value) == ("how much", 0.5)


def test_a_user_error_becomes_one_escaped_sentence():
    with user_errors() as sentences:
        raise ValueError("<b> is unknown")
    assert alert(sentences) == '<p class="alert" role="alert">&lt;b&gt; is unknown</p>'


def test_internal_error_is_not_swallowed():
    with pytest.raises(KeyError), user_errors():
        raise KeyError("ours")


def test_throttle_yields_all_pictures_and_some_counts(monkeypatch):
    now = iter(np.arange(0, 100, 0.1))
    monkeypatch.setattr(markup.time, "monotonic", lambda: float(next(now)))
    pictures = {4: b"png", 5: b"png"}
    frames = [Frame("pruned", call, 20, pictures.get(call), 0.1, call == 20) for call in range(1, 21)]
    calls = [frame.call for frame in markup.throttle(iter(frames))]
    assert {4, 5, 20} <= set(calls) and len(calls) < 12


def test_answer_leaves_values_that_may_have_been_chosen_since():
    shown = {"unit": gr.update(choices=["a", "b"], value="a"), "figure": 1}
    assert leave_values(shown, "unit", "absent") == {"unit": gr.update(choices=["a", "b"]), "figure": 1}
    assert shown["unit"]["value"] == "a"


def test_generate_ends_without_an_error_where_a_newer_run_of_the_visitor_ended_its_plan():
    view = SimpleNamespace(**{name: name for name in View._fields})
    values = {"model": "emoji-unet", "method": "uniform", "prompt": "dog", "steps": 4, "ratio": 0.5, "seed": 0}
    shown = list(generate(lambda *task: iter(()), None, view, values | {"sampler": "ddim", "guidance": 7.5}))
    assert shown == [{"alert": "", "verdict": explore.LOADING_NOTE}]


def test_a_prompt_that_is_too_long_says_what_is_not_read():
    long = "a red dog with a blue hat and a green bird on a yellow house under a black sky <b>with</b> stars"
    note = explore.prompt_note("emoji-unet", long)
    assert "too long, so this is not read: <b>house under a black sky &lt;b&gt;with&lt;/b&gt; stars</b>" in note
    assert "too long" not in explore.prompt_note("emoji-unet", "a red dog")
    assert "too long" not in explore.prompt_note("emoji-dit", "dog " * 30)  # which looks its names up
    tokens = load_cached("emoji-unet").pipe.tokenizer(long[: long.index("house")])
    assert len(tokens.input_ids) <= 16 < len(load_cached("emoji-unet").pipe.tokenizer(long, truncation=False).input_ids)


@pytest.mark.parametrize("title", [[], {}, 7, None, "<b>"])
def test_a_preset_that_no_page_sends_is_none_of_the_sizes(title):
    assert preset_of("dipgo", json.dumps({"dipgo": {"steps": 4}, "of": title})) == ({"steps": 4}, None)
