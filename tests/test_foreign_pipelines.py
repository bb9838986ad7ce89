"""Masks around pipelines that others have changed, or of classes that are not in our table."""

from functools import partial

import diffusers
import numpy as np
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback
from peft import LoraConfig
from PIL import Image
from torch.utils._pytree import tree_map

import explorer
from explorer.execution.prediction import Prediction
from explorer.masks.encoding import encode_bits
from explorer.models.model import Model
from tests.conftest import BETAS, sdxl_pipeline, small_unet
from tests.foreign_fixtures import CALLS, generate, schedule


@pytest.fixture
def model(sd_model):
    return sd_model


@pytest.fixture(scope="module", params=["calls", "units"])
def mask(request, loaded_sd):
    """Leave out whole calls, or units within calls."""
    return (
        schedule(loaded_sd) if request.param == "calls" else schedule(loaded_sd, method="random", granularity="module")
    )


@pytest.fixture(scope="module")
def expected(loaded_sd, mask):
    """Generate the full picture, and the pruned one before anybody has changed the pipeline."""
    full = generate(loaded_sd.pipe)
    with explorer.apply(loaded_sd.pipe, mask):
        pruned = generate(loaded_sd.pipe)
    assert not torch.equal(full, pruned)
    return full, pruned


def offload_model(pipe):
    pipe.enable_model_cpu_offload(device="cpu")
    return pipe.remove_all_hooks


def offload_groups(pipe):
    cpu = torch.device("cpu")
    diffusers.hooks.apply_group_offloading(pipe.unet, cpu, cpu, offload_type="block_level", num_blocks_per_group=1)

    def remove():
        for module in pipe.unet.modules():
            registry = getattr(module, "_diffusers_hook", None)
            for name in list(registry.hooks) if registry else ():
                registry.remove_hook(name, recurse=False)

    return remove


def merge_tokens(pipe):
    """Change the classes of blocks and put them back, as tomesd does."""
    names = ("BasicTransformerBlock", "Attention", "FeedForward", "ResnetBlock2D")
    blocks = [block for block in pipe.unet.modules() if type(block).__name__ in names]
    before = [type(block) for block in blocks]
    for block, kind in zip(blocks, before, strict=True):
        block.__class__ = type(kind.__name__, (kind,), {})

    def remove():
        for block, kind in zip(blocks, before, strict=True):
            block.__class__ = kind

    return remove


def compile_in_place(pipe):
    pipe.unet.compile(backend="eager")
    return lambda: setattr(pipe.unet, "_compiled_call_impl", None)


def compile_blocks(pipe):
    for block in pipe.unet.down_blocks:
        block.compile(backend="eager")
    return lambda: [setattr(block, "_compiled_call_impl", None) for block in pipe.unet.down_blocks]


def add_zero_lora(pipe):
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "conv1"]), "zero")  # which changes nothing yet
    return lambda: pipe.unet.delete_adapters("zero")


CHANGES = [offload_model, offload_groups, merge_tokens, add_zero_lora]
ORDERS = ["outside", "inside", "first in, first out", "last in, last out"]
CASES = [(change, order) for change in CHANGES for order in ORDERS]
CASES += [(compile_in_place, "outside"), (compile_in_place, "last in, last out"), (compile_blocks, "inside")]  # slow


@pytest.mark.parametrize("change, order", CASES)
def test_pictures_are_pruned_whatever_others_change_and_in_whichever_order(model, mask, expected, change, order):
    full, pruned = expected
    pipe, remove = model.pipe, None
    if order in ("outside", "first in, first out"):
        remove = change(pipe)
    with explorer.apply(pipe, mask):
        remove = remove or change(pipe)
        for _ in range(2):
            torch.testing.assert_close(generate(pipe), pruned, rtol=0, atol=1e-6)
        if order in ("inside", "first in, first out"):
            remove()
            torch.testing.assert_close(generate(pipe), pruned, rtol=0, atol=1e-6)
    torch.testing.assert_close(generate(pipe), full, rtol=0, atol=1e-6)
    if order in ("outside", "last in, last out"):
        remove()
    torch.testing.assert_close(generate(pipe), full, rtol=0, atol=1e-6)
    with explorer.apply(pipe, mask):
        torch.testing.assert_close(generate(pipe), pruned, rtol=0, atol=1e-6)


def test_a_compiled_wrapper_is_pruned(model, mask, expected):
    full, pruned = expected
    model.pipe.unet = torch.compile(model.pipe.unet, backend="eager")
    generate(model.pipe)
    with explorer.apply(model.pipe, mask):
        torch.testing.assert_close(generate(model.pipe), pruned)
    torch.testing.assert_close(generate(model.pipe), full)


def test_calls_that_are_skipped_load_no_weights(model):
    entered = []
    model.pipe.enable_model_cpu_offload(device="cpu")
    with explorer.apply(model.pipe, schedule(model)):
        hook = model.pipe.unet.conv_in.register_forward_hook(lambda *_: entered.append(1))
        generate(model.pipe)
        hook.remove()
    assert len(entered) == 2


# -- how many calls there are


def test_an_interrupted_picture_is_no_error_and_the_next_one_is_whole(model, mask, expected):
    def interrupt(pipe, step, timestep, values):
        pipe._interrupt = step == 1
        return values

    with explorer.apply(model.pipe, mask):
        generate(model.pipe, callback_on_step_end=interrupt)
        assert torch.equal(generate(model.pipe), expected[1])
        generate(model.pipe, callback_on_step_end=interrupt)
    assert torch.equal(generate(model.pipe), expected[0])


SIBLINGS = {
    "img2img": (diffusers.StableDiffusionImg2ImgPipeline, {"strength": 0.5}),
    "inpaint": (
        diffusers.StableDiffusionInpaintPipeline,
        {"strength": 0.5, "mask_image": Image.new("L", (16, 16), 255)},
    ),
}


@pytest.mark.parametrize("name", SIBLINGS)
def test_pipelines_of_the_same_denoiser_follow_a_schedule_of_the_calls_that_they_make(model, name):
    kind, options = SIBLINGS[name]
    pipe = kind.from_pipe(model.pipe)
    options |= {"image": Image.new("RGB", (16, 16), "red"), "steps": 2 * CALLS}
    full = generate(pipe, **options)
    with explorer.apply(pipe, schedule(model, ratio=0)):
        assert torch.equal(generate(pipe, **options), full)
    with explorer.apply(pipe, schedule(model)):
        pruned = generate(pipe, **options)
    assert pruned.isfinite().all() and not torch.equal(pruned, full)
    reason = f"makes {CALLS} calls, but the schedule has {2 * CALLS}"
    with pytest.raises(ValueError, match=reason), explorer.apply(pipe, schedule(model, 2 * CALLS)):
        generate(pipe, **options)


def pag_pipeline(pipe):
    return diffusers.StableDiffusionPAGPipeline.from_pipe(pipe, pag_applied_layers=["mid"])


def lcm_pipeline(pipe):
    """Make a pipeline of a U-Net that takes the guidance in as an embedding."""
    parts = pipe.components | {"unet": small_unet(time_cond_proj_dim=8), "scheduler": diffusers.LCMScheduler(**BETAS)}
    return diffusers.LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)


def test_the_first_part_of_an_ensemble_follows_a_schedule_of_its_own_calls():
    """With `denoising_end` SDXL's base leaves the last calls to a refiner."""
    pipe = sdxl_pipeline()
    pipe.set_progress_bar_config(disable=True)
    model = Model("base", "StableDiffusionXLPipeline", pipe.unet, dict(pipe.scheduler.config), 8)
    options = {"denoising_end": 0.8, "steps": 5, "output_type": "latent"}
    full = generate(pipe, **options)
    with explorer.apply(pipe, schedule(model, 4, ratio=0), strict=False):
        assert torch.equal(generate(pipe, **options), full)
    reason = "makes 4 calls, but the schedule has 5"
    with pytest.raises(ValueError, match=reason), explorer.apply(pipe, schedule(model, 5), strict=False):
        generate(pipe, **options)


@pytest.mark.parametrize("make", [pag_pipeline, lcm_pipeline])
def test_nothing_removed_changes_nothing_in_other_pipelines(model, make):
    pipe = make(model.pipe)
    full = generate(pipe)
    with explorer.apply(pipe, schedule(model, ratio=0), strict=False):
        assert torch.equal(generate(pipe), full)


class OwnPipeline(diffusers.StableDiffusionPipeline):
    """A pipeline of somebody's own."""


class OwnUNet(diffusers.UNet2DConditionModel):
    """A denoiser of somebody's own."""


def test_subclasses_are_what_they_are_derived_from(model, mask, expected):
    unet = OwnUNet.from_config(model.denoiser.config)
    unet.load_state_dict(model.denoiser.state_dict())
    pipe = OwnPipeline(**model.pipe.components | {"unet": unet}, requires_safety_checker=False)
    with explorer.apply(pipe, mask):
        assert torch.equal(generate(pipe), expected[1])


# -- guidance that is switched off


def test_the_half_that_saw_the_prompt_stays_when_guidance_is_switched_off(model):
    """Compare with the last output held by hand, in calls 1 and 3; the model predicts v, so it is held as epsilon."""
    pipe = model.pipe
    options = {"callback_on_step_end": SDCFGCutoffCallback(cutoff_step_ratio=0.5)}
    options |= {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    with explorer.apply(pipe, schedule(model)):
        pruned = generate(pipe, **options)
    prediction, original, held, calls = Prediction.of(pipe.scheduler), pipe.unet.forward, [], [0]

    def hold(sample, timestep, **conditioning):
        calls[0] += 1
        if calls[0] % 2:
            held[:] = [prediction.to_epsilon(original(sample, timestep, **conditioning)[0], sample, timestep)]
        return (prediction.from_epsilon(held[0][-len(sample) :], sample, timestep),)

    pipe.unet.forward = hold
    by_hand = generate(pipe, **options)
    del pipe.unet.forward
    assert calls == [CALLS]
    torch.testing.assert_close(pruned, by_hand, rtol=0, atol=1e-5)


def test_another_change_of_the_batch_is_one_sentence(model):
    def shorten(pipe, step, timestep, values):
        return {"latents": values["latents"][..., :4]}

    with (
        pytest.raises(ValueError, match=r"changed within a run, from \(2, 4, 8, 8\) float32 on cpu to \(2, 4, 8, 4\)"),
        explorer.apply(model.pipe, schedule(model)),
    ):
        generate(model.pipe, callback_on_step_end=shorten, callback_on_step_end_tensor_inputs=["latents"])


# -- what a mask was made for


def test_masks_of_another_model_or_sampler_are_refused_unless_asked_for(model):
    mask = schedule(model)
    model.pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(model.pipe.scheduler.config)
    with pytest.raises(
        ValueError, match=r"sampler ddim, and the pipeline has a EulerDiscreteScheduler; .* strict=False"
    ):
        explorer.apply(model.pipe, mask)
    with pytest.warns(UserWarning, match="made for the sampler ddim"), explorer.apply(model.pipe, mask, strict=False):
        assert generate(model.pipe).isfinite().all()
    foreign = explorer.load("emoji-unet").pipe
    with pytest.raises(ValueError, match=r"made for the model tiny-sd, not emoji-unet; .* strict=False"):
        explorer.apply(foreign, mask)


def test_another_scheduler_inside_is_one_sentence(model):
    with (
        pytest.raises(ValueError, match="the pipeline has been given another scheduler"),
        explorer.apply(model.pipe, schedule(model)),
    ):
        model.pipe.scheduler = diffusers.DDIMScheduler.from_config(model.pipe.scheduler.config)
        generate(model.pipe)


# -- what changes hidden states in place


def hold_units_by_hand(mask, denoiser):
    """Have each skipped unit of one module hand back a copy of its last output. Returns what undoes it."""
    held, originals, call = {}, {}, [-1]

    def forward(column, *args, **kwargs):
        if mask.keep[call[0], column] or column not in held:
            output = originals[column](*args, **kwargs)
            held[column] = tree_map(torch.clone, output)
            return output
        return tree_map(torch.clone, held[column])

    counter = denoiser.register_forward_pre_hook(lambda *_: call.__setitem__(0, call[0] + 1))
    modules = [denoiser.get_submodule(unit.name) for unit in mask.header.graph.units]
    for column, module in enumerate(modules):
        originals[column] = module.forward
        module.forward = partial(forward, column)

    def undo():
        counter.remove()
        for module in modules:
            del module.__dict__["forward"]

    return undo


@pytest.mark.parametrize("order", [0, 1])
def test_freeu_changes_no_cached_value(model, order):
    """FreeU scales the hidden states of an up block in place, which are what the unit before it handed on."""
    full = generate(model.pipe)
    model.pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    free = generate(model.pipe)
    assert not torch.equal(free, full)
    keep = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 1, 1]] * 2, bool)  # down, down, middle, up, up
    mask = schedule(model, granularity="stage", order=order).with_manual_keep(encode_bits(keep))
    with explorer.apply(model.pipe, mask):
        pruned, again = generate(model.pipe), generate(model.pipe)
    assert torch.equal(pruned, again) and not torch.equal(pruned, free)
    if order == 0:
        undo = hold_units_by_hand(mask, model.denoiser)
        assert torch.equal(generate(model.pipe), pruned)
        undo()
    assert torch.equal(generate(model.pipe), free)
