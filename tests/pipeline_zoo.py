"""Tiny pipelines of the classes of diffusers that hold a known denoiser, built from what their signatures name."""

import inspect
from collections.abc import Callable
from typing import Any, get_args

import diffusers
import torch
from PIL import Image

from tests.conftest import BETAS, ddpm_unet, dit_pipeline, sd_unet, text_parts, vae

SIZE, STEPS = 16, 4  # of pictures in pixels; of a run
RED = Image.new("RGB", (SIZE, SIZE), "red")
SMALL = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
XL = SMALL | {
    "use_linear_projection": True,
    "cross_attention_dim": 24,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 12 + 24,
}
UNETS = {  # what pipelines ask of their U-Net, by a part of their name
    "InstructPix2Pix": {"in_channels": 8},
    "DiffusionUpscale": {"in_channels": 7, "num_class_embeds": 1000},
    "LatentConsistency": {"time_cond_proj_dim": 8},
    "Marigold": {"in_channels": 8},
    "AdapterPipeline": {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
}
DENOISERS = (diffusers.UNet2DConditionModel, diffusers.UNet2DModel, diffusers.DiTTransformer2DModel)


def classes() -> list[str]:
    """List the pipelines of diffusers whose signature names a known denoiser."""
    kinds = {name: getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Pipeline")}
    return [name for name, kind in kinds.items() if isinstance(kind, type) and _takes_known_denoiser(kind)]


def _takes_known_denoiser(kind: Any) -> bool:
    parameters = _parameters(kind.__init__)
    annotations = [parameters[name].annotation for name in ("unet", "transformer") if name in parameters]
    return any(one in DENOISERS for annotation in annotations for one in (annotation, *get_args(annotation)))


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def build(name: str, prediction_type: str = "epsilon", **unet: Any) -> Any:
    """Build a pipeline; `unet` are settings of its U-Net. Raises TypeError for one with parts that are not here."""
    kind = getattr(diffusers, name)
    parameters = _parameters(kind.__init__)
    if "transformer" in parameters:
        pipe = dit_pipeline()
    elif set(parameters) <= {"self", "unet", "scheduler"}:
        pipe = kind(unet=ddpm_unet(), scheduler=diffusers.DDIMScheduler())
    else:
        parts = _parts(name, parameters, unet, prediction_type)
        pipe = kind(**{part: value for part, value in parts.items() if part in parameters})
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe


def _parts(name: str, parameters: dict[str, Any], unet: dict[str, Any], prediction_type: str) -> dict[str, Any]:
    changes = next((changes for part, changes in UNETS.items() if part in name), {}) | unet
    unet = sd_unet(**(XL if "text_encoder_2" in parameters else SMALL) | changes)
    (tokenizer, text_encoder), (tokenizer_2, text_encoder_2) = text_parts(), text_parts(projection=True)
    scheduler = diffusers.LCMScheduler if "LatentConsistency" in name else diffusers.DDIMScheduler
    noise = BETAS | {"prediction_type": prediction_type}
    parts = {"unet": unet, "vae": vae(), "scheduler": scheduler(**noise), "tokenizer": tokenizer}
    parts |= {"text_encoder": text_encoder, "tokenizer_2": tokenizer_2, "text_encoder_2": text_encoder_2}
    if "controlnet" in parameters:
        parts["controlnet"] = _controlnet(unet)
    if "inverse_scheduler" in parameters:
        parts["inverse_scheduler"] = diffusers.DDIMInverseScheduler(**BETAS)
    if "adapter" in parameters:
        options = {"num_res_blocks": 1, "downscale_factor": 2, "adapter_type": "light_adapter"}
        parts["adapter"] = diffusers.T2IAdapter(in_channels=3, channels=list(unet.config.block_out_channels), **options)
    if "low_res_scheduler" in parameters:
        parts["low_res_scheduler"] = diffusers.DDPMScheduler(**BETAS)
    nothing = ("safety_checker", "feature_extractor", "image_encoder")
    parts |= dict.fromkeys(nothing) | {"requires_safety_checker": False, "add_watermarker": False}
    return parts | {
        "pag_applied_layers": ["mid"],
        "default_denoising_steps": STEPS,
        "default_processing_resolution": SIZE,
    }


def _controlnet(unet: torch.nn.Module) -> Any:
    """Make a ControlNet whose zero convolutions are not zero, or it would change nothing."""
    torch.manual_seed(4)
    network = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    for parameter in network.parameters():
        parameter.data.add_(0.02 * torch.randn(parameter.shape))
    return network


def draw(pipe: Any, **chosen: Any) -> torch.Tensor:
    """Call a pipeline with what its signature names; returns the latents, or the picture where it returns only that.

    chosen: arguments that it gets in any case.
    """
    given = {
        "prompt": "dog",
        "class_labels": [1],
        "image": RED,
        "control_image": RED,
        "mask_image": Image.new("L", (SIZE, SIZE), 255),
        "strength": 1.0,
        "source_prompt": "cat",
        "token_indices": [1],
        "height": SIZE,
        "width": SIZE,
        "num_inference_steps": STEPS,
        "guidance_scale": 3.0,
        "output_type": "np" if "LDM3D" in type(pipe).__name__ or not hasattr(pipe, "vae") else "latent",
    }
    parameters = _parameters(pipe.__call__)
    options = {name: value for name, value in given.items() if name in parameters}
    if any(part in type(pipe).__name__ for part in ("DiT", "Upscale", "Marigold")):
        options["output_type"] = "np"
    drawn = pipe(generator=torch.Generator().manual_seed(3), **options | chosen)[0]
    drawn = drawn[0] if isinstance(drawn, tuple | list) else drawn
    return torch.as_tensor(drawn)
