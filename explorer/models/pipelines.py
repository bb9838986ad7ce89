"""What diffusers pipelines do around their denoiser: one adapter per pipeline, one row each. Importing loads no
torch."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from explorer.models.denoiser_spec import height_and_width


def cat(tensors: Sequence[Any]) -> Any:
    import torch

    return torch.cat(list(tensors))


def split_guided(denoiser: Any, output: Any) -> tuple[Any, Any]:
    """Split what a guided batch led to into what saw the prompt and what saw none."""
    from explorer.models.architectures import spec_of

    first, second = output.chunk(2)
    return (first, second) if spec_of(denoiser).cond_first else (second, first)


class PipelineAdapter:
    """Where the denoiser is, how a prompt becomes its inputs, one guided call, and how latents become pictures."""

    denoiser: ClassVar[str] = "unet"  # attribute of the pipeline and folder on disk
    scale_before_decode: ClassVar[bool] = (
        False  # latents times 1/s instead of latents / s, which differ in the last bit
    )
    load_options: ClassVar[dict[str, Any]] = {}  # of from_pretrained
    uses_prompt: ClassVar[bool] = True
    has_names: ClassVar[bool] = True  # of what it generates, as classes are; a model of texts knows no list of them

    def encode(self, pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
        """Encode prompts as keyword arguments of a call; doubled if `guided`. Raises ValueError for unusable ones."""
        return {}

    def initial_latents(self, denoiser: Any, size: int | Sequence[int], generators: Sequence[Any]) -> Any:
        """Draw noise (B, C, H, W) of unit variance, each picture from its own generator, on the CPU."""
        import torch

        shape = (1, denoiser.config.in_channels, *height_and_width(size))
        return cat([torch.randn(shape, generator=generator, dtype=denoiser.dtype) for generator in generators])

    def call(self, denoiser: Any, x: Any, t: Any, conditioning: dict[str, Any], guidance: float) -> Any:
        """Make one guided call, (B, C, H, W): u + g (c - u), Ho & Salimans 2021, eq. 6 in g = w + 1."""
        from explorer.models.architectures import spec_of

        guided = guidance > 1 and bool(conditioning)
        x = cat([x, x]) if guided else x
        t = spec_of(denoiser).timestep_for(x, t)
        output = denoiser(x, timestep=t, **conditioning, return_dict=False)[0]
        output = output[:, : x.shape[1]]  # DiT predicts a variance as well
        if not guided:
            return output
        conditional, unconditional = split_guided(denoiser, output)
        return unconditional + guidance * (conditional - unconditional)

    def decode(self, pipe: Any, latents: Any) -> Any:
        """Decode latents to pictures (B, 3, H, W), differentiable, and so not clamped to [0, 1]."""
        import torch

        if vae := getattr(pipe, "vae", None):
            if vae.dtype == torch.float16 and vae.config.force_upcast:
                vae.to(torch.float32)
            latents, scale = latents.to(vae.dtype), vae.config.scaling_factor
            latents = 1 / scale * latents if self.scale_before_decode else latents / scale
            latents = vae.decode(latents, return_dict=False)[0]
        return latents / 2 + 0.5


class StableDiffusionAdapter(PipelineAdapter):
    load_options: ClassVar[dict[str, Any]] = {"safety_checker": None}
    has_names = False

    def encode(self, pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
        positive, negative = pipe.encode_prompt(prompts, pipe.device, 1, guided)
        return {"encoder_hidden_states": cat([negative, positive]) if guided else positive}


class StableDiffusionXLAdapter(PipelineAdapter):
    has_names = False

    def encode(self, pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
        encoded = pipe.encode_prompt(prompts, device=pipe.device, do_classifier_free_guidance=guided)
        text, negative, pooled, negative_pooled = encoded
        size = tuple(side * pipe.vae_scale_factor for side in height_and_width(pipe.default_sample_size))
        width = pipe.text_encoder_2.config.projection_dim
        ids = pipe._get_add_time_ids(size, (0, 0), size, text.dtype, width).to(pipe.device)
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
        labels = torch.tensor([known[prompt] for prompt in prompts], device=pipe.device)
        return {"class_labels": cat([labels, torch.full_like(labels, self.null_class)]) if guided else labels}


class DDPMAdapter(PipelineAdapter):
    """An unconditional model of pixels: the prompt is ignored."""

    uses_prompt = False


PIPELINES: dict[str, PipelineAdapter] = {
    "StableDiffusionPipeline": StableDiffusionAdapter(),
    "StableDiffusionXLPipeline": StableDiffusionXLAdapter(),
    "DiTPipeline": DiTAdapter(),
    "DDPMPipeline": DDPMAdapter(),
    "DDIMPipeline": DDPMAdapter(),
}


def has_noise_levels(scheduler_config: Mapping[str, Any]) -> bool:
    """Say whether the scheduler that a model comes with has the noise levels that ours can be made of: betas.

    EDM's and flow matching's have none.
    """
    import diffusers

    kind = getattr(diffusers, str(scheduler_config.get("_class_name")), None)
    return kind is None or "beta_start" in inspect.signature(kind.__init__).parameters


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
