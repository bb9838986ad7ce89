"""Tiny random models of every known class, and pipelines of them saved to disk and loaded as usual."""

import json
import os
import string

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["EXPLORER_JOBS_NICE"] = "0"  # or jobs would wait for other tests that run at the same time
# Tiny models gain nothing from more threads, and lose much on a busy machine; and so sums have one order everywhere.
os.environ["OMP_NUM_THREADS"] = "1"

import diffusers
import pytest
import torch
import transformers

from explorer.cli import main
from explorer.models.architectures import spec_of
from tests.tiny_transformers import TRANSFORMERS, dit
from tests.toy_architecture import ToyPipeline, ToyTransformer

pytest_plugins = ["tests.page_fixtures", "tests.job_fixtures", "tests.foreign_fixtures", "tests.session"]
torch.set_num_threads(1)

DOWN = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
LETTERS = string.ascii_lowercase
UP = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


@pytest.fixture
def run(capsys):
    """Run a command in this process: (exit code, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


@pytest.fixture
def document(run):
    def document(*arguments):
        code, out, _ = run(*arguments, "--json")
        assert code == 0
        return json.loads(out)

    return document


def sd_unet(**changes):
    torch.manual_seed(0)
    settings = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "norm_num_groups": 4}
    settings |= {"down_block_types": DOWN, "up_block_types": UP, "block_out_channels": (8, 8, 16, 16)}
    settings |= {"cross_attention_dim": 12, "attention_head_dim": 2}
    return diffusers.UNet2DConditionModel(**settings | changes).eval().requires_grad_(False)


def small_unet(**changes):
    """Make the U-Net of the pipelines that methods, jobs and commands run on: a third of the work of `sd_unet`."""
    return sd_unet(
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **changes,
    )


def sdxl_unet():
    return sd_unet(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        cross_attention_dim=24,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=12 + 24,
    )


def ddpm_unet():
    torch.manual_seed(0)
    return (
        diffusers.UNet2DModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=2,
            norm_num_groups=4,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
        .eval()
        .requires_grad_(False)
    )


def toy():
    torch.manual_seed(0)
    return ToyTransformer().eval().requires_grad_(False)


DENOISERS = {"sd": sd_unet, "sdxl": sdxl_unet, "ddpm": ddpm_unet, "toy": toy, **TRANSFORMERS}


@pytest.fixture(params=DENOISERS)
def denoiser(request):
    return DENOISERS[request.param]()


def example_inputs(denoiser):
    """Make the arguments of a call for one batch element: latents of 8 x 8, 5 text tokens."""
    return spec_of(denoiser).example_inputs(denoiser, 8, 5)


@pytest.fixture
def unet():
    return sd_unet()


def vae(**changes):
    torch.manual_seed(1)
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=4,
        sample_size=16,
        **changes,
    )


def text_parts(projection=False):
    vocabulary = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocabulary = {token: index for index, token in enumerate([*vocabulary, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=8)
    torch.manual_seed(2)
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        projection_dim=12,
        bos_token_id=len(vocabulary) - 2,
        eos_token_id=len(vocabulary) - 1,
        pad_token_id=len(vocabulary) - 1,
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return tokenizer, kind(config)


def sd_pipeline():
    tokenizer, text_encoder = text_parts()
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=small_unet(),
        scheduler=diffusers.DDIMScheduler(**BETAS, prediction_type="v_prediction", timestep_spacing="trailing"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl_pipeline():
    (tokenizer, text_encoder), (tokenizer_2, text_encoder_2) = text_parts(), text_parts(projection=True)
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=sdxl_unet(),
        scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        add_watermarker=False,
    )


def ddpm_pipeline():
    return diffusers.DDPMPipeline(unet=ddpm_unet(), scheduler=diffusers.DDPMScheduler())


def dit_pipeline():
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    return diffusers.DiTPipeline(
        transformer=dit(), vae=vae(), scheduler=scheduler, id2label={0: "dog", 1: "cat, tomcat"}
    )


def t5_parts(width=12):
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    tokenizer = transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
    torch.manual_seed(3)
    sizes = {"d_model": width, "d_kv": 4, "num_heads": 2, "d_ff": 16, "num_layers": 1}
    return tokenizer, transformers.T5EncoderModel(transformers.T5Config(vocab_size=len(pieces), **sizes))


def pixart_pipeline(**changes):
    tokenizer, text_encoder = t5_parts()
    scheduler = diffusers.DPMSolverMultistepScheduler()
    return diffusers.PixArtAlphaPipeline(tokenizer, text_encoder, vae(), TRANSFORMERS["pixart"](**changes), scheduler)


def sd3_pipeline():
    (tokenizer, text_encoder), (tokenizer_2, text_encoder_2) = text_parts(True), text_parts(True)
    tokenizer_3, text_encoder_3 = t5_parts(width=24)
    transformer = TRANSFORMERS["sd3"](joint_attention_dim=24, pooled_projection_dim=24)
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.1),
        **dict(text_encoder=text_encoder, tokenizer=tokenizer),
        **dict(text_encoder_2=text_encoder_2, tokenizer_2=tokenizer_2),
        **dict(text_encoder_3=text_encoder_3, tokenizer_3=tokenizer_3),
    )


def flux_pipeline(**changes):
    (tokenizer, text_encoder), (tokenizer_2, text_encoder_2) = text_parts(), t5_parts()
    transformer = TRANSFORMERS["flux"](pooled_projection_dim=12, **changes)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    return diffusers.FluxPipeline(
        scheduler, vae(shift_factor=0.1), text_encoder, tokenizer, text_encoder_2, tokenizer_2, transformer
    )


def toy_pipeline():
    return ToyPipeline(toy(), diffusers.DDIMScheduler(clip_sample=False))


PIPELINES = {
    "sd": sd_pipeline,
    "sdxl": sdxl_pipeline,
    "ddpm": ddpm_pipeline,
    "dit": dit_pipeline,
    "toy": toy_pipeline,
}


NEWER_PIPELINES = {"pixart": pixart_pipeline, "sd3": sd3_pipeline, "flux": flux_pipeline}


@pytest.fixture(scope="session", params=PIPELINES)
def pipeline_folder(request, tmp_path_factory):
    """Write a folder in the layout of each known pipeline, with random weights."""
    folder = tmp_path_factory.mktemp("pipelines") / f"tiny-{request.param}"
    PIPELINES[request.param]().save_pretrained(folder)
    if request.param == "dit":  # as on the hub; diffusers itself does not write the labels
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"id2label": {"0": "dog", "1": "cat, tomcat"}}))
    return folder


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd") / "tiny-sd"
    sd_pipeline().save_pretrained(folder)
    return folder
