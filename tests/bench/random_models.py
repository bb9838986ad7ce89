"""Models of the catalogue with random weights and random texts, for `gpu.py`: at their size, or shrunk for the CPU."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import diffusers
import torch

from explorer.models import catalogue
from explorer.models.model import Model

RUNS = {"flux-dev": {"sampler": "euler", "guidance": 3.5}}  # others: as any model, by DDIM with guidance 7.5
LATENT_SIZES = {"sd15": 64, "sdxl": 128, "flux-dev": 128}
A_THIRD = {"num_layers": 6, "num_single_layers": 13}  # of FLUX's 19 and 38 blocks, so that it is built in seconds
SHRUNK_SIZE = 8
SHRUNK: dict[str, dict[str, Any]] = {
    "sd15": {"block_out_channels": [32, 64, 128, 128], "cross_attention_dim": 32},
    "sdxl": {"block_out_channels": [32, 64, 64], "attention_head_dim": 4, "transformer_layers_per_block": 1},
    "flux-dev": {
        "num_layers": 2,
        "num_single_layers": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": [4, 6, 6],
    },
}


class RandomModel(Model):
    """A model of the catalogue with random weights and random text embeddings."""

    def encode(self, prompts: Any, guidance: float) -> dict[str, Any]:
        rows = len(prompts) * (2 if guidance > 1 else 1)
        made_elsewhere = ("sample", "hidden_states", "timestep", "guidance")
        inputs = self.example_inputs(self.denoiser)
        return {name: random_rows(value, rows) for name, value in inputs.items() if name not in made_elsewhere}

    def draw(self, batch: int, calls: int, applied: AbstractContextManager) -> torch.Tensor:
        """Generate a batch by the diffusers pipeline inside a context; returns the final latents."""
        inputs, is_flux = self.encode(["dog"] * batch, 1), self.pipeline == "FluxPipeline"
        texts = {"prompt_embeds": inputs["encoder_hidden_states"]}
        pooled = inputs["pooled_projections"] if is_flux else inputs.get("added_cond_kwargs", {}).get("text_embeds")
        if pooled is not None:
            texts["pooled_prompt_embeds"] = pooled
        if not is_flux:  # which takes its guidance in, and makes one pass
            texts |= {f"negative_{name}": -value for name, value in texts.items()}
        noise = random_rows(self.example_inputs(self.denoiser)["hidden_states" if is_flux else "sample"], batch)
        height, width = (8 * side for side in self.latent_size)
        run = dict(
            num_inference_steps=calls, guidance_scale=RUNS.get(self.id, {}).get("guidance", 7.5), output_type="latent"
        )
        with applied:
            return self.pipe(latents=noise, height=height, width=width, **texts, **run)[0]


def random_rows(example: Any, rows: int) -> Any:
    """Make `rows` random rows in the shape of an example, or of a dictionary of examples."""
    if isinstance(example, Mapping):
        return {name: random_rows(value, rows) for name, value in example.items()}
    generator = torch.Generator("cpu").manual_seed(rows)
    return torch.randn(rows, *example.shape[1:], generator=generator).to(example.device, example.dtype)


def random_model(model_id: str, device: str, dtype: torch.dtype, shrunk: bool) -> RandomModel:
    """Build a model of the catalogue with random weights; of FLUX a third of the blocks, in their full width."""
    found = catalogue.load(model_id, weights=False)
    is_flux, size = found.pipeline == "FluxPipeline", SHRUNK_SIZE if shrunk else LATENT_SIZES[model_id]
    changes = SHRUNK[model_id] if shrunk else A_THIRD if is_flux else {}
    config = dict(found.denoiser.config) | changes | ({} if is_flux else {"sample_size": size})
    torch.manual_seed(0)
    with torch.device(device):
        denoiser = type(found.denoiser).from_config(config).to(dtype).eval().requires_grad_(False)
        vae = diffusers.AutoencoderKL(
            block_out_channels=(32,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=16 if is_flux else 4,
        ).to(dtype)
    kind = diffusers.FlowMatchEulerDiscreteScheduler if is_flux else diffusers.DDIMScheduler
    parts = {"scheduler": kind.from_config(found.scheduler_config), "vae": vae}
    pipe = make_pipeline(found.pipeline, **parts, **{"transformer" if is_flux else "unet": denoiser})
    scheduler_config, text_length = found.scheduler_config, found.text_length
    return RandomModel(model_id, found.pipeline, denoiser, scheduler_config, text_length, pipe, size=(size, size))


def make_pipeline(name: str, **parts: Any) -> Any:
    """Make a pipeline of these parts alone: it is given embeddings and returns latents."""
    pipeline = getattr(diffusers, name)
    expected, options = pipeline._get_signature_keys(pipeline)
    switched_off = dict.fromkeys({"requires_safety_checker", "add_watermarker"} & set(options), False)
    pipe = pipeline(**dict.fromkeys(set(expected) - {"self"}) | parts | switched_off)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random_distillation(device: str, size: int, batch: int) -> tuple[Any, ...]:
    """Build what the losses that distil emoji-flux are made of: two random networks, latents (6, 12, size, size) and
    texts, and the size of a batch."""
    from explorer.training import flux

    torch.manual_seed(0)
    student, teacher = (flux.build(8) for _ in range(2))
    for parameter in (*student.parameters(), *teacher.parameters()):
        torch.nn.init.normal_(parameter, std=0.05)
    texts = {"encoder_hidden_states": torch.randn(6, 3, flux.TEXT_WIDTH), "pooled_projections": torch.randn(6, 8)}

    def draw(index: Any, _: Any = None) -> dict[str, torch.Tensor]:
        return {name: value[index] for name, value in texts.items()}

    given = SimpleNamespace(latents=torch.randn(6, 12, size, size), encode_whole=lambda _: draw(slice(1)))
    captions = SimpleNamespace(has_bare_style=[True, False] * 3, draw=draw)
    return student.to(device), teacher.to(device), given, captions, batch
