import re
from functools import partial

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import explorer
from explorer import experiment
from explorer.errors import format_error
from explorer.experiment import ExperimentRequest, compare, plan
from explorer.models import prompts


@pytest.fixture
def new_request(sd_folder):
    return partial(ExperimentRequest, model=str(sd_folder), steps=6, guidance=3.0)


@pytest.mark.parametrize(
    "method, settings",
    [
        ("uniform", {}),
        ("uniform", {"interval": 3}),
        ("random", {"granularity": "module"}),
        ("deepcache", {"branch": 0}),
    ],
)
def test_a_plan_is_the_schedule_in_numbers(new_request, method, settings):
    request = new_request(method=method, settings=settings, ratio=0.4)
    found, mask = plan(request), experiment.mask_at(experiment.load_cached(request.model), request)
    assert np.array_equal(found.status == 0, mask.keep)
    dead = (found.status == 2) & mask.keep.any(axis=1, keepdims=True)
    assert np.array_equal(mask.header.graph.needed(mask.keep) & dead, np.zeros_like(dead))
    assert found.kept == pytest.approx(found.macs_kept / found.macs_total) == pytest.approx(1 - found.reached)
    assert found.timesteps.shape == (6,) and found.macs_share.sum() < 1
    for call, column in np.argwhere(found.status > 0):
        assert found.source_call[call, column] == np.flatnonzero(mask.keep[: call + 1, column])[-1]
    assert (found.source_call[found.status == 0] == np.argwhere(found.status == 0)[:, 0]).all()


def test_the_baseline_costs_the_same_to_half_a_call(new_request):
    for ratio in (0.0, 0.3, 0.5, 0.8):
        for sampler in ("dpm++", "pndm", "ddim"):
            found = plan(new_request(ratio=ratio, baseline_sampler=sampler))
            assert found.baseline_sampler == sampler
            assert abs(found.baseline_kept - found.kept) * found.calls <= (0.5 if sampler != "pndm" else 1.5)


def test_compare_generates_three_pictures_from_one_noise(new_request):
    frames = list(compare(new_request(ratio=0.5)))
    assert [f.role for f in frames if f.done] == ["original", "pruned", "baseline"]
    for role, calls in (("original", 6), ("pruned", 6), ("baseline", 3)):
        own = [f for f in frames if f.role == role]
        assert [f.call for f in own] == list(range(1, calls + 1)) and {f.calls for f in own} == {calls}
        assert own[-1].picture.startswith(b"\x89PNG") and own[-1].seconds > 0
    original, pruned, baseline = (f for f in frames if f.done)
    assert original.ssim is None and 0 < pruned.ssim < 1 and 0 < baseline.ssim < 1 and np.isfinite(pruned.psnr)
    assert any(f.picture and not f.done for f in frames if f.role == "original")  # a preview


def test_nothing_removed_gives_the_same_picture(new_request):
    original, pruned, _ = (f for f in compare(new_request(ratio=0.0)) if f.done)
    assert pruned.picture == original.picture and pruned.ssim == pytest.approx(1)


def test_a_cancelled_comparison_leaves_no_state(new_request):
    expected = [f.picture for f in compare(new_request(ratio=0.5)) if f.done]
    cancelled = compare(new_request(ratio=0.5))
    while next(cancelled).role != "pruned":
        pass
    cancelled.close()
    assert [f.picture for f in compare(new_request(ratio=0.5)) if f.done] == expected


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"prompt": ""}, "Type what to draw."),
        ({"prompt": "  \n"}, "Type what to draw."),
        ({"prompt": "x" * 10_000}, "prompt must have at most 500 characters, not 10,000"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"steps": 10**6}, "steps must be at most 1000"),
        ({"ratio": -0.1}, "ratio"),
        ({"ratio": 1.5}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"guidance": float("inf")}, "guidance"),
        ({"seed": -1}, "seed"),
        ({"steps": "many"}, "steps must be a whole number"),
        ({"prompt": 7}, "prompt must be text"),
        ({"method": "magic"}, "method 'magic' is unknown; choose one of uniform"),
        ({"settings": {"interval": "often"}}, "interval must be a whole number"),
        ({"sampler": "heun"}, "sampler must be 'ddim'"),
        ({"baseline_sampler": "heun"}, "baseline_sampler must be 'ddim'"),
        ({"colour": "red"}, "there is no setting 'colour'"),
    ],
)
def test_a_bad_request_is_one_sentence(fields, reason):
    with pytest.raises(ValidationError) as caught:
        ExperimentRequest(**{"prompt": "dog"} | fields)
    text = format_error(caught.value)
    assert re.search(reason, text) and "\n" not in text and len(text) < 200


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"model": "nope"}, "neither a model of the catalogue"),
        ({"ratio": 0.99, "method": "random"}, "largest possible"),
        ({"sampler": "pndm", "steps": 1000}, "pndm cannot make 1000 steps|1001"),
    ],
)
def test_model_errors_are_one_sentence(new_request, fields, reason):
    for work in (plan, lambda request: list(compare(request))):
        with pytest.raises(ValueError, match=reason) as caught:
            work(new_request(**fields))
        assert "\n" not in format_error(caught.value)


def test_apply_refuses_incompatible_masks(sd_folder, new_request):
    request = new_request(ratio=0.5)
    model = experiment.load_cached(request.model)
    mask = experiment.mask_at(model, request)
    with pytest.raises(ValueError, match="Linear holds no denoiser that is known"):
        explorer.apply(torch.nn.Linear(1, 1), mask)
    with pytest.raises(ValueError, match="makes 25 calls, but the schedule has 6"), explorer.apply(model.pipe, mask):
        model.pipe("dog", num_inference_steps=25)
    assert "forward" not in vars(model.denoiser)


def test_unknown_words_are_found():
    names = prompts.training_names("emoji-unet")
    assert len(names) >= 150 and "dog" in names
    assert prompts.unknown_words("emoji-unet", f"{names[0]} xyzzy, dog") == ["xyzzy"]
    assert prompts.unknown_words("sd15", "xyzzy") == []


def test_the_public_names():
    assert set(explorer.__all__) == {"load", "apply", "prune_widths", "Mask", "Importance"}
    for name in explorer.__all__:
        assert callable(getattr(explorer, name))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        explorer.lode  # noqa: B018
