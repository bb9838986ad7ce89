"""Results on a GPU equal those on the CPU: on a fake device whose tensors mix with no others, and on a real one."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch

from tests.fake_device import NAME, register

pytestmark = pytest.mark.slow

DEVICES = [NAME, *(["cuda"] if torch.cuda.is_available() else [])]
LEARNED = {"steps": 4, "guidance": 3.0, "granularity": "stage", "iterations": 2, "batch": 2}
GENETIC = {"steps": 4, "guidance": 3.0, "ratio": 0.5, "num_images": 2, "population": 4, "budget": 5}
WIDTHS = {"steps": 3, "guidance": 3.0, "iterations": 2, "batch": 2}
SEARCHES = {
    "dipgo": LEARNED | {"reuse": "residual", "parametrisation": "network", "validate_every": 2},
    "dipgo published": LEARNED | {"algorithm": "argmax", "order": 0, "loss": "l2", "validate_every": 0},
    "genetic": GENETIC,
    "similarity": {"steps": 4, "guidance": 3.0},
    "planned": {"steps": 4, "guidance": 3.0, "num_images": 2},
    "ecodiff": WIDTHS,
    "taylor": {"axis": "channels", "num_images": 2, "steps": 3, "stride": 200},
    "magnitude": {"axis": "channels"},
}


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(scope="module")
def in_process(device):
    """Start a process for a device; yields what runs a function there. Beside the fake device, a real one fails."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), register if device == NAME else None) as pool:
        yield lambda work, *arguments: pool.submit(work, *arguments).result()


def search(folder, device, method, settings):
    from explorer.experiment import load_cached, prune
    from explorer.progress import run_to_completion
    from explorer.pruners import method_config

    model = load_cached(str(folder), device=device)
    found = run_to_completion(prune(model, method, method_config(method, settings), ["dog", "cat"]))
    score = found.score if hasattr(found, "score") else found.keep
    return {name: np.asarray(value) for name, value in (score if isinstance(score, dict) else {"": score}).items()}


def generate(folder, device):
    """Return the distance to the full run of a schedule, of widths, and of few steps."""
    os.environ["EXPLORER_DEVICE"] = device
    from explorer.experiment import ExperimentRequest, compare, load_cached, prune
    from explorer.progress import run_to_completion
    from explorer.pruners import method_config

    model = load_cached(folder)
    assert model.denoiser.device.type == device
    request = ExperimentRequest(model=folder, prompt="dog", steps=4, guidance=3.0, ratio=0.5)
    widths = run_to_completion(prune(model, "magnitude", method_config("magnitude", {"axis": "channels"}))).at(0.1)
    frames = [*compare(request), *compare(request, widths)]
    return [frame.psnr for frame in frames if frame.psnr is not None]


def evaluate_steps(folder, device, out):
    from explorer.evaluation.candidates import Candidate, ReferenceRun, make_samples
    from explorer.evaluation.evaluate import evaluate
    from explorer.experiment import load_cached
    from explorer.progress import run_to_completion

    model, samples = load_cached(str(folder), device=device), make_samples(["dog", "cat"], 2)
    candidates = [Candidate("ddim-steps", "ddim", 2), Candidate("ddim-steps", "ddim", 3)]
    file, options = out / f"{device}.parquet", {"converged_steps": 5, "batch": 2}
    rows = run_to_completion(evaluate(model, ReferenceRun(steps=4), candidates, samples, file, **options))
    return rows["psnr"].to_numpy(float)


@pytest.mark.parametrize("name", SEARCHES)
def test_search_has_the_same_result_on_every_device(name, device, in_process, sd_folder):
    method = name.split()[0]
    found, expected = (
        in_process(search, sd_folder, device, method, SEARCHES[name]),
        search(sd_folder, "cpu", method, SEARCHES[name]),
    )
    assert found.keys() == expected.keys()
    for one in expected:
        np.testing.assert_allclose(found[one], expected[one], rtol=2e-2, atol=1e-4)


def test_pictures_and_metrics_are_the_same_on_every_device(device, in_process, sd_folder, monkeypatch):
    monkeypatch.setenv("EXPLORER_DEVICE", "cpu")  # put back at the end
    found, expected = in_process(generate, str(sd_folder), device), generate(str(sd_folder), "cpu")
    assert len(expected) == 4
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_evaluation_has_the_same_rows_on_every_device(device, in_process, sd_folder, tmp_path):
    found, expected = (
        in_process(evaluate_steps, sd_folder, device, tmp_path),
        evaluate_steps(sd_folder, "cpu", tmp_path),
    )
    np.testing.assert_allclose(found, expected, atol=0.05)


def coefficients(folder, device, method):
    from explorer.experiment import load_cached, prune
    from explorer.progress import run_to_completion
    from explorer.pruners import method_config
    from explorer.pruners.learned_extrapolation import learn_extrapolation
    from explorer.pruners.schedule_configs import ExtrapolationConfig

    model = load_cached(str(folder), device=device)
    mask = run_to_completion(prune(model, method, method_config(method, {"steps": 5, "guidance": 3.0, "ratio": 0.4})))
    return run_to_completion(learn_extrapolation(model, mask, ["dog"], ExtrapolationConfig(num_images=2))).coefficients


@pytest.mark.parametrize("method", ["uniform", "random"])
def test_coefficients_are_the_same_on_every_device(method, device, in_process, sd_folder):
    found, expected = in_process(coefficients, sd_folder, device, method), coefficients(sd_folder, "cpu", method)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)


def distillation_losses(device):
    """Compute both losses by which emoji-flux is distilled, with random weights, latents and texts."""
    from explorer.training import flux
    from tests.bench.random_models import random_distillation

    parts = random_distillation(device, size=8, batch=4)
    makers = (flux.make_guidance_loss, flux.make_step_loss)
    return [float(make(*parts)(torch.Generator().manual_seed(1), 0)[0].detach()) for make in makers]


def test_distillation_has_the_same_losses_on_every_device(device, in_process):
    pytest.importorskip("transformers")
    found, expected = in_process(distillation_losses, device), distillation_losses("cpu")
    assert min(expected) > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def draw_offloaded(folder, device):
    """Draw a picture twice from a model that lies in main memory; return both, and where each part is in the end."""
    from explorer.experiment import load_cached
    from explorer.sampling.generate import generate

    model = load_cached(str(folder), device=device, offload=True)
    where = [model.denoiser.device.type]
    drawn = [[*generate(model, ["dog"], [3], "ddim", 3, 3.0, previews=1)][-1][1].numpy() for _ in range(2)]
    return drawn, [*where, model.denoiser.device.type, model.pipe.text_encoder.device.type, model.pipe.vae.device.type]


def test_an_offloaded_model_computes_on_the_device_part_by_part(device, in_process, sd_folder):
    (first, second), where = in_process(draw_offloaded, sd_folder, device)
    (expected, _), _ = draw_offloaded(sd_folder, "cpu")
    np.testing.assert_allclose(first, expected, atol=1e-3)
    np.testing.assert_array_equal(first, second)
    assert where == ["cpu", "cpu", "cpu", device]
