"""U-Nets: UNet2DModel and UNet2DConditionModel, of DDPM, Stable Diffusion and SDXL. Loads no torch."""

from collections.abc import Iterator
from typing import Any

from explorer.models.denoiser_spec import DenoiserSpec, Layer, latents_and_timestep

BLOCKS = {
    *("DownBlock2D", "CrossAttnDownBlock2D", "AttnDownBlock2D"),
    *("UNetMidBlock2D", "UNetMidBlock2DCrossAttn", "NoneType"),
    *("UpBlock2D", "CrossAttnUpBlock2D", "AttnUpBlock2D"),
}


def walk(unet: Any) -> Iterator[Layer]:
    """Yield the layers of a U-Net: down blocks push theirs on a stack of skips, up blocks pop them (the stem's entry is
    no unit). Raises ValueError for a block of a class that is not known."""
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        if type(block).__name__ not in BLOCKS:
            known = ", ".join(sorted(BLOCKS - {"NoneType"}))
            raise ValueError(f"{type(block).__name__} is not a known U-Net block; known are {known}")
    count = 0
    stream: tuple[int, ...] = ()  # a read is a tuple of no or one layer index
    skips = [stream]
    for index, block in enumerate(unet.down_blocks):
        for layer in _layers(block, f"down_blocks.{index}"):
            yield layer._replace(reads=stream)
            stream, count = (count,), count + 1
            skips.append(stream)
    for layer in _middle_layers(unet.mid_block):
        yield layer._replace(reads=stream)
        stream, count = (count,), count + 1
    for index, block in enumerate(unet.up_blocks):
        for layer in _layers(block, f"up_blocks.{index}"):
            skip = () if "upsamplers" in layer.name else skips.pop()
            yield layer._replace(reads=tuple(sorted({*stream, *skip})))
            stream, count = (count,), count + 1


def _layers(block: Any, stage: str) -> Iterator[Layer]:
    attentions = getattr(block, "attentions", None) or ()
    for index, resnet in enumerate(block.resnets):
        modules: tuple[str, ...] = (f"{stage}.resnets.{index}",)
        modules += (f"{stage}.attentions.{index}",) if index < len(attentions) else ()
        yield Layer(f"{stage}.layers.{index}", stage, modules, (), resnet.in_channels == resnet.out_channels)
    for kind in ("downsamplers", "upsamplers"):
        for index, _ in enumerate(getattr(block, kind, None) or ()):
            yield Layer(f"{stage}.{kind}.{index}", stage, (f"{stage}.{kind}.{index}",), (), False)


def _middle_layers(block: Any) -> Iterator[Layer]:
    """Yield the layers of the middle, whose attentions stand between its resnets: the last resnet is one of its own."""
    if block is None:
        return
    attentions = list(getattr(block, "attentions", None) or ())
    for index, _ in enumerate(block.resnets):
        modules: tuple[str, ...] = (f"mid_block.resnets.{index}",)
        if index < len(attentions) and attentions[index] is not None:
            modules += (f"mid_block.attentions.{index}",)
        yield Layer(f"mid_block.layers.{index}", "mid_block", modules, (), True)


def example_inputs(unet: Any, size: int, text_length: int) -> dict[str, Any]:
    """Build the arguments of a call for one batch element: latents (1, C, size, size), text, and SDXL's own."""
    import torch

    config, options = unet.config, {"device": unet.device, "dtype": unet.dtype}
    inputs = dict(latents_and_timestep(unet, size, "sample"))
    if "cross_attention_dim" in config:
        inputs["encoder_hidden_states"] = torch.zeros(1, text_length, config.cross_attention_dim, **options)
    if config.get("addition_embed_type") == "text_time":  # SDXL: pooled text and six sizes
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": torch.zeros(1, width, **options), "time_ids": torch.zeros(1, 6, **options)}
        inputs["added_cond_kwargs"] = added
    return inputs


def sync_shape_attributes(unet: Any) -> None:
    """Update what modules remember of their own size, and some of them assert, after channels went."""
    import torch

    for module in unet.modules():
        kind = type(module).__name__
        if kind in ("Upsample2D", "Downsample2D") and isinstance(getattr(module, "conv", None), torch.nn.Conv2d):
            module.channels, module.out_channels = module.conv.in_channels, module.conv.out_channels
        elif kind == "ResnetBlock2D":
            module.in_channels, module.out_channels = module.conv1.in_channels, module.conv2.out_channels
        elif kind == "Attention":
            module.inner_dim, module.inner_kv_dim = module.to_q.out_features, module.to_k.out_features
            module.query_dim, module.cross_attention_dim = module.to_q.in_features, module.to_k.in_features
        elif kind == "Transformer2DModel" and hasattr(module, "proj_in"):
            module.in_channels = module.norm.num_channels


UNET = DenoiserSpec(walk, example_inputs, sync_channels=sync_shape_attributes)
