"""The public names of the library, combined with diffusers."""

import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch

import explorer
from explorer.experiment import prune
from explorer.progress import run_to_completion
from explorer.pruners import method_config


def generate(pipe):
    generator = torch.Generator().manual_seed(3)
    return pipe("dog", num_inference_steps=3, guidance_scale=3.0, generator=generator, output_type="np").images


@pytest.fixture
def model(sd_folder):
    return explorer.load(sd_folder)


@pytest.fixture
def files(model, tmp_path):
    """Write the results of two methods, an importance and a mask of each; their paths."""
    paths = {}
    for method, settings in (("uniform", {"steps": 3}), ("magnitude", {})):
        importance = run_to_completion(prune(model, method, method_config(method, settings)))
        for kind, result in (("importance", importance), ("mask", importance.at(0.2))):
            paths[method, kind] = tmp_path / f"{method}-{kind}.safetensors"
            result.save(paths[method, kind])
    return paths


@pytest.mark.parametrize("method", ["uniform", "magnitude"])
def test_masks_and_importances_of_both_kinds_are_read(files, method):
    importance = explorer.Importance.load(files[method, "importance"])
    assert importance.at(0.2).describe()["kept"] == explorer.Mask.load(files[method, "mask"]).describe()["kept"]
    with pytest.raises(ValueError, match="holds an importance, not a mask"):
        explorer.Mask.load(files[method, "importance"])
    with pytest.raises(ValueError, match="holds a mask, which has one ratio only"):
        explorer.Importance.load(files[method, "mask"])


@pytest.mark.parametrize("method", ["uniform", "magnitude"])
def test_pipeline_is_pruned_within_a_context_only(model, files, method):
    whole, denoiser = generate(model.pipe), model.pipe.unet
    with explorer.apply(model.pipe, explorer.Mask.load(files[method, "mask"])):
        pruned = generate(model.pipe)
    assert model.pipe.unet is denoiser and np.array_equal(generate(model.pipe), whole)
    assert not np.array_equal(pruned, whole)


def test_widths_refuse_the_pipeline_of_another_model(files):
    pipe = explorer.load("emoji-unet").pipe
    whole = pipe.unet
    mask = explorer.Mask.load(files["magnitude", "mask"])
    with pytest.raises(ValueError, match="made for the model tiny-sd, not emoji-unet"):
        explorer.apply(pipe, mask)
    with (
        pytest.warns(UserWarning, match="made for the model tiny-sd"),
        pytest.raises(ValueError, match="2 elements in this file, 6 in the model"),
        explorer.apply(pipe, mask, strict=False),
    ):
        pass
    assert pipe.unet is whole


def test_the_pipeline_of_a_pruned_model_holds_the_pruned_denoiser_and_is_saved_with_it(model, files, tmp_path):
    widths = explorer.Mask.load(files["magnitude", "mask"])
    smaller = explorer.prune_widths(model, widths)
    count, whole = (sum(one.numel() for one in pipe.unet.parameters()) for pipe in (smaller.pipe, model.pipe))
    assert count == pytest.approx(whole * widths.params_fraction, rel=1e-6) and smaller.pipe.unet is smaller.denoiser
    with explorer.apply(model.pipe, widths):
        expected = generate(model.pipe)
    assert np.array_equal(generate(smaller.pipe), expected)
    smaller.pipe.save_pretrained(tmp_path / "smaller")
    weights = diffusers.UNet2DConditionModel.load_config(tmp_path / "smaller" / "unet")
    assert weights["_class_name"] == "UNet2DConditionModel"
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "smaller" / "unet" / "diffusion_pytorch_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == count


def test_importing_the_package_loads_no_torch_and_has_a_version():
    code = "import sys, explorer; print(explorer.__version__); assert 'torch' not in sys.modules"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == explorer.__version__


def test_command_line_prints_the_same_version(run):
    assert run("--version")[:2] == (0, f"diffusion-pruning-explorer {explorer.__version__}\n")
