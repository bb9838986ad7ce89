"""The denoising loop compared with diffusers' pipelines, and reuse compared with the samplers that it equals."""

from concurrent.futures import ThreadPoolExecutor

import diffusers
import numpy as np
import pytest
import torch

import explorer
from explorer.execution.prediction import Prediction
from explorer.execution.supernet import SuperNet
from explorer.experiment import ExperimentRequest, mask_at, prune
from explorer.library import apply
from explorer.models import catalogue
from explorer.models.architectures import build_block_graph
from explorer.progress import run_to_completion
from explorer.pruners.schedule_configs import RandomConfig, UniformConfig
from explorer.sampling.generate import generate
from explorer.sampling.schedulers import SAMPLERS, make_scheduler, num_function_evals
from tests.conftest import BETAS, dit, sd_unet


def plain(pipe, model_id, steps, guidance, seeds):
    """Generate with the diffusers pipeline itself, (B, 3, H, W) in [0, 1]."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    options = {"num_inference_steps": steps, "generator": generators, "output_type": "np"}
    if isinstance(pipe, diffusers.DiTPipeline):
        pictures = pipe([0] * len(seeds), guidance_scale=guidance, **options).images
    elif isinstance(pipe, diffusers.DDPMPipeline):
        pictures = pipe(batch_size=len(seeds), **options).images
    else:
        pictures = pipe(["dog"] * len(seeds), guidance_scale=guidance, **options).images
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def ours(model, sampler, steps, guidance, seeds, mask=None):
    *_, (frame, pictures) = generate(model, ["dog"] * len(seeds), seeds, sampler, steps, guidance, mask)
    assert frame.done and frame.call == frame.calls
    return pictures


@pytest.fixture(scope="module")
def ddim_model(pipeline_folder):
    model = catalogue.load(pipeline_folder)
    model.pipe.scheduler = diffusers.DDIMScheduler.from_config(model.pipe.scheduler.config)
    return model


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_loop_with_everything_kept_is_the_pipeline_bit_for_bit(ddim_model, guidance):
    model = ddim_model
    config = UniformConfig(steps=5, guidance=guidance, interval=1)
    mask = run_to_completion(prune(model, "uniform", config))
    assert mask.macs_fraction == 1
    expected = plain(model.pipe, model.id, 5, guidance, [3, 4])
    assert torch.equal(ours(model, "ddim", 5, guidance, [3, 4]), expected)
    assert torch.equal(ours(model, "ddim", 5, guidance, [3, 4], mask), expected)
    with apply(model.pipe, mask):
        assert torch.equal(plain(model.pipe, model.id, 5, guidance, [3, 4]), expected)


def test_a_schedule_around_the_pipeline_is_the_schedule_in_the_loop(ddim_model):
    model = ddim_model
    mask = run_to_completion(prune(model, "random", RandomConfig(steps=5, guidance=4, ratio=0.4, order=1)))
    with explorer.apply(model.pipe, mask):
        around = plain(model.pipe, model.id, 5, 4.0, [3])
    inside = ours(model, "ddim", 5, 4.0, [3], mask)
    assert torch.equal(around, inside)
    assert not torch.equal(around, ours(model, "ddim", 5, 4.0, [3]))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_equals_the_pipeline_with_that_scheduler(sd_folder, name):
    model = catalogue.load(sd_folder)
    model.pipe.scheduler = make_scheduler(name, model.scheduler_config)
    assert torch.equal(ours(model, name, 6, 4.0, [5]), plain(model.pipe, model.id, 6, 4.0, [5]))


def test_pndm_repeats_a_timestep_and_is_counted_by_calls(sd_folder):
    model = catalogue.load(sd_folder)
    assert num_function_evals("pndm", model.scheduler_config, 10) == 11
    mask = run_to_completion(prune(model, "uniform", UniformConfig(sampler="pndm", steps=10, interval=2)))
    assert mask.keep.shape[0] == 11 and mask.keep.any(axis=1).sum() == 6
    made = []
    model.denoiser.conv_in.register_forward_hook(lambda *_: made.append(1))
    model.pipe.scheduler = make_scheduler("pndm", model.scheduler_config)
    with apply(model.pipe, mask):
        plain(model.pipe, model.id, 10, 4.0, [0])
    assert len(made) == 6


def coarse_ddim(denoise, latents, timesteps, alphas, kind):
    """Run DDIM that visits only `timesteps`, each step to the true next one (Song et al. 2021, eq. 12)."""
    for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        output, a = denoise(latents, t), alphas[t]
        epsilon = output if kind == "epsilon" else a**0.5 * output + (1 - a) ** 0.5 * latents
        x0 = (latents - (1 - a) ** 0.5 * epsilon) / a**0.5
        b = torch.tensor(1.0, dtype=torch.double) if following is None else alphas[following]
        latents = b**0.5 * x0 + (1 - b) ** 0.5 * epsilon
    return latents


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("computed", [range(0, 20, 2), [0, 3, 4, 9, 15]])
def test_skipping_whole_calls_under_ddim_is_the_ddim_of_the_computed_timesteps(kind, computed):
    unet = sd_unet().double()
    scheduler = diffusers.DDIMScheduler(**BETAS, prediction_type=kind, timestep_spacing="trailing")
    text = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    scheduler.alphas_cumprod = alphas = scheduler.alphas_cumprod.double()
    graph = build_block_graph(unet, "layer")
    keep = np.zeros((20, len(graph.units)), dtype=bool)
    keep[list(computed)] = True
    latents = noise
    with torch.no_grad(), SuperNet(unet, graph, keep, Prediction.of(scheduler), scheduler=scheduler):
        scheduler.set_timesteps(20)
        for t in scheduler.timesteps:
            latents = scheduler.step(unet(latents, t, text).sample, t, latents).prev_sample
    with torch.no_grad():
        visited = [int(scheduler.timesteps[call]) for call in computed]
        expected = coarse_ddim(lambda x, t: unet(x, t, text).sample, noise, visited, alphas, kind)
    torch.testing.assert_close(latents, expected, atol=1e-9, rtol=1e-9)


def test_skipping_whole_calls_of_a_flow_is_the_euler_of_the_computed_times():
    denoiser = dit().double()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    labels, computed = torch.tensor([0]), [0, 2, 5, 6]
    graph = build_block_graph(denoiser, "layer")
    keep = np.zeros((10, len(graph.units)), dtype=bool)
    keep[computed] = True

    def velocity(x, t):
        return denoiser(x, timestep=t.reshape(1), class_labels=labels).sample[:, :4]

    latents = noise
    with torch.no_grad(), SuperNet(denoiser, graph, keep, Prediction.of(scheduler), scheduler=scheduler):
        scheduler.set_timesteps(10)
        for t in scheduler.timesteps:
            latents = scheduler.step(velocity(latents, t), t, latents).prev_sample
    sigmas = [*(scheduler.sigmas[call] for call in computed), torch.tensor(0.0)]
    expected = noise
    with torch.no_grad():
        for call, sigma, following in zip(computed, sigmas, sigmas[1:], strict=False):
            expected = expected + (following - sigma).double() * velocity(expected, scheduler.timesteps[call])
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [7, 13, 15])
def test_ddim_steps_to_the_true_next_timestep_when_steps_do_not_divide_1000(steps):
    scheduler = make_scheduler("ddim", BETAS | {"timestep_spacing": "trailing", "set_alpha_to_one": True})
    scheduler.set_timesteps(steps)
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    alphas = scheduler.alphas_cumprod.double()
    expected = coarse_ddim(lambda x, t: x.sin(), noise, [int(t) for t in scheduler.timesteps], alphas, "epsilon")
    latents = noise
    for t in scheduler.timesteps:
        latents = scheduler.step(latents.sin(), t, latents).prev_sample
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-5)


def test_twenty_generations_in_a_row_with_one_pipeline_do_not_drift(sd_folder):
    model = catalogue.load(sd_folder)
    mask = run_to_completion(prune(model, "random", RandomConfig(steps=4, ratio=0.5, order=1)))
    model.pipe.scheduler = make_scheduler("ddim", model.scheduler_config)
    with apply(model.pipe, mask):
        pictures = [plain(model.pipe, model.id, 4, 7.5, [0]) for _ in range(20)]
    assert all(torch.equal(picture, pictures[0]) for picture in pictures)


def test_runs_at_the_same_time_do_not_mix(sd_folder):
    """Advance two generators of frames in turn, one of them under a schedule."""
    model = catalogue.load(sd_folder)
    mask = mask_at(model, ExperimentRequest(model=str(sd_folder), method="random", steps=4, ratio=0.5))
    alone = [ours(model, "ddim", 4, 7.5, [seed], schedule) for seed, schedule in ((1, None), (2, mask))]
    first = generate(model, ["dog"], [1], "ddim", 4, 7.5)
    second = generate(model, ["dog"], [2], "ddim", 4, 7.5, mask)
    *_, ((_, a), (_, b)) = zip(first, second, strict=True)
    assert torch.equal(a, alone[0]) and torch.equal(b, alone[1])


def test_prompts_encoded_at_the_same_time_do_not_mix(sd_folder):
    """Encode in several threads: a tokenizer stores its padding, which another thread must not change meanwhile."""
    model = catalogue.load(sd_folder)

    def encoded(prompt):
        return model.encode([prompt], 7.5)["encoder_hidden_states"]

    alone = {prompt: encoded(prompt) for prompt in ("dog", "red apple", "a")}
    with ThreadPoolExecutor(4) as pool:
        encoded_at_once = list(pool.map(encoded, [*alone] * 100))
    assert all(map(torch.equal, encoded_at_once, [*alone.values()] * 100))


@pytest.mark.parametrize("steps", [0, -1, 1001, 10**6])
def test_steps_that_cannot_be_made_are_refused(steps):
    with pytest.raises(ValueError, match="steps must be between 1 and 1000"):
        num_function_evals("ddim", BETAS, steps)


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="'heun' is unknown; choose one of ddim, dpm"):
        make_scheduler("heun", BETAS)
