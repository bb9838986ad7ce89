"""Every pipeline class of diffusers that can be built here: with nothing removed it draws the plain picture, bit for
bit, and with half of its calls left out what it draws with the last noise estimate held by hand."""

from functools import partial

import diffusers
import pytest
import torch
from torch.utils._pytree import tree_map

import explorer
from explorer.models.model import Model
from explorer.models.pipelines import PIPELINES, find_denoiser
from tests import pipeline_zoo as zoo
from tests.conftest import BETAS
from tests.foreign_fixtures import schedule

DRAWN = [
    "AltDiffusionImg2ImgPipeline",
    "AltDiffusionPipeline",
    "ConsistencyModelPipeline",
    "DDIMPipeline",
    "DDPMPipeline",
    "DiTPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
    "LatentConsistencyModelPipeline",
    "MarigoldDepthPipeline",
    "MarigoldIntrinsicsPipeline",
    "MarigoldNormalsPipeline",
    "PNDMPipeline",
    "SemanticStableDiffusionPipeline",
    "StableDiffusionAdapterPipeline",
    "StableDiffusionControlNetImg2ImgPipeline",
    "StableDiffusionControlNetInpaintPipeline",
    "StableDiffusionControlNetPAGInpaintPipeline",
    "StableDiffusionControlNetPAGPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionLDM3DPipeline",
    "StableDiffusionModelEditingPipeline",
    "StableDiffusionPAGImg2ImgPipeline",
    "StableDiffusionPAGInpaintPipeline",
    "StableDiffusionPAGPipeline",
    "StableDiffusionPanoramaPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionUpscalePipeline",
    "StableDiffusionXLAdapterPipeline",
    "StableDiffusionXLControlNetImg2ImgPipeline",
    "StableDiffusionXLControlNetInpaintPipeline",
    "StableDiffusionXLControlNetPAGImg2ImgPipeline",
    "StableDiffusionXLControlNetPAGPipeline",
    "StableDiffusionXLControlNetPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
    "StableDiffusionXLPAGImg2ImgPipeline",
    "StableDiffusionXLPAGInpaintPipeline",
    "StableDiffusionXLPAGPipeline",
    "StableDiffusionXLPipeline",
]


def masks_of(pipe, calls):
    """Make a schedule with everything kept, and one with half of the calls left out."""
    attribute, denoiser = find_denoiser(pipe)
    kind = next(name for name, adapter in PIPELINES.items() if adapter.denoiser == attribute)
    model = Model("tiny", kind, denoiser, dict(pipe.scheduler.config), 8)
    return schedule(model, calls, ratio=0), schedule(model, calls, ratio=0.5, interval=2)


def count_calls(pipe, draw):
    made = []
    hook = find_denoiser(pipe)[1].register_forward_pre_hook(lambda *_: made.append(1))
    picture = draw()
    hook.remove()
    return len(made), picture


def hold_by_hand(pipe, keep):
    """Have each call that is left out stand for the last noise estimate: epsilon = alpha v + sigma x, of the latents x,
    the first channels of the input. Returns what undoes it."""
    denoiser, held, calls = find_denoiser(pipe)[1], [], []
    original, is_v = denoiser.forward, pipe.scheduler.config.get("prediction_type") == "v_prediction"

    def forward(sample, timestep, *args, **kwargs):
        calls.append(1)
        if keep[len(calls) - 1]:
            output = original(sample, timestep, *args, **kwargs)
            held[:] = [tree_map(lambda v: to_epsilon(v, sample, timestep), output) if is_v else output]
            return output
        return tree_map(lambda e: to_v(e, sample, timestep), held[0]) if is_v else held[0]

    def levels(timestep):
        alpha = pipe.scheduler.alphas_cumprod[int(timestep.flatten()[0])].double() ** 0.5
        return alpha, (1 - alpha**2) ** 0.5

    def to_epsilon(v, sample, timestep):
        alpha, sigma = levels(timestep)
        return alpha * v + sigma * sample[:, : v.shape[1]]

    def to_v(epsilon, sample, timestep):
        alpha, sigma = levels(timestep)
        x0 = (sample[:, : epsilon.shape[1]] - sigma * epsilon) / alpha
        return (alpha * epsilon - sigma * x0).to(sample.dtype)

    denoiser.forward = forward
    return lambda: denoiser.__dict__.pop("forward")


def check(pipe, atol=0.0, **options):
    """Check both, for a call of the pipeline with these arguments."""
    draw = partial(zoo.draw, pipe, **options)
    calls, full = count_calls(pipe, draw)
    everything, half = masks_of(pipe, calls)
    with explorer.apply(pipe, everything, strict=False):
        assert torch.equal(draw(), full)
        assert torch.equal(draw(), full)
    with explorer.apply(pipe, half, strict=False):
        pruned, again = draw(), draw()
    release = hold_by_hand(pipe, half.keep.any(axis=1))
    by_hand = draw()
    release()
    assert torch.equal(pruned, again) and not torch.equal(pruned, full)
    torch.testing.assert_close(pruned, by_hand, rtol=0, atol=atol)
    assert torch.equal(draw(), full)


@pytest.mark.parametrize("name", DRAWN)
def test_it_draws_the_plain_picture_and_the_one_held_by_hand(name):
    check(zoo.build(name))


WITH_A_PICTURE = {  # whose input holds more than the latents
    "StableDiffusionInpaintPipeline": {"in_channels": 9},
    "StableDiffusionInstructPix2PixPipeline": {},
    "StableDiffusionUpscalePipeline": {},
    "StableDiffusionXLInstructPix2PixPipeline": {},
}


@pytest.mark.parametrize("name", WITH_A_PICTURE)
def test_the_latents_are_found_among_the_input_of_a_model_that_predicts_v(name):
    check(zoo.build(name, "v_prediction", **WITH_A_PICTURE[name]), atol=1e-5)


def test_latents_that_are_not_the_first_channels_are_one_sentence():
    pipe = zoo.build("MarigoldDepthPipeline", "v_prediction")
    _, half = masks_of(pipe, zoo.STEPS)
    with (
        pytest.raises(ValueError, match="which channels of the denoiser's input are the latents is not known"),
        explorer.apply(pipe, half, strict=False),
    ):
        zoo.draw(pipe)


@pytest.mark.parametrize(
    "name, options", [("StableDiffusionSAGPipeline", {}), ("StableDiffusionPanoramaPipeline", {"width": 1024})]
)
def test_more_than_one_call_per_step_is_one_sentence_at_the_second_call(name, options):
    pipe = zoo.build(name)
    calls = []
    find_denoiser(pipe)[1].register_forward_pre_hook(lambda *_: calls.append(1))
    with (
        pytest.raises(ValueError, match=f"a {name} calls the denoiser more than once at timestep 750"),
        explorer.apply(pipe, masks_of(pipe, zoo.STEPS)[0], strict=False),
    ):
        zoo.draw(pipe, **options)
    assert len(calls) == 1


# -- arguments of a call that change what the denoiser is given


def add_ip_adapter(pipe):
    """Add an IP-Adapter with random weights. Returns the argument that its picture goes into."""
    unet, width, attention = pipe.unet, pipe.unet.config.cross_attention_dim, {}
    crossed = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    torch.manual_seed(5)
    for index, name in enumerate(crossed):
        size = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        attention |= {f"{2 * index + 1}.to_{part}_ip.weight": torch.randn(size, width) for part in "kv"}
    projection = {"proj.weight": torch.randn(4 * width, 6), "proj.bias": torch.zeros(4 * width)}
    projection |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": attention}])
    return {"ip_adapter_image_embeds": [torch.randn(2, 1, 6)]}


ARGUMENTS = {
    "guidance_rescale": ("StableDiffusionPipeline", {"guidance_rescale": 0.7}),
    "eta": ("StableDiffusionPipeline", {"eta": 0.5}),
    "two pictures of a prompt": ("StableDiffusionPipeline", {"num_images_per_prompt": 2}),
    "custom timesteps": ("StableDiffusionXLPipeline", {"timesteps": [900, 700, 400, 100]}),
    "no guidance": ("StableDiffusionPipeline", {"guidance_scale": 1.0}),
    "guess mode of ControlNet": ("StableDiffusionControlNetPipeline", {"guess_mode": True}),
    "part of a run with ControlNet": ("StableDiffusionControlNetPipeline", {"control_guidance_end": 0.5}),
    "IP-Adapter": ("StableDiffusionPipeline", add_ip_adapter),
}


@pytest.mark.parametrize("title", ARGUMENTS)
def test_arguments_of_a_call_reach_the_computed_calls(title):
    name, options = ARGUMENTS[title]
    pipe = zoo.build(name)
    without = zoo.draw(pipe)
    options = options(pipe) if callable(options) else options
    if "timesteps" in options:
        pipe.scheduler = diffusers.DDPMScheduler(**BETAS)  # one that takes them
    assert not torch.equal(zoo.draw(pipe, **options), without)
    check(pipe, **options)


def test_sigmas_of_ones_own_are_as_many_calls():
    pipe = zoo.build("StableDiffusionXLPipeline")
    pipe.scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear")
    check(pipe, sigmas=[10.0, 3.0, 1.0, 0.2])
