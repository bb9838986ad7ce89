"""What a diffusers pipeline does around its denoiser, as the base of all adapters. Importing loads no torch."""

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

    def pack(self, latents: Any) -> Any:
        """Arrange latents (B, C, H, W) as the denoiser is given them."""
        return latents

    def unpack(self, output: Any, shape: Sequence[int]) -> Any:
        """Arrange an output of the denoiser as latents of this shape."""
        return output

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
