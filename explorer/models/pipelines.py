"""What diffusers pipelines do around their denoiser: one adapter per pipeline, one row each. Importing loads no
torch."""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from explorer.models.denoiser_spec import height_and_width
from explorer.models.flow_adapters import FluxAdapter, OwnLoopAdapter, SD3Adapter
from explorer.models.pipeline_adapter import PipelineAdapter, cat


class StableDiffusionAdapter(PipelineAdapter):
    load_options: ClassVar[dict[str, Any]] = {"safety_checker": None}
    has_names = False

    def encode(self, pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
        positive, negative = pipe.encode_prompt(prompts, pipe._execution_device, 1, guided)
        return {"encoder_hidden_states": cat([negative, positive]) if guided else positive}


class LatentConsistencyAdapter(StableDiffusionAdapter):
    """The prompt's strength is told to the network as an embedding (Meng et al. 2023); no call is doubled."""

    made_by_call = ("timestep_cond",)

    def encode(self, pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
        return super().encode(pipe, prompts, guided=False)

    def call(self, denoiser: Any, x: Any, t: Any, conditioning: dict[str, Any], guidance: float) -> Any:
        import torch
        from diffusers.models.embeddings import get_timestep_embedding

        strength = torch.full((len(x),), 1000 * (guidance - 1), device=x.device)
        width = denoiser.config.time_cond_proj_dim
        embedded = get_timestep_embedding(strength, width, downscale_freq_shift=1).to(x.dtype)
        return denoiser(x, t, timestep_cond=embedded, **conditioning, return_dict=False)[0]


class StableDiffusionXLAdapter(PipelineAdapter):
    has_names = False

    def encode(self, pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
        encoded = pipe.encode_prompt(prompts, device=pipe._execution_device, do_classifier_free_guidance=guided)
        text, negative, pooled, negative_pooled = encoded
        size = tuple(side * pipe.vae_scale_factor for side in height_and_width(pipe.default_sample_size))
        width = pipe.text_encoder_2.config.projection_dim
        ids = pipe._get_add_time_ids(size, (0, 0), size, text.dtype, width).to(pipe._execution_device)
        ids = ids.repeat(len(prompts) * (2 if guided else 1), 1)
        if guided:
            text, pooled = cat([negative, text]), cat([negative_pooled, pooled])
        return {"encoder_hidden_states": text, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}


class DiTAdapter(PipelineAdapter):
    denoiser = "transformer"
    scale_before_decode = True
    null_class = 1000

    def encode(self, pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
        import torch

        known = pipe.labels | {str(label): label for label in range(pipe.transformer.config.num_embeds_ada_norm)}
        unknown = [prompt for prompt in prompts if prompt not in known]
        if unknown:
            raise ValueError(f"this model generates classes, by name or number, and {unknown[0]!r} is none of them")
        labels = torch.tensor([known[prompt] for prompt in prompts], device=pipe._execution_device)
        return {"class_labels": cat([labels, torch.full_like(labels, self.null_class)]) if guided else labels}


class PixArtAdapter(PipelineAdapter):
    denoiser = "transformer"
    has_names = False
    text_length = 120

    def encode(self, pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
        import torch

        text, mask, negative, negative_mask = pipe.encode_prompt(
            prompts, guided, device=pipe._execution_device, max_sequence_length=self.text_length
        )
        added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
        if pipe.transformer.use_additional_conditions:
            side = [float(one * pipe.vae_scale_factor) for one in height_and_width(pipe.transformer.config.sample_size)]
            batch = len(prompts) * (2 if guided else 1)
            options = {"dtype": text.dtype, "device": pipe._execution_device}
            added["resolution"] = torch.tensor(side, **options).repeat(batch, 1)
            added["aspect_ratio"] = torch.tensor([side[0] / side[1]], **options).repeat(batch, 1)
        return {
            "encoder_hidden_states": cat([negative, text]) if guided else text,
            "encoder_attention_mask": cat([negative_mask, mask]) if guided else mask,
            "added_cond_kwargs": added,
        }


class PixArtSigmaAdapter(PixArtAdapter):
    text_length = 300


class DDPMAdapter(PipelineAdapter):
    """An unconditional model of pixels: the prompt is ignored."""

    uses_prompt = False


PIPELINES: dict[str, PipelineAdapter] = {
    "StableDiffusionPipeline": StableDiffusionAdapter(),
    "StableDiffusionXLPipeline": StableDiffusionXLAdapter(),
    "LatentConsistencyModelPipeline": LatentConsistencyAdapter(),
    "DiTPipeline": DiTAdapter(),
    "PixArtAlphaPipeline": PixArtAdapter(),
    "PixArtSigmaPipeline": PixArtSigmaAdapter(),
    "StableDiffusion3Pipeline": SD3Adapter(),
    "FluxPipeline": FluxAdapter(),
    "HunyuanDiTPipeline": OwnLoopAdapter(77),
    "SanaPipeline": OwnLoopAdapter(300),
    "Lumina2Pipeline": OwnLoopAdapter(256),
    "QwenImagePipeline": OwnLoopAdapter(512, patch_size=2),
    "WanPipeline": OwnLoopAdapter(512, patch_size=2),
    "DDPMPipeline": DDPMAdapter(),
    "DDIMPipeline": DDPMAdapter(),
}


def has_noise_levels(scheduler_config: Mapping[str, Any]) -> bool:
    """Say whether the scheduler that a model comes with has the noise levels that ours can be made of: betas, or those
    of flow matching. EDM's has none.
    """
    import diffusers

    name = str(scheduler_config.get("_class_name"))
    kind = getattr(diffusers, name, None)
    return (
        kind is None
        or name == "FlowMatchEulerDiscreteScheduler"
        or "beta_start" in inspect.signature(kind.__init__).parameters
    )


def find_denoiser(pipe: Any) -> tuple[str, Any]:
    """Find the denoiser of any diffusers pipeline that holds a known one, and the attribute that holds it.

    It may be compiled. Raises ValueError where there is none.
    """
    from explorer.models.architectures import spec_of

    reasons = []
    for attribute in dict.fromkeys(adapter.denoiser for adapter in PIPELINES.values()):
        denoiser = getattr(pipe, attribute, None)
        try:
            spec_of(denoiser)
        except ValueError as error:
            reasons += [str(error)] if denoiser is not None else []
        else:
            return attribute, denoiser
    raise ValueError((reasons or [f"{type(pipe).__name__} holds no denoiser that is known"])[0])
