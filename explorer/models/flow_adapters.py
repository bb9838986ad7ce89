"""The adapters of pipelines of flow matching. Importing loads no torch."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from explorer.models.denoiser_spec import height_and_width
from explorer.models.pipeline_adapter import PipelineAdapter, cat, latent_size


def dynamic_shift(tokens: int, config: Mapping[str, Any], max_shift: float) -> float:
    """Compute the shift mu of the noise levels for so many tokens, linear between two numbers of them (Esser et al.
    2024, section 5.3.2, as diffusers' pipelines have it)."""
    first, last = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    slope = (high - low) / (last - first)
    return tokens * slope + (low - slope * first)


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
        encoded = pipe.encode_prompt(
            prompts, None, None, device=pipe._execution_device, do_classifier_free_guidance=guided
        )
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
        text, pooled, text_ids = pipe.encode_prompt(prompts, None, pipe._execution_device, max_sequence_length=length)
        rows, columns = (side // 2 for side in latent_size(pipe.transformer, pipe.vae))
        places = pipe._prepare_latent_image_ids(len(prompts), rows, columns, pipe._execution_device, text.dtype)
        return {"encoder_hidden_states": text, "pooled_projections": pooled, "txt_ids": text_ids, "img_ids": places}

    def pack(self, latents: Any) -> Any:
        batch, channels, height, width = latents.shape
        tokens = latents.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return tokens.reshape(batch, height * width // 4, 4 * channels)

    def unpack(self, output: Any, shape: Sequence[int]) -> Any:
        batch, channels, height, width = shape
        latents = output.reshape(batch, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return latents.reshape(tuple(shape))

    def call(self, denoiser: Any, x: Any, t: Any, conditioning: dict[str, Any], guidance: Any) -> Any:
        """Make one call, as that of the base; `t` and `guidance` may be tensors (B,), one for each picture."""
        import torch

        batch, tokens = len(x), self.pack(x)
        given = dict(conditioning)
        if denoiser.config.guidance_embeds:
            given["guidance"] = torch.as_tensor(guidance, dtype=torch.float32).to(x.device).expand(batch)
        timestep = t.expand(batch).to(x.dtype) / 1000
        output = denoiser(tokens, timestep=timestep, **given, return_dict=False)[0]
        return self.unpack(output, x.shape)


class OwnLoopAdapter(FlowAdapter):
    """A model that only its own pipeline generates with: schedules and widths are applied to that."""

    def __init__(self, text_length: int, patch_size: int | None = None):
        self.text_length, self.patch_size = text_length, patch_size  # type: ignore[misc]
