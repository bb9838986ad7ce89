"""Similarity of features: known answers, tiny models, and its file."""

import numpy as np
import pytest
import torch

from explorer.experiment import ExperimentRequest, mask_at
from explorer.measures import feature_similarity
from explorer.measures.feature_similarity import gram_matrices, pairwise_similarity, relative_change
from explorer.measures.similarity_file import Similarity
from explorer.models import catalogue
from explorer.progress import run_to_completion
from explorer.sampling.rollout import denoise
from explorer.sampling.schedulers import make_scheduler


def measure(folder, prompts=("dog", "cat", "fox"), **options):
    options = {"steps": 5, "batch": 2} | options
    return run_to_completion(feature_similarity.measure(catalogue.load(folder), list(prompts), **options))


def test_cosines_of_known_features():
    features = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-2.0, 0.0]])
    root = 0.5**0.5
    assert np.allclose(pairwise_similarity(features), [[1, root, -1], [root, 1, -root], [-1, -root, 1]], atol=1e-6)
    assert np.allclose(relative_change(features), [0, 1, 10**0.5 / 2**0.5], atol=1e-6)


def test_equal_features_are_similar_and_unchanged_even_where_they_are_zero():
    for value in (0.0, 3.0):
        features = torch.full((4, 2, 3, 3), value)
        assert np.allclose(np.diag(pairwise_similarity(features)), 1) and not relative_change(features).any()
    assert np.allclose(pairwise_similarity(torch.full((4, 5), 3.0)), 1)


def test_cka_is_invariant_to_channel_rotations_and_cosine_is_not():
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(6, 5, 5, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    both = torch.stack([one, torch.einsum("dc,chw->dhw", rotation, one)])
    assert pairwise_similarity(both, gram_matrices)[0, 1] == pytest.approx(1, abs=1e-5)
    assert abs(pairwise_similarity(both)[0, 1]) < 0.9
    x = one.flatten(1).T.double()  # the formula itself: |Y'X|^2 / (|X'X| |Y'Y|), centred
    y = torch.randn(25, 4, generator=generator).double()
    x, y = x - x.mean(0), y - y.mean(0)
    cka = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert pairwise_similarity(torch.stack([x, torch.nn.functional.pad(y, (0, 2))]), gram_matrices)[
        0, 1
    ] == pytest.approx(cka.item(), abs=1e-5)


def test_running_mean_and_standard_deviation():
    values = np.random.default_rng(0).random((7, 3, 2))
    running = feature_similarity.RunningStatistics()
    for value in values:
        running.add(value)
    assert np.allclose(running.mean, values.mean(0)) and np.allclose(running.std, values.std(0, ddof=1))


def test_every_class_can_be_measured_and_stays_unchanged(pipeline_folder):
    model = catalogue.load(pipeline_folder)
    prompts = ["dog", "dog", "dog"]
    found = run_to_completion(feature_similarity.measure(model, prompts, steps=4, batch=2))
    units = len(model.graph().units)
    assert found.alike.shape == (units, 4, 4) and found.change.shape == (units, 4)
    assert np.allclose(found.alike, found.alike.transpose(0, 2, 1), atol=1e-6)
    assert (found.change[:, 1:] > 0).any() and (found.alike_spread >= 0).all()
    assert np.allclose(found.adjacent[:, 1], found.alike[:, 0, 1])
    assert not any(module._forward_hooks for module in model.denoiser.modules())


@pytest.mark.parametrize("granularity", ["stage", "layer", "module"])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_similarity_compares_the_outputs_of_units(sd_folder, granularity, guidance):
    model = catalogue.load(sd_folder)
    found = run_to_completion(
        feature_similarity.measure(model, ["dog"], steps=3, granularity=granularity, guidance=guidance)
    )
    graph, seen = model.graph(granularity), []
    last = model.denoiser.get_submodule(graph.modules[-1][-1])
    handle = last.register_forward_hook(lambda *a: seen.append(a[2]))
    for _ in run_denoising(model, guidance):
        pass
    handle.remove()
    outputs = [output[0] if isinstance(output, tuple) else output for output in seen]
    features = torch.stack([output[-1] for output in outputs])  # the last row of a guided batch saw the prompt
    assert np.allclose(found.alike[-1], pairwise_similarity(features), atol=1e-5)


def run_denoising(model, guidance):
    noise, generators = model.initial_latents([0])
    scheduler = make_scheduler("ddim", model.scheduler_config)
    return denoise(model, scheduler, 3, noise, model.encode(["dog"], guidance), guidance, generators)


def test_similarity_is_independent_of_the_batch_size(sd_folder):
    one, many = measure(sd_folder, batch=1), measure(sd_folder, batch=3)
    assert np.allclose(one.alike, many.alike, atol=1e-5) and np.allclose(
        one.change_spread, many.change_spread, atol=1e-4
    )
    parts = [measure(sd_folder, [prompt], seed=seed) for seed, prompt in enumerate(("dog", "cat", "fox"))]
    assert np.allclose(one.alike, np.mean([part.alike for part in parts], axis=0), atol=1e-5)


def test_a_file_holds_what_was_measured(sd_folder, tmp_path):
    found = measure(sd_folder, units=["up_blocks.1.layers.1"])
    found.save(tmp_path / "s.safetensors")
    again = Similarity.load(tmp_path / "s.safetensors")
    assert again.header == found.header and np.array_equal(again.alike, found.alike)
    assert again.header.pictures == 3 and again.header.units == ("up_blocks.1.layers.1",)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"prompts": ()}, "at least one prompt"),
        ({"units": ["attic"]}, "unit 'attic' is unknown"),
        ({"kind": "smell"}, "measure 'smell' is unknown"),
        ({"steps": 0}, "steps must be between"),
        ({"sampler": "magic"}, "sampler 'magic' is unknown"),
    ],
)
def test_invalid_measurement_is_refused(sd_folder, options, reason):
    with pytest.raises(ValueError, match=reason):
        measure(sd_folder, **options)


def test_features_that_are_not_finite_are_refused_by_name(sd_folder):
    model = catalogue.load(sd_folder)
    model.denoiser.mid_block.resnets[0].conv2.bias.requires_grad_(False).fill_(torch.nan)
    with pytest.raises(ValueError, match="the output of mid_block.layers.0 is not finite"):
        run_to_completion(feature_similarity.measure(model, ["dog"], steps=3))


def test_a_file_that_holds_something_else_is_refused(sd_folder, tmp_path):
    request = ExperimentRequest(model=str(sd_folder), steps=4)
    mask_at(catalogue.load(sd_folder), request).save(tmp_path / "mask.safetensors")
    with pytest.raises(ValueError, match="holds no similarity"):
        Similarity.load(tmp_path / "mask.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged"):
        Similarity.load(tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match="does not exist"):
        Similarity.load(tmp_path / "none.safetensors")
