import numpy as np
import pytest
import torch
from pydantic import ValidationError

import explorer
from explorer import experiment, prompts
from explorer.experiment import Question, compare, plan, sentence


@pytest.fixture
def ask(sd_folder):
    def question(**fields):
        return Question(**{"model": str(sd_folder), "steps": 6, "guidance": 3.0} | fields)

    return question


@pytest.mark.parametrize(
    "method, settings",
    [("uniform", {}), ("uniform", {"every": 3}), ("random", {"granularity": "module"}), ("deepcache", {"branch": 0})],
)
def test_a_plan_is_the_schedule_in_numbers(ask, method, settings):
    question = ask(method=method, settings=settings, ratio=0.4)
    found, mask = plan(question), experiment.mask_for(experiment.loaded(question.model), question)
    assert np.array_equal(found.fate == 0, mask.keep)
    dead = (found.fate == 2) & mask.keep.any(axis=1, keepdims=True)
    assert np.array_equal(mask.header.graph.demanded(mask.keep) & dead, np.zeros_like(dead))
    assert found.kept == pytest.approx(found.macs_kept / found.macs_total) == pytest.approx(1 - found.reached)
    assert found.timesteps.shape == (6,) and found.shares.sum() < 1
    for call, column in np.argwhere(found.fate > 0):
        assert found.source[call, column] == np.flatnonzero(mask.keep[: call + 1, column])[-1]
    assert (found.source[found.fate == 0] == np.argwhere(found.fate == 0)[:, 0]).all()


def test_the_rival_costs_the_same_to_half_a_call(ask):
    for ratio in (0.0, 0.3, 0.5, 0.8):
        for rival in ("dpm++", "pndm", "ddim"):
            found = plan(ask(ratio=ratio, rival=rival))
            assert found.rival_sampler == rival
            assert abs(found.rival_kept - found.kept) * found.calls <= (0.5 if rival != "pndm" else 1.5)


def test_compare_draws_three_pictures_from_one_noise(ask):
    frames = list(compare(ask(ratio=0.5)))
    assert [f.role for f in frames if f.done] == ["original", "pruned", "rival"]
    for role, calls in (("original", 6), ("pruned", 6), ("rival", 3)):
        own = [f for f in frames if f.role == role]
        assert [f.call for f in own] == list(range(1, calls + 1)) and {f.calls for f in own} == {calls}
        assert own[-1].picture.startswith(b"\x89PNG") and own[-1].seconds > 0
    original, pruned, rival = (f for f in frames if f.done)
    assert original.ssim is None and 0 < pruned.ssim < 1 and 0 < rival.ssim < 1 and np.isfinite(pruned.psnr)
    assert any(f.picture and not f.done for f in frames if f.role == "original")  # a preview


def test_nothing_removed_is_the_same_picture(ask):
    original, pruned, _ = (f for f in compare(ask(ratio=0.0)) if f.done)
    assert pruned.picture == original.picture and pruned.ssim == pytest.approx(1)


def test_leaving_in_the_middle_leaves_no_state(ask):
    expected = [f.picture for f in compare(ask(ratio=0.5)) if f.done]
    cancelled = compare(ask(ratio=0.5))
    while next(cancelled).role != "pruned":
        pass
    cancelled.close()
    assert [f.picture for f in compare(ask(ratio=0.5)) if f.done] == expected


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"prompt": ""}, "prompt: please say what to draw; the prompt is empty"),
        ({"prompt": "  \n"}, "prompt is empty"),
        ({"prompt": "x" * 10_000}, "prompt: .* at most 500 characters"),
        ({"steps": 0}, "steps: .* greater than or equal to 1"),
        ({"steps": 10**6}, "steps: .* less than or equal to 1000"),
        ({"ratio": -0.1}, "ratio"),
        ({"ratio": 1.5}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"guidance": float("inf")}, "guidance"),
        ({"seed": -1}, "seed"),
        ({"steps": "many"}, "steps: .* valid integer"),
        ({"prompt": 7}, "prompt: .* valid string"),
        ({"method": "magic"}, "method 'magic' is unknown; choose one of uniform"),
        ({"settings": {"every": "often"}}, "every"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_question_is_one_sentence(fields, said):
    import re

    with pytest.raises(ValidationError) as caught:
        Question(**{"prompt": "dog"} | fields)
    text = sentence(caught.value)
    assert re.search(said, text) and "\n" not in text and len(text) < 200


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"model": "nope"}, "neither a model of the catalogue"),
        ({"sampler": "heun"}, "sampler 'heun' is unknown"),
        ({"rival": "heun"}, "sampler 'heun' is unknown"),
        ({"ratio": 0.99, "method": "random"}, "largest possible"),
        ({"sampler": "pndm", "steps": 1000}, "pndm cannot make 1000 steps|1001"),
    ],
)
def test_what_only_the_model_can_refuse_is_one_sentence(ask, fields, said):
    for work in (plan, lambda question: list(compare(question))):
        with pytest.raises(ValueError, match=said) as caught:
            work(ask(**fields))
        assert "\n" not in sentence(caught.value)


def test_apply_refuses_what_does_not_fit(sd_folder, ask):
    question = ask(ratio=0.5)
    model = experiment.loaded(question.model)
    mask = experiment.mask_for(model, question)
    with pytest.raises(ValueError, match="Linear is not a known pipeline; known are StableDiffusionPipeline"):
        explorer.apply(torch.nn.Linear(1, 1), mask)
    with pytest.raises(ValueError, match="makes 25 calls, but the schedule has 6"), explorer.apply(model.pipe, mask):
        model.pipe("dog", num_inference_steps=25)
    assert "forward" not in vars(model.denoiser)


def test_words_never_seen_are_named():
    names = prompts.known_names("emoji-unet")
    assert len(names) >= 150 and "dog" in names
    assert prompts.unknown_words("emoji-unet", f"{names[0]} xyzzy, dog") == ["xyzzy"]
    assert prompts.unknown_words("sd15", "xyzzy") == []


def test_the_public_names():
    assert set(explorer.__all__) == {"load", "apply", "Mask", "Importance"}
    for name in explorer.__all__:
        assert callable(getattr(explorer, name))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        explorer.lode  # noqa: B018
