"""Transformers with one stream: DiT, PixArt, Sana, HunyuanDiT, Lumina 2, Wan. Loads no torch."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from explorer.models.denoiser_spec import DenoiserSpec, Layer, height_and_width, latents_and_timestep, own_branches

WAN_FRAMES = 21  # of latents: 81 frames of a film, four to one but for the first


def walk_blocks(attribute: str, transformer: Any) -> Iterator[Layer]:
    """Yield the blocks in the module list of this name; each one is its own stage."""
    for index, _ in enumerate(getattr(transformer, attribute)):
        name = f"{attribute}.{index}"
        yield Layer(name, name, (name,), (index - 1,) if index else (), True)


def walk_lumina(transformer: Any) -> Iterator[Layer]:
    """Yield the blocks that refine the text, those that refine the latents, and the joint ones, which read both."""
    ends: list[int] = []
    count = 0
    for attribute in ("context_refiner", "noise_refiner", "layers"):
        reads: tuple[int, ...] = tuple(ends) if attribute == "layers" else ()
        for index, _ in enumerate(getattr(transformer, attribute)):
            name = f"{attribute}.{index}"
            yield Layer(name, name, (name,), reads, True)
            reads, count = (count,), count + 1
        ends += reads
    # without refiners the joint blocks read nothing that is a unit


def walk_hunyuan(transformer: Any) -> Iterator[Layer]:
    """Yield the blocks; those of the second half read one of the first half too, the last one first, as in U-ViT."""
    num_layers, skips = len(transformer.blocks), list[int]()
    for index, block in enumerate(transformer.blocks):
        name = f"blocks.{index}"
        reads: tuple[int, ...] = (index - 1,) if index else ()
        has_skip = block.skip_linear is not None
        reads += (skips.pop(),) if has_skip else ()
        yield Layer(name, name, (name,), tuple(sorted(reads)), not has_skip)
        if index < num_layers // 2 - 1:
            skips.append(index)


def dit_inputs(transformer: Any, size: int | Sequence[int], text_length: int) -> dict[str, Any]:
    """Build the arguments of a call for one batch element: latents (1, C, H, W) and a class."""
    import torch

    labels = torch.zeros(1, dtype=torch.long, device=transformer.device)
    return {**latents_and_timestep(transformer, size, "hidden_states"), "class_labels": labels}


def _text_inputs(width: str, transformer: Any, size: int | Sequence[int], text_length: int) -> dict[str, Any]:
    """Build latents (1, C, H, W) and text (1, L, D); `width`: the setting that holds D."""
    import torch

    text = torch.zeros(1, text_length, transformer.config[width], device=transformer.device, dtype=transformer.dtype)
    return {**latents_and_timestep(transformer, size, "hidden_states"), "encoder_hidden_states": text}


def pixart_inputs(transformer: Any, size: int | Sequence[int], text_length: int) -> dict[str, Any]:
    """Build the arguments of a call for one batch element; alpha at 1024 pixels is told resolution and aspect ratio."""
    import torch

    inputs = _text_inputs("caption_channels", transformer, size, text_length)
    added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    if transformer.use_additional_conditions:
        options = {"device": transformer.device, "dtype": transformer.dtype}
        added = {"resolution": torch.zeros(1, 2, **options), "aspect_ratio": torch.ones(1, 1, **options)}
    return inputs | {"added_cond_kwargs": added}


def hunyuan_inputs(transformer: Any, size: int | Sequence[int], text_length: int) -> dict[str, Any]:
    """Build the arguments of a call for one batch element: latents, the texts of both encoders, sizes and a style."""
    import torch
    from diffusers.models.embeddings import get_2d_rotary_pos_embed

    config, options = transformer.config, {"device": transformer.device, "dtype": transformer.dtype}
    inputs = _text_inputs("cross_attention_dim", transformer, size, text_length)
    length = config.text_len_t5
    inputs |= {
        "timestep": inputs["timestep"].to(transformer.dtype),  # whose type the embeddings take
        "text_embedding_mask": torch.ones(1, text_length, device=transformer.device),
        "encoder_hidden_states_t5": torch.zeros(1, length, config.cross_attention_dim_t5, **options),
        "text_embedding_mask_t5": torch.ones(1, length, device=transformer.device),
    }
    if config.use_style_cond_and_image_meta_size:
        style = torch.zeros(1, dtype=torch.long, device=transformer.device)
        inputs |= {"image_meta_size": torch.zeros(1, 6, **options), "style": style}
    grid = tuple(side // config.patch_size for side in height_and_width(size))
    head = transformer.inner_dim // config.num_attention_heads
    ends = ((0, 0), grid)
    return inputs | {
        "image_rotary_emb": get_2d_rotary_pos_embed(head, ends, grid, device=transformer.device, output_type="pt")
    }


def lumina_inputs(transformer: Any, size: int | Sequence[int], text_length: int) -> dict[str, Any]:
    """Build the arguments of a call for one batch element."""
    import torch

    if transformer.device.type == "meta" and not transformer.rope_embedder._forward_pre_hooks:
        # it counts the tokens by the mask, and on the meta device there is nothing to count
        all_tokens = torch.ones(1, text_length, dtype=torch.long, device="cpu")
        transformer.rope_embedder.register_forward_pre_hook(lambda _, given: (given[0], all_tokens))
    mask = torch.ones(1, text_length, dtype=torch.bool, device=transformer.device)
    return {**_text_inputs("cap_feat_dim", transformer, size, text_length), "encoder_attention_mask": mask}


def wan_inputs(transformer: Any, size: int | Sequence[int], text_length: int) -> dict[str, Any]:
    """Build the arguments of a call for one film: latents (1, C, F, H, W)."""
    inputs = _text_inputs("text_dim", transformer, size, text_length)
    latents = inputs["hidden_states"]
    return inputs | {"hidden_states": latents[:, :, None].repeat(1, 1, WAN_FRAMES, 1, 1)}


def _spec(walk: Callable, example_inputs: Callable, **options: Any) -> DenoiserSpec:
    return DenoiserSpec(walk, example_inputs, sample="hidden_states", expand_timestep=True, **options)


DIT = _spec(partial(walk_blocks, "transformer_blocks"), dit_inputs, cond_first=True)
PIXART = _spec(partial(walk_blocks, "transformer_blocks"), pixart_inputs)
SANA = _spec(partial(walk_blocks, "transformer_blocks"), partial(_text_inputs, "caption_channels"))
HUNYUAN = _spec(walk_hunyuan, hunyuan_inputs)
LUMINA = _spec(walk_lumina, lumina_inputs, branches=own_branches("attn", "feed_forward"))
WAN = _spec(
    partial(walk_blocks, "blocks"), wan_inputs, branches=own_branches("attn1", "attn2", "ffn"), default_size=(60, 104)
)
