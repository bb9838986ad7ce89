"""What the page says and asks, without a browser: words, addresses and generated controls."""

from urllib.parse import parse_qsl

import gradio as gr
import numpy as np
import pytest
from pydantic import BaseModel, Field

from explorer.experiment import Frame, Plan, Question
from explorer.graph import BlockGraph, Unit
from explorer.jobs.shelf import Shelf
from explorer.letters import unpacked
from explorer.ui import address, controls, explore, story, told
from explorer.ui.components import alert, user_errors

HERE = "a-model-that-is-here"
QUESTION = Question(prompt="dog")


def plan(fate: list[list[int]], order: int = 0) -> Plan:
    table = np.array(fate, dtype=np.int8)
    calls, units = table.shape
    names, shares = tuple(f"unit {index}" for index in range(units)), np.full(units, 1 / units)
    units = [Unit(name=name, kind="stream", reuse="output", macs=1, reads=()) for name in names]
    return Plan(
        **dict(graph=BlockGraph(units, "layer"), order=order, units=names, shares=shares),
        **dict(timesteps=np.arange(calls), fate=table, source=table * 0),
        **dict(asked=0.5, reached=0.5, max_ratio=0.9, kept=0.5, macs_per_call=10**9, macs_total=4 * 10**9),
        **dict(macs_kept=2 * 10**9, calls=calls, rival_sampler="dpm++", rival_steps=2, rival_kept=0.5),
    )


def done(role: str, ssim: float) -> Frame:
    return Frame(role, 4, 4, b"png", 1.0, True, ssim, 20.0)


def finished(pruned: float, rival: float) -> dict[str, story.Card]:
    cards = {"pruned": done("pruned", pruned), "rival": done("rival", rival)}
    return {role: story.Card(role, role, 0.5, frame) for role, frame in cards.items()}


def test_there_is_no_verdict_on_what_was_stopped():
    cards = finished(0.9, 0.8)
    assert story.verdict(QUESTION, plan([[0], [1]]), cards | {"rival": story.Card("rival", "stopped")}) == ""


@pytest.fixture
def model_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        address, "listing", lambda: [{"id": HERE, "available": True}, {"id": "sd15", "available": False}]
    )


@pytest.mark.parametrize(
    ("pruned", "rival", "said"),
    [(0.9, 0.8, "Here pruning pays"), (0.8, 0.9, "Here pruning does not pay"), (0.9, 0.903, "A tie")],
)
def test_the_verdict_is_honest_about_the_rival(pruned: float, rival: float, said: str):
    words = story.verdict(QUESTION, plan([[0, 0], [1, 0]]), finished(pruned, rival))
    assert said in words
    assert f"SSIM {pruned:.3f} pruned, {rival:.3f} DPM++" in words


def test_the_verdict_calls_a_coarser_sampler_by_its_name():
    words = story.verdict(QUESTION, plan([[0, 0], [2, 2]]), finished(0.9, 0.8))
    assert "Here skipping whole calls, that is DDIM with fewer steps, pays" in words


@pytest.mark.parametrize(
    ("sampler", "order", "fate", "said"),
    [
        ("ddim", 0, [[0, 0], [2, 2]], True),
        ("ddim", 0, [[0, 0], [1, 0]], False),
        ("ddim", 0, [[0, 0], [0, 0]], False),
        ("dpm++", 0, [[0, 0], [2, 2]], False),
        ("ddim", 1, [[0, 0], [2, 2]], False),
    ],
)
def test_whole_calls_under_ddim_are_called_a_coarser_sampler(sampler: str, order: int, fate: list, said: bool):
    assert story.only_fewer_steps(Question(prompt="dog", sampler=sampler), plan(fate, order)) is said


def test_a_card_tells_the_browser_its_picture_its_cost_and_its_likeness():
    question, planned = Question(prompt="dog"), plan([[0], [1]])
    cards = story.dealt(question, planned)
    cards["rival"] = story.Card("rival", "DPM++, 2 steps", 0.5, done("rival", 0.875), b"png")
    shown = story.shown(cards, question)
    rival = shown["cards"]["rival"]
    assert (rival["kept"], rival["ssim"], rival["done"]) == (0.5, 0.875, True)
    assert rival["picture"] == "data:image/png;base64,cG5n"
    assert shown["cards"]["pruned"]["call"] == 0 and "picture" not in shown["cards"]["pruned"]
    assert "seed 0, 25 steps" in shown["footer"]


def test_a_plan_tells_the_browser_its_schedule_and_its_cost():
    told = story.planned(QUESTION, plan([[0, 0], [1, 0]]))
    assert unpacked(told["keep"], (2, 2)).tolist() == [[True, True], [False, True]]
    assert len(told["graph"]["units"]) == 2 and told["kept"] == 0.5 and "goes" not in told
    assert told["figure"]["data"][0]["type"] == "heatmap"


def test_words_never_seen_are_escaped():
    assert "never seen in training: <b>&lt;i&gt;, zebu</b>" in story.never_seen(["<i>", "zebu"])
    assert story.never_seen([]) == ""


def test_a_question_takes_the_settings_of_its_method_and_leaves_empty_ones_out(model_here: None):
    asked = {"model": HERE, "method": "deepcache", "prompt": "dog", "steps": 4}
    settings = {"deepcache.branch": 1, "deepcache.interval": "", "uniform.every": 3}
    assert address.question(asked | settings).settings == {"branch": 1}


@pytest.mark.parametrize("model", ["/etc", "sd15", "..", "nobody/nothing"])
def test_a_visitor_names_no_folder_and_starts_no_download(model_here: None, model: str):
    with pytest.raises(ValueError, match=f"is not here; choose one of {HERE}"):
        address.question({"model": model, "method": "uniform", "prompt": "dog"})


def test_an_address_gives_typed_values(model_here: None):
    query = {"model": HERE, "steps": "4", "ratio": "0.25", "method": "deepcache", "deepcache.branch": "1", "other": "x"}
    values, said = address.read(query, explore.DEFAULTS)
    assert not said
    shown = [values[name] for name in ("steps", "ratio", "prompt", "deepcache.branch")]
    assert shown == [4, 0.25, explore.PROMPT, 1]


@pytest.mark.parametrize("wrong", [{"steps": "many"}, {"ratio": "nan"}, {"deepcache.branch": "-1"}, {"prompt": " "}])
def test_an_address_that_is_no_view_gives_the_defaults_and_a_sentence(model_here: None, wrong: dict):
    values, said = address.read({"model": HERE, "seed": "7", "method": "deepcache"} | wrong, explore.DEFAULTS)
    assert len(said) == 1
    assert (values["seed"], values["prompt"], values["steps"]) == (0, explore.PROMPT, 50)


def test_an_order_takes_the_place_of_a_method(tmp_path):
    shelf, id = Shelf(tmp_path), "emoji-unet/dipgo-ddim-25"
    method = f"order:{id}"
    values, said = address.read({"method": method, "steps": "7", "ratio": "0.4"}, explore.DEFAULTS, shelf)
    assert not said and (values["method"], values["steps"], values["ratio"]) == (method, 25, 0.4)
    question, path = address.with_order(values, shelf)
    assert question.method == "dipgo" and path == str(shelf.find(id).path)
    assert address.question(values).method == "uniform"  # for tabs that ask for no schedule
    item, header = address.order_of(method, shelf)
    query = dict(parse_qsl(address.of_order(item, header, 0.4)))
    assert address.read(query, explore.DEFAULTS, shelf)[0]["method"] == method
    with pytest.raises(ValueError, match="is for emoji-unet under ddim with 25 steps; choose those, or another method"):
        address.with_order(values | {"steps": 24}, shelf)


@pytest.mark.parametrize(
    ("id", "said"),
    [
        ("../../etc/passwd", "there is no mask '../../etc/passwd'"),
        ("emoji-unet/ecodiff", "'ecodiff' is no order of schedules"),
        ("job-<b>", "there is no mask 'job-<b>'"),
    ],
)
def test_what_is_no_order_is_one_sentence(id, said, tmp_path):
    values, (found,) = address.read({"method": f"order:{id}"}, explore.DEFAULTS, Shelf(tmp_path))
    assert said in found and values["method"] == explore.DEFAULTS["method"]
    assert "keeps no masks" in address.read({"method": f"order:{id}"}, explore.DEFAULTS)[1][0]


def test_controls_are_generated_from_a_config():
    class Config(BaseModel):
        share: float = Field(0.5, ge=0, le=1, description="how much")
        rounds: int = Field(3, ge=1, le=100_000)
        every: int | None = Field(None, ge=1)
        fast: bool = False
        steps: int = 25  # asked of every method, so it has its own control

    with gr.Blocks():
        made = controls.of_config(Config, "method")
    kinds = {name: type(control) for name, control in made.items()}
    expected = [gr.Slider, gr.Number, gr.Textbox, gr.Checkbox]
    assert kinds == dict(zip(("method.share", "method.rounds", "method.every", "method.fast"), expected, strict=True))
    assert (made["method.share"].info, made["method.share"].value) == ("how much", 0.5)


def test_a_users_mistake_becomes_one_escaped_sentence():
    with user_errors() as said:
        raise ValueError("<b> is unknown")
    assert alert(said) == '<p class="alert" role="alert">&lt;b&gt; is unknown</p>'


def test_a_mistake_of_ours_is_not_swallowed():
    with pytest.raises(KeyError), user_errors():
        raise KeyError("ours")


def test_the_browser_is_told_of_all_that_can_be_seen_and_of_some_counts(monkeypatch):
    now = iter(np.arange(0, 100, 0.1))
    monkeypatch.setattr(told.time, "monotonic", lambda: float(next(now)))
    seen = {4: b"png", 5: b"png"}
    frames = [Frame("pruned", call, 20, seen.get(call), 0.1, call == 20) for call in range(1, 21)]
    calls = [frame.call for frame in told.spaced(iter(frames))]
    assert {4, 5, 20} <= set(calls) and len(calls) < 12
