"""U-Nets: UNet2DModel and UNet2DConditionModel, of DDPM, Stable Diffusion and SDXL. Loads no torch."""

from collections.abc import Iterator, Mapping, Sequence
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


def example_inputs(unet: Any, size: int | Sequence[int], text_length: int) -> dict[str, Any]:
    """Build the arguments of a call for one batch element: latents (1, C, H, W), and what the configuration asks for.

    Raises ValueError for a configuration that needs inputs which are not known.
    """
    import torch

    config, options = unet.config, {"device": unet.device, "dtype": unet.dtype}
    inputs = dict(latents_and_timestep(unet, size, "sample"))
    if (text_width := _text_width(config)) is not None:
        inputs["encoder_hidden_states"] = torch.zeros(1, text_length, text_width, **options)
    if (width := config.get("time_cond_proj_dim")) is not None:  # a guidance embedding
        inputs["timestep_cond"] = torch.zeros(1, width, **options)
    if (labels := _class_labels(unet, options)) is not None:
        inputs["class_labels"] = labels
    added = config.get("addition_embed_type")
    if added == "text_time":  # SDXL: pooled text and six sizes
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        sizes = {"text_embeds": torch.zeros(1, width, **options), "time_ids": torch.zeros(1, 6, **options)}
        inputs["added_cond_kwargs"] = sizes
    elif added not in (None, "text"):  # `text` reads the text that is there already
        raise ValueError(f"a U-Net with addition_embed_type {added!r} needs inputs that are not known here")
    return inputs


def _text_width(config: Any) -> int | None:
    """Find how wide the text is that a U-Net takes in; None without text."""
    projection = config.get("encoder_hid_dim_type")
    if projection not in (None, "text_proj"):
        raise ValueError(f"a U-Net with encoder_hid_dim_type {projection!r} needs inputs that are not known here")
    if (width := config.get("encoder_hid_dim") or config.get("cross_attention_dim")) is None:
        return None
    return int(width if isinstance(width, int) else width[0])  # one number, or one for each block


def _class_labels(unet: Any, options: Mapping[str, Any]) -> Any:
    import torch

    config, kind = unet.config, unet.config.get("class_embed_type")
    if kind is None and config.get("num_class_embeds") is None:
        return None
    if kind in ("projection", "simple_projection"):
        return torch.zeros(1, config.projection_class_embeddings_input_dim, **options)
    if kind == "identity":
        return torch.zeros(1, unet.time_embedding.linear_2.out_features, **options)
    return torch.zeros(1, device=unet.device, dtype=unet.dtype if kind == "timestep" else torch.long)


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
