"""Parts of a pipeline that lie in main memory while they do not compute: the same pictures, also under masks."""

import importlib.metadata

import numpy as np
import pytest
import torch

from explorer.experiment import prune
from explorer.models import catalogue, memory
from explorer.progress import run_to_completion
from explorer.pruners import PRUNERS, method_config
from explorer.sampling.generate import generate

RUNS = {"emoji-unet": ("ddim", 4, 7.5), "emoji-dit": ("ddim", 4, 4.0), "emoji-flux": ("euler", 4, 3.5)}


@pytest.fixture(scope="module", params=RUNS)
def models(request):
    """One model, whole on its device and offloaded."""
    return catalogue.load(request.param), catalogue.load(request.param, offload=True)


def draw(model, mask=None):
    *_, (_, pictures) = generate(model, ["dog"], [3], *RUNS[model.id], mask, previews=1)
    return pictures


def schedule(model):
    sampler, steps, guidance = RUNS[model.id]
    config = method_config("uniform", {"ratio": 0.5}, {"sampler": sampler, "steps": steps, "guidance": guidance})
    return run_to_completion(PRUNERS["uniform"].run(model, [], config))


def test_pictures_are_the_same_with_and_without_masks(models):
    whole, offloaded = models
    assert offloaded.denoiser._hf_hook and not hasattr(whole.denoiser, "_hf_hook")
    for _ in range(2):  # a second run starts where the first one left each part
        assert torch.equal(draw(whole), draw(offloaded))
    widths = run_to_completion(prune(whole, "magnitude", method_config("magnitude", {}))).at(0.1)
    for mask in (schedule(whole), widths):
        pruned = draw(offloaded, mask)
        assert torch.equal(draw(whole, mask), pruned) and not torch.equal(draw(whole), pruned)


def test_a_copy_that_shares_weights_copies_no_other_part(models):
    _, offloaded = models
    assert offloaded.with_shared_weights().denoiser._hf_hook is offloaded.denoiser._hf_hook


def test_a_method_learns_the_same_on_an_offloaded_model(models):
    importances = [
        run_to_completion(
            prune(model, "similarity", method_config("similarity", {"num_images": 2, "steps": 4}), ["dog"])
        )
        for model in models
        if model.id == "emoji-dit"
    ]
    for one, other in zip(importances, importances[1:], strict=False):
        assert np.array_equal(one.at(0.5).keep, other.at(0.5).keep)


def test_command_line_offloads_in_half_precision(run, tmp_path):
    asked = ("--steps", 4, "--prompt", "dog", "--out", tmp_path / "dog.png", "--dtype", "bfloat16", "--offload")
    code, _, err = run("generate", "--model", "emoji-flux", *asked)
    assert code == 0, err
    assert (tmp_path / "dog.png").stat().st_size > 1000


def test_of_what_is_offloaded_the_largest_part_has_to_fit(monkeypatch):
    folder = catalogue.ASSETS / "emoji-flux"
    parts = memory._parts(folder, "")
    whole, largest = 4 * sum(parts.values()), 4 * max(parts.values())
    free = {"cpu": whole, "cuda": largest}
    monkeypatch.setattr(memory, "_free_on", free.__getitem__)
    monkeypatch.setattr(memory, "free_memory", lambda: free["cpu"])
    memory.check_fits("flux", folder, "float32", "cuda", offload=True)
    with pytest.raises(ValueError, match="free on cuda; with offload it would fit"):
        memory.check_fits("flux", folder, "float32", "cuda")
    free["cuda"] -= 1
    with pytest.raises(ValueError, match="the largest part of flux has .* free on cuda; with dtype float16"):
        memory.check_fits("flux", folder, "float32", "cuda", offload=True)
    free["cpu"] -= 1
    with pytest.raises(ValueError, match="^flux has .* free on cpu"):
        memory.check_fits("flux", folder, "float32", "cuda", offload=True)


def test_without_accelerate_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.is_accelerate_available", lambda: False)
    with pytest.raises(ValueError, match="requires `accelerate"):
        catalogue.load("emoji-dit", offload=True)
    assert importlib.metadata.version("accelerate")
