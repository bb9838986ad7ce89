"""Learned extrapolation: with the polynomial's weights it is the polynomial, and it fits what it says that it fits."""

import diffusers
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch.utils._pytree import tree_leaves

import explorer
from explorer.masks.block_graph import BlockGraph, Extrapolation, Unit
from explorer.masks.learned_coefficients import table_of
from explorer.masks.result import load
from explorer.models import catalogue
from explorer.progress import run_to_completion
from explorer.pruners import PRUNERS, method_config
from explorer.pruners.learned_extrapolation import learn_extrapolation
from explorer.pruners.schedule_configs import ExtrapolationConfig
from explorer.sampling.rollout import denoise
from explorer.sampling.schedulers import make_scheduler
from tests.conftest import NEWER_PIPELINES

pytestmark = pytest.mark.slow

STEPS, GUIDANCE = 6, 3.0
PROMPTS = ["dog", "cat"]
FEW = {"num_images": 2, "seed": 5}


@pytest.fixture(scope="module", params=["sd", "flux", "pixart"])
def model(request, sd_folder, tmp_path_factory):
    if request.param == "sd":
        return catalogue.load(sd_folder)
    folder = tmp_path_factory.mktemp("pipelines") / f"tiny-{request.param}"
    NEWER_PIPELINES[request.param]().save_pretrained(folder)
    return catalogue.load(folder)


def mask_of(model, method, extrapolation=Extrapolation(), **settings):
    sampler = {"FluxPipeline": "euler", "PixArtAlphaPipeline": "dpm++"}.get(model.pipeline, "ddim")
    run = {"steps": STEPS, "guidance": GUIDANCE, "sampler": sampler, "ratio": 0.5}
    config = method_config(method, settings, run)
    return run_to_completion(PRUNERS[method].run(model, (), config)).with_extrapolation(extrapolation)


def learned(model, mask, **settings):
    return run_to_completion(learn_extrapolation(model, mask, PROMPTS, ExtrapolationConfig(**FEW | settings)))


def with_keep(mask, skipped):
    """Replace the decisions: everything is computed but `skipped`, (call, column) or (call, all)."""
    keep = np.ones_like(mask.keep)
    keep[skipped] = False
    return mask.with_manual_keep(encode(mask, keep))


def encode(mask, keep):
    from explorer.masks.encoding import encode_bits

    return encode_bits(mask.header.graph.close(keep))


def final_latents(model, mask, seed=5):
    scheduler = make_scheduler(mask.header.sampler, model.scheduler_config)
    noise, _ = model.initial_latents(range(seed, seed + 2))
    conditioning = model.encode(PROMPTS, GUIDANCE)
    with mask.apply_to(model, scheduler) as pruned:
        *_, last = denoise(pruned, scheduler, STEPS, noise, conditioning, GUIDANCE, None)
    return last.latents


@pytest.mark.parametrize("method", ["uniform", "random"])
@pytest.mark.parametrize("extrapolation", [(0,), (1,), (2,), (1, 1), (2, 1)])
def test_with_the_weights_of_the_polynomial_it_is_the_polynomial(model, method, extrapolation):
    mask = mask_of(model, method, Extrapolation(*extrapolation))
    same = learned(model, mask, ridge=1e30)
    assert same.coefficient_table().shape == (mask.header.calls, len(mask.header.units) + 1, 4)
    assert torch.equal(final_latents(model, same), final_latents(model, mask))
    assert not torch.equal(final_latents(model, learned(model, mask)), final_latents(model, mask))


def test_a_skipped_call_lands_as_near_to_the_full_run_as_it_can(model):
    mask = with_keep(mask_of(model, "uniform"), (-1, slice(None)))
    full = final_latents(model, with_keep(mask, ([], [])))
    found = learned(model, mask, ridge=0)

    def distance(coefficients):
        return float((final_latents(model, found.with_coefficients(coefficients)) - full).double().square().mean())

    best = distance(found.coefficients)
    assert best < float((final_latents(model, mask) - full).double().square().mean())
    (row,) = found.coefficients
    for place in range(4):
        for sign in (-0.01, 0.01):
            other = found.coefficients.copy()
            other[0, place] += sign * np.abs(row).max()
            assert distance(other) > best


def test_a_skipped_unit_fits_what_it_hands_out_in_the_full_run(model):
    graph, column, call = model.graph(), 1, 3
    mask = with_keep(mask_of(model, "random"), (call, column))
    found = learned(model, mask, ridge=0)
    assert np.argwhere(found.coefficient_table().any(axis=2)).tolist() == [[call, column]]

    outputs = []
    scheduler = make_scheduler(mask.header.sampler, model.scheduler_config)
    noise, _ = model.initial_latents([5, 6])
    run = (scheduler, STEPS, noise, model.encode(PROMPTS, GUIDANCE), GUIDANCE, None)
    module = model.denoiser.get_submodule(graph.modules[column][-1])
    hook = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(tree_leaves(output)))
    list(denoise(model, *run))
    hook.remove()
    *known, target = (torch.cat([leaf.flatten() for leaf in outputs[at]]).double() for at in (2, 1, 0, 3))
    expected = torch.linalg.lstsq(torch.stack(known, dim=1), target[:, None]).solution.flatten()
    np.testing.assert_allclose(found.coefficients[0, :3], expected, rtol=1e-2, atol=1e-3)
    assert not found.coefficients[0, 3]


def test_a_file_holds_the_coefficients_and_refuses_others(sd_folder, tmp_path):
    model, file = catalogue.load(sd_folder), tmp_path / "learned.safetensors"
    mask = learned(model, mask_of(model, "uniform", Extrapolation(1)))
    mask.save(file)
    again = load(file)
    np.testing.assert_array_equal(again.coefficients, mask.coefficients)
    assert torch.equal(final_latents(model, again), final_latents(model, mask))
    assert again.header.is_learned
    for other in (again.with_extrapolation(Extrapolation(0)), again.with_manual_keep(encode(mask, mask.keep))):
        assert other.coefficients is None and not other.header.is_learned
    good = load_file(file)["coefficients"]
    for bad, sentence in (
        (good[:-1], "coefficients must be float64"),
        (good[..., :1], "coefficients must be float64"),
        (np.repeat(good, 3, axis=1), "coefficients must be float64"),
        (good[:, 0], "coefficients must be float64"),
        (np.where(good == good.max(), np.nan, good), "not finite"),
        (good.astype(np.float32), "coefficients must be float64"),
    ):
        metadata = {"explorer": mask.header.model_dump_json()}
        save_file({"schedule": mask.keep, "coefficients": np.ascontiguousarray(bad)}, file, metadata=metadata)
        with pytest.raises(ValueError, match=sentence):
            load(file)


def test_an_importance_holds_coefficients_for_ratios_and_finds_those_between(sd_folder, tmp_path):
    model, file = catalogue.load(sd_folder), tmp_path / "learned.safetensors"
    config = method_config("random", {"order": 1}, {"steps": STEPS, "guidance": GUIDANCE})
    order = run_to_completion(PRUNERS["random"].run(model, (), config))
    found = learned(model, order, distance=0.25)
    assert list(found.coefficients) == [0.25, 0.5, 0.75]
    found.save(file)
    again = load(file)
    for ratio in (0.25, 0.5, 0.75):
        alone = learned(model, order.at(ratio))
        np.testing.assert_array_equal(again.at(ratio).coefficients, found.coefficients[ratio])
        np.testing.assert_allclose(alone.coefficients, found.coefficients[ratio], rtol=1e-6, atol=1e-9)
    for ratio in (0.1, 0.3, 0.6, 0.8):
        mask, plain = again.at(ratio), order.at(ratio)
        assert (mask.keep == plain.keep).all() and not torch.equal(*(final_latents(model, m) for m in (mask, plain)))
    polynomials = {ratio: learned(model, order.at(ratio), ridge=1e30).coefficients for ratio in (0.25, 0.75)}
    same = order.with_coefficients(polynomials).at(0.5)
    assert torch.equal(final_latents(model, same), final_latents(model, order.at(0.5)))

    good = load_file(file)
    for name, sentence in (
        ("coefficients/1.5000", "no ratio"),
        ("coefficients/x", "no ratio"),
        ("coefficients", "holds"),
    ):
        save_file(
            good | {name: good["coefficients/0.5000"]}, file, metadata={"explorer": found.header.model_dump_json()}
        )
        with pytest.raises(ValueError, match=sentence):
            load(file)
    save_file(good, file, metadata={"explorer": order.header.model_dump_json()})
    with pytest.raises(ValueError, match="do not agree"):
        load(file)


def test_a_small_file_for_a_large_network_is_refused_before_it_takes_memory():
    units = [Unit(name=f"u{one}", kind="stream", reuse="output", macs=1, reads=()) for one in range(2_000)]
    graph, keep = BlockGraph(units, "layer"), np.ones((1_000, 2_000), dtype=bool)
    with pytest.raises(ValueError, match="at most 4,000,000 numbers"):
        table_of(graph, keep, np.zeros((0, 4)))


@pytest.mark.parametrize("method", ["uniform", "random"])
def test_the_pipeline_of_somebody_else_draws_what_the_loop_draws(sd_folder, method):
    model = catalogue.load(sd_folder)
    mask = learned(model, mask_of(model, method, Extrapolation(1)))
    pipe = diffusers.DiffusionPipeline.from_pretrained(sd_folder, safety_checker=None)
    pipe.scheduler = make_scheduler("ddim", model.scheduler_config)
    noise, _ = model.initial_latents([5, 6])
    with explorer.apply(pipe, mask):
        given = dict(num_inference_steps=STEPS, guidance_scale=GUIDANCE, latents=noise, output_type="latent")
        drawn = pipe(PROMPTS, **given).images
    torch.testing.assert_close(drawn, final_latents(model, mask), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(drawn, final_latents(model, mask.with_extrapolation(Extrapolation(1))), atol=1e-3)


def test_what_cannot_be_learned_is_refused_in_a_sentence(sd_folder, tmp_path_factory):
    model = catalogue.load(sd_folder)
    with pytest.raises(ValueError, match="hand back their last outputs"):
        learned(model, mask_of(model, "uniform", reuse="residual"))
    with pytest.raises(ValueError, match="draws noise at each step"):
        learned(model, mask_of(model, "uniform", sampler="lcm"))
    with pytest.raises(ValueError, match="this file is for the model"):
        learned(catalogue.load("sd15", weights=False), mask_of(model, "uniform"))


def test_the_command_writes_a_mask_that_generates(document, sd_folder, tmp_path):
    order, file = tmp_path / "order.safetensors", tmp_path / "learned.safetensors"
    run = ("--model", sd_folder, "--steps", "4", "--guidance", "3")
    document("prune", *run, "--method", "uniform", "--out", order)
    names = tmp_path / "names.txt"
    names.write_text("dog\ncat\n")
    given = ("--model", sd_folder, "--prompts", names, "--set", "num_images=2", "--out", file)
    made = document("fit", order, "--ratio", "0.5", *given)
    assert made["kept"] == pytest.approx(0.5) and load(file).coefficients.any()
    assert document("fit", order, *given[:-1], tmp_path / "all.safetensors", "--set", "distance=0.5")["kept"] is None
    assert list(load(tmp_path / "all.safetensors").coefficients) == [0.5]
    document("generate", "--model", sd_folder, "--prompt", "dog", "--mask", file, "--out", tmp_path / "dog.png")
