"""PixArt, SD3 and FLUX: the project's loop is their pipeline's, whole calls left out are a coarser sampler, and methods
learn on them."""

import diffusers
import numpy as np
import pytest
import torch

import explorer
from explorer.execution.macs import count_layer_macs
from explorer.execution.prediction import Prediction
from explorer.execution.soft_supernet import ScheduleGates, SoftSuperNet
from explorer.experiment import prune
from explorer.masks.block_graph import Extrapolation
from explorer.models import catalogue
from explorer.models.model import Model
from explorer.models.pipelines import find_denoiser
from explorer.progress import run_to_completion
from explorer.pruners import PRUNERS, PUBLISHED, method_config
from explorer.pruners.schedule_configs import UniformConfig
from explorer.sampling.generate import generate
from explorer.sampling.rollout import rollout
from explorer.sampling.schedulers import make_scheduler, samplers_for
from tests.conftest import NEWER_PIPELINES, flux_pipeline, pixart_pipeline, vae
from tests.tiny_transformers import TRANSFORMERS

CALLS = 6
SAMPLERS = {"pixart": "dpm++", "sd3": "euler", "flux": "euler"}


@pytest.fixture(scope="module", params=NEWER_PIPELINES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / f"tiny-{kind}"
    NEWER_PIPELINES[kind]().save_pretrained(folder)
    return catalogue.load(folder)


def test_a_model_that_is_added_has_a_sampler_of_its_own(model, kind):
    row = catalogue.describe(model.pipe.config._name_or_path)
    assert row["run"] == (None if kind == "pixart" else {"sampler": "euler"})


def mask_of(model, method, ratio, **settings):
    """Make a schedule of whole calls (`uniform`, every `interval`-th) or of units."""
    config = method_config(method, {"guidance": 4.0, **settings}, {"steps": CALLS})
    return run_to_completion(PRUNERS[method].run(model, (), config)).at(ratio)


def plain(pipe, guidance=4.0, steps=CALLS, seeds=(3, 4), **given):
    """Generate with the pipeline itself, (B, 3, H, W) in [0, 1]."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    options = {"height": 16, "width": 16, "output_type": "np", "generator": generators}
    options |= {"use_resolution_binning": False, "clean_caption": False} if "PixArt" in type(pipe).__name__ else {}
    pictures = pipe(["dog"] * len(seeds), num_inference_steps=steps, guidance_scale=guidance, **options | given).images
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def ours(model, sampler, guidance=4.0, steps=CALLS, seeds=(3, 4), mask=None):
    *_, (_, pictures) = generate(model, ["dog"] * len(seeds), list(seeds), sampler, steps, guidance, mask)
    return pictures


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_loop_is_the_pipelines_bit_for_bit_also_with_everything_kept(kind, model, guidance):
    expected = plain(model.pipe, guidance)
    assert torch.equal(ours(model, SAMPLERS[kind], guidance), expected)
    config = UniformConfig(sampler=SAMPLERS[kind], steps=CALLS, guidance=guidance, interval=1)
    mask = run_to_completion(prune(model, "uniform", config))
    assert mask.macs_fraction == 1
    assert torch.equal(ours(model, SAMPLERS[kind], guidance, mask=mask), expected)
    with explorer.apply(model.pipe, mask):
        assert torch.equal(plain(model.pipe, guidance), expected)


@pytest.mark.slow
def test_pixart_at_full_size_is_told_resolution_and_aspect_ratio(tmp_path):
    sizes = {"num_attention_heads": 3, "cross_attention_dim": 24}  # a third each for the time, the height and the width
    pixart_pipeline(sample_size=128, num_layers=1, **sizes).save_pretrained(tmp_path)
    model = catalogue.load(tmp_path)
    assert model.denoiser.use_additional_conditions
    expected = plain(model.pipe, steps=2, seeds=(3,), height=256, width=256)
    assert torch.equal(ours(model, "dpm++", steps=2, seeds=(3,)), expected)


@pytest.mark.parametrize("interval", [2, 3])
def test_whole_calls_left_out_are_a_coarser_euler(kind, model, interval):
    """Hold the velocity (or the noise estimate) by hand: what a sampler does that steps over the calls in between."""
    if kind == "pixart":
        pytest.skip("of flow matching; PixArt's samplers are those of U-Nets")
    mask = mask_of(model, "uniform", 1 - 1 / interval, interval=interval, sampler="euler")
    assert list(mask.keep.any(axis=1)) == [call % interval == 0 for call in range(CALLS)]
    scheduler = make_scheduler("euler", model.scheduler_config)
    scheduler.set_timesteps(CALLS)
    conditioning, (latents, _) = model.encode(["dog", "dog"], 4.0), model.initial_latents([3, 4])
    with torch.no_grad():
        for call in range(0, CALLS, interval):
            velocity = model.denoise(latents, scheduler.timesteps[call], conditioning, 4.0)
            latents = latents + (scheduler.sigmas[call + interval] - scheduler.sigmas[call]) * velocity
    torch.testing.assert_close(ours(model, "euler", mask=mask), model.decode(latents), rtol=0, atol=1e-5)
    with explorer.apply(model.pipe, mask):
        torch.testing.assert_close(plain(model.pipe), model.decode(latents), rtol=0, atol=1e-5)


@pytest.mark.parametrize("reuse", ["output", "residual"])
@pytest.mark.parametrize("granularity", ["layer", "module"])
def test_the_pipeline_draws_under_a_schedule_of_units_what_the_loop_draws(kind, model, granularity, reuse):
    mask = mask_of(model, "random", 0.4, granularity=granularity, reuse=reuse, sampler=SAMPLERS[kind])
    pruned = ours(model, SAMPLERS[kind], mask=mask)
    assert not torch.equal(pruned, plain(model.pipe))
    with explorer.apply(model.pipe, mask):
        assert torch.equal(plain(model.pipe), pruned)


@pytest.mark.parametrize("sampler", ["dpm++", "unipc"])
def test_other_samplers_of_flow_matching_have_the_same_noise_levels(model, kind, sampler):
    if kind == "pixart":
        pytest.skip("of flow matching")
    euler, other = (make_scheduler(name, model.scheduler_config) for name in ("euler", sampler))
    for scheduler in (euler, other):
        scheduler.set_timesteps(CALLS)
    assert float(other.sigmas[0]) == pytest.approx(float(euler.sigmas[0]), abs=2e-3) and other.sigmas[-1] == 0
    many = ours(model, "euler", steps=200)
    assert (ours(model, sampler, steps=40) - many).abs().mean() < (ours(model, "euler", steps=10) - many).abs().mean()


def test_a_sampler_that_flow_matching_has_not_is_refused(model, kind):
    if kind != "pixart":
        with pytest.raises(ValueError, match="'ddim' is unknown for a model of flow matching; choose one of euler"):
            ours(model, "ddim")


def test_flux_with_a_negative_prompt_makes_two_passes_with_caches_of_their_own(tmp_path):
    flux_pipeline(guidance_embeds=False).save_pretrained(tmp_path)
    model = catalogue.load(tmp_path)
    given = {"negative_prompt": ["cat", "cat"], "true_cfg_scale": 3.0}
    full = plain(model.pipe, **given)
    everything = mask_of(model, "uniform", 0, sampler="euler")
    with explorer.apply(model.pipe, everything, strict=False):
        assert torch.equal(plain(model.pipe, **given), full)
    halved = mask_of(model, "uniform", 0.5, interval=2, sampler="euler")
    scheduler = make_scheduler("euler", model.scheduler_config)
    scheduler.set_timesteps(CALLS)
    prompts, (latents, _) = (model.encode([name] * 2, 1.0) for name in ("dog", "cat")), model.initial_latents([3, 4])
    dog, cat = prompts
    with torch.no_grad():
        for call in range(0, CALLS, 2):
            wanted, other = (model.denoise(latents, scheduler.timesteps[call], one, 4.0) for one in (dog, cat))
            velocity = other + 3.0 * (wanted - other)
            latents = latents + (scheduler.sigmas[call + 2] - scheduler.sigmas[call]) * velocity
    with explorer.apply(model.pipe, halved, strict=False):
        torch.testing.assert_close(plain(model.pipe, **given), model.decode(latents), rtol=0, atol=1e-5)
    assert torch.equal(plain(model.pipe, **given), full)


@pytest.mark.parametrize("granularity, reuse", [("layer", "output"), ("layer", "residual"), ("module", "output")])
@pytest.mark.parametrize("order", [0, 1])
def test_gates_of_0_and_1_are_the_schedule_and_have_gradients(model, kind, granularity, reuse, order):
    options = {"granularity": granularity, "reuse": reuse, "order": order, "sampler": SAMPLERS[kind]}
    mask = mask_of(model, "random", 0.4, **options)
    graph, scheduler = model.graph(granularity, reuse), make_scheduler(SAMPLERS[kind], model.scheduler_config)
    net = SoftSuperNet(model.denoiser, graph, Prediction.of(scheduler), Extrapolation(order))
    own = torch.from_numpy(mask.keep | ~graph.needed(mask.keep)).float().requires_grad_()
    run = (CALLS, model.initial_latents([3, 4])[0], model.encode(["dog", "dog"], 4.0), 4.0)
    latents = rollout(model, scheduler, *run, net.at, ScheduleGates.of(own, graph))
    expected = ours(model, SAMPLERS[kind], mask=mask)
    torch.testing.assert_close(model.decode(latents.detach()), expected, rtol=0, atol=1e-5)
    latents.square().sum().backward()
    assert own.grad.isfinite().all() and own.grad.ne(0).any()


LEARN = {
    "dipgo, layers": ("dipgo", {"granularity": "layer", "validate_every": 2}),
    "dipgo, branches": ("dipgo", {"granularity": "module", "reuse": "output", "validate_every": 2}),
    "dipgo, as published": ("dipgo", PUBLISHED | {"granularity": "layer", "batch": 2, "iterations": 2}),
    "similarity": ("similarity", {"granularity": "layer", "num_images": 2}),
    "ecodiff": ("ecodiff", {"algorithm": "gauss_newton", "num_images": 2, "warmup_steps": 1}),
    "ecodiff, as published": ("ecodiff", {"algorithm": "hard_concrete", "num_images": 2}),
    "magnitude": ("magnitude", {"axis": "heads and neurons"}),
    "taylor": ("taylor", {"axis": "heads and neurons", "num_images": 2, "stride": 400}),
    "search": (
        "search",
        {"granularity": "layer", "budget": 4, "num_images": 2, "candidates_per_round": 2, "ratio": 0.5},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", LEARN)
def test_methods_learn(model, kind, how):
    method, settings = LEARN[how]
    fields = PRUNERS[method].config.model_fields
    given = {"steps": 4, "sampler": SAMPLERS[kind], "guidance": 4.0, "iterations": 2, "batch": 2} | settings
    config = method_config(method, {name: value for name, value in given.items() if name in fields}, {})
    result = run_to_completion(PRUNERS[method].run(model, ("dog", "cat"), config))
    mask = result.at(0.3)
    assert mask.macs_fraction < 0.9
    pictures = ours(model, SAMPLERS[kind], steps=4, mask=mask)
    assert pictures.isfinite().all() and not torch.equal(pictures, ours(model, SAMPLERS[kind], steps=4))


# -- models that only their own pipelines generate with, from embeddings of a text that nobody wrote


def text(width, tokens=5):
    return torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0))


def both(width, tokens=5, suffix=""):
    mask = torch.ones(1, tokens, dtype=torch.long)
    given = {"prompt_embeds": text(width, tokens), "negative_prompt_embeds": -text(width, tokens)}
    return {name + suffix: value for name, value in given.items()}, mask


def hunyuan():
    parts = (vae(), None, None, TRANSFORMERS["hunyuan"](), diffusers.DDPMScheduler(), None, None, False, None, None)
    (one, mask), (other, mask_2) = both(12), both(16, 4, "_2")
    given = {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask, "use_resolution_binning": False}
    given |= {"prompt_attention_mask_2": mask_2, "negative_prompt_attention_mask_2": mask_2}
    return diffusers.HunyuanDiTPipeline(*parts), one | other | given | {"height": 16, "width": 16}


def sana():
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    scheduler = diffusers.DPMSolverMultistepScheduler(**flow)
    given, mask = both(12)
    given |= {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask, "negative_prompt": None}
    given |= {"use_resolution_binning": False, "height": 256, "width": 256}
    return diffusers.SanaPipeline(None, None, None, TRANSFORMERS["sana"](), scheduler), given


def lumina():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0)
    given = {"prompt_embeds": text(12), "prompt_attention_mask": torch.ones(1, 5, dtype=torch.long)}
    given |= {"guidance_scale": 1.0}  # else it makes two passes that it does not name
    return diffusers.Lumina2Pipeline(TRANSFORMERS["lumina"](), scheduler, vae(), None, None), given


def qwen():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    given, mask = both(12)
    given |= {"prompt_embeds_mask": mask, "negative_prompt_embeds_mask": mask, "true_cfg_scale": 3.0}
    return diffusers.QwenImagePipeline(scheduler, None, None, None, TRANSFORMERS["qwen"]()), given


def wan():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return diffusers.WanPipeline(None, None, None, scheduler, TRANSFORMERS["wan"]()), both(12)[0] | {"num_frames": 5}


@pytest.mark.parametrize("make", [hunyuan, sana, lumina, qwen, wan])
@pytest.mark.parametrize("granularity", ["layer", "module"])
def test_a_mask_is_applied_to_pipelines_with_a_loop_of_their_own(make, granularity):
    pipe, given = make()
    pipe.set_progress_bar_config(disable=True)
    attribute, denoiser = find_denoiser(pipe)
    model = Model("tiny", type(pipe).__name__, denoiser, dict(pipe.scheduler.config), 5, size=(8, 8))
    sampler = samplers_for(model.scheduler_config)[0]

    def draw():
        options = {"height": 64, "width": 64, "output_type": "latent", "generator": torch.Generator().manual_seed(1)}
        return pipe(num_inference_steps=CALLS, **options | given)[0]

    full = draw()
    with explorer.apply(pipe, mask_of(model, "uniform", 0, sampler=sampler), strict=False):
        assert torch.equal(draw(), full)
    mask = mask_of(model, "random", 0.4, granularity=granularity, sampler=sampler)
    with explorer.apply(pipe, mask, strict=False), count_layer_macs(denoiser) as macs:
        pruned = draw()
    assert pruned.isfinite().all() and not torch.equal(pruned, full)
    with count_layer_macs(denoiser) as macs_full:
        assert torch.equal(draw(), full)
    share = sum(macs.values()) / sum(macs_full.values())
    assert share == pytest.approx(mask.macs_fraction, abs=0.02)  # of a shorter film


def test_what_only_its_own_pipeline_generates_is_said(tmp_path):
    pipe, _ = lumina()
    model = Model("tiny", "Lumina2Pipeline", pipe.transformer, dict(pipe.scheduler.config), 5, pipe)
    with pytest.raises(ValueError, match="needs encoder_hidden_states, encoder_attention_mask, which only its own"):
        model.encode(["dog"], 1.0)
