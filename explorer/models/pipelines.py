"""What diffusers pipelines do around their denoiser: one adapter per pipeline, one row each. Importing loads no
torch."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from explorer.models.denoiser_spec import height_and_width


def cat(tensors: Sequence[Any]) -> Any:
    import torch

    return torch.cat(list(tensors))


def latent_size(denoiser: Any, vae: Any = None) -> tuple[int, int]:
    """Read height and width of the latents. Raises ValueError where neither denoiser nor VAE nor class says it."""
    from explorer.models.architectures import spec_of

    size, default = denoiser.config.get("sample_size"), spec_of(denoiser).default_size
    if size is None and default and isinstance(side := vae and vae.config.get("sample_size"), int):
        size = side // 2 ** (len(vae.config["block_out_channels"]) - 1)
    size = size or default
    if size is None:
        raise ValueError("the denoiser's configuration has no sample_size, so that its MACs cannot be counted")
    return height_and_width(size)


def dynamic_shift(tokens: int, config: Mapping[str, Any], max_shift: float) -> float:
    """Compute the shift mu of the noise levels for so many tokens, linear between two numbers of them (Esser et al.
    2024, section 5.3.2, as diffusers' pipelines have it)."""
    first, last = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    slope = (high - low) / (last - first)
    return tokens * slope + (low - slope * first)


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
    text_length: ClassVar[int | None] = None  # in tokens, of all text encoders; None: as the tokenizer says
    text_tokenizer: ClassVar[str | None] = None  # whose length bounds that, where it is less
    channels_per_token: ClassVar[int] = 1  # of the denoiser's input, to one of the latents
    made_by_call: ClassVar[tuple[str, ...]] = ()  # arguments of the denoiser that no prompt decides

    def sampling_settings(self, config: Mapping[str, Any], denoiser: Any, size: Sequence[int]) -> dict[str, Any]:
        """Make what a scheduler needs to know of the model, on top of its `config`; see `sampling.flow_matching`."""
        return {}

    def encode(self, pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
        """Encode prompts as keyword arguments of a call; doubled if `guided`. Raises ValueError for unusable ones."""
        return {}

    def initial_latents(self, denoiser: Any, size: int | Sequence[int], generators: Sequence[Any]) -> Any:
        """Draw noise (B, C, H, W) of unit variance, each picture from its own generator, on the CPU."""
        import torch

        shape = (1, denoiser.config.in_channels // self.channels_per_token, *height_and_width(size))
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
            latents = latents + shift if (shift := vae.config.get("shift_factor")) else latents
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


class PixArtAdapter(PipelineAdapter):
    denoiser = "transformer"
    has_names = False
    text_length = 120

    def encode(self, pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
        import torch

        text, mask, negative, negative_mask = pipe.encode_prompt(
            prompts, guided, device=pipe.device, max_sequence_length=self.text_length
        )
        added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
        if pipe.transformer.use_additional_conditions:
            side = [float(one * pipe.vae_scale_factor) for one in height_and_width(pipe.transformer.config.sample_size)]
            batch, options = len(prompts) * (2 if guided else 1), {"dtype": text.dtype, "device": pipe.device}
            added["resolution"] = torch.tensor(side, **options).repeat(batch, 1)
            added["aspect_ratio"] = torch.tensor([side[0] / side[1]], **options).repeat(batch, 1)
        return {
            "encoder_hidden_states": cat([negative, text]) if guided else text,
            "encoder_attention_mask": cat([negative_mask, mask]) if guided else mask,
            "added_cond_kwargs": added,
        }


class PixArtSigmaAdapter(PixArtAdapter):
    text_length = 300


class FlowAdapter(PipelineAdapter):
    """A model of flow matching, whose shift may depend on the number of tokens."""

    denoiser = "transformer"
    has_names = False
    linear_sigmas: ClassVar[bool] = False
    max_shift: ClassVar[float] = 1.15
    patch_size: ClassVar[int | None] = None  # None: as the configuration says

    def sampling_settings(self, config: Mapping[str, Any], denoiser: Any, size: Sequence[int]) -> dict[str, Any]:
        settings = {"linear_sigmas": True} if self.linear_sigmas else {}
        if not config.get("use_dynamic_shifting"):
            return settings
        patch = self.patch_size or denoiser.config.patch_size
        rows, columns = height_and_width(size)
        return settings | {"mu": dynamic_shift((rows // patch) * (columns // patch), config, self.max_shift)}


class SD3Adapter(FlowAdapter):
    text_length = 77 + 256
    max_shift = 1.16

    def encode(self, pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
        encoded = pipe.encode_prompt(prompts, None, None, device=pipe.device, do_classifier_free_guidance=guided)
        text, negative, pooled, negative_pooled = encoded
        return {
            "encoder_hidden_states": cat([negative, text]) if guided else text,
            "pooled_projections": cat([negative_pooled, pooled]) if guided else pooled,
        }


class FluxAdapter(FlowAdapter):
    """The prompt's strength is told to the network, which was distilled from one with guidance; no call is doubled."""

    text_length = 512
    text_tokenizer = "tokenizer_2"
    linear_sigmas = True
    patch_size = 2
    channels_per_token = 4
    made_by_call = ("guidance",)

    def encode(self, pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
        length = min(self.text_length, pipe.tokenizer_2.model_max_length)
        text, pooled, text_ids = pipe.encode_prompt(prompts, None, pipe.device, max_sequence_length=length)
        rows, columns = (side // 2 for side in latent_size(pipe.transformer, pipe.vae))
        places = pipe._prepare_latent_image_ids(len(prompts), rows, columns, pipe.device, text.dtype)
        return {"encoder_hidden_states": text, "pooled_projections": pooled, "txt_ids": text_ids, "img_ids": places}

    def call(self, denoiser: Any, x: Any, t: Any, conditioning: dict[str, Any], guidance: Any) -> Any:
        """Make one call, as that of the base; `t` and `guidance` may be tensors (B,), one for each picture."""
        import torch

        batch, channels, height, width = x.shape
        tokens = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        tokens = tokens.reshape(batch, height * width // 4, 4 * channels)
        given = dict(conditioning)
        if denoiser.config.guidance_embeds:
            given["guidance"] = torch.as_tensor(guidance, device=x.device, dtype=torch.float32).expand(batch)
        timestep = t.expand(batch).to(x.dtype) / 1000
        output = denoiser(tokens, timestep=timestep, **given, return_dict=False)[0]
        output = output.reshape(batch, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return output.reshape(x.shape)


class OwnLoopAdapter(FlowAdapter):
    """A model that only its own pipeline generates with: schedules and widths are applied to that."""

    def __init__(self, text_length: int, patch_size: int | None = None):
        self.text_length, self.patch_size = text_length, patch_size  # type: ignore[misc]


class DDPMAdapter(PipelineAdapter):
    """An unconditional model of pixels: the prompt is ignored."""

    uses_prompt = False


PIPELINES: dict[str, PipelineAdapter] = {
    "StableDiffusionPipeline": StableDiffusionAdapter(),
    "StableDiffusionXLPipeline": StableDiffusionXLAdapter(),
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
