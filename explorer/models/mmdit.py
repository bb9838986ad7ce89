"""Transformers whose blocks hand on two streams, latents and text: SD3, FLUX, Qwen-Image. Loads no torch.

A block takes and returns both, the text first; FLUX's single-stream blocks join the two inside, so that their attention
and feed-forward, which one layer reads together, are no units of their own.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from explorer.models.denoiser_spec import DenoiserSpec, Layer, height_and_width, latents_and_timestep, own_branches

STREAMS = ("encoder_hidden_states", "hidden_states")
PACKED = 2  # latents of so many rows and columns are one token


def walk(*attributes: str) -> Any:
    """Make the walk over the blocks in module lists of these names, one list after the other."""

    def walk_blocks(transformer: Any) -> Iterator[Layer]:
        names = [
            f"{attribute}.{index}"
            for attribute in attributes
            for index, _ in enumerate(getattr(transformer, attribute))
        ]
        for index, name in enumerate(names):
            yield Layer(name, name, (name,), (index - 1,) if index else (), True, STREAMS)

    return walk_blocks


def sd3_inputs(transformer: Any, size: int | Sequence[int], text_length: int) -> dict[str, Any]:
    """Build the arguments of a call for one batch element: latents (1, C, H, W), text (1, L, D) and pooled text."""
    text = _text(transformer, text_length)
    return {**latents_and_timestep(transformer, size, "hidden_states"), **text, **_pooled(transformer)}


def flux_inputs(transformer: Any, size: int | Sequence[int], text_length: int) -> dict[str, Any]:
    """Build the arguments of a call for one batch element: packed latents (1, N, C), text, pooled text, places."""
    import torch

    inputs = _packed(transformer, size) | _text(transformer, text_length) | _pooled(transformer)
    rows, columns = (side // PACKED for side in height_and_width(size))
    inputs |= {
        "img_ids": torch.zeros(rows * columns, 3, device=transformer.device),
        "txt_ids": torch.zeros(text_length, 3, device=transformer.device),
    }
    return inputs | _guidance(transformer)


def qwen_inputs(transformer: Any, size: int | Sequence[int], text_length: int) -> dict[str, Any]:
    """Build the arguments of a call for one batch element: packed latents (1, N, C) and text."""
    import torch

    rows, columns = (side // PACKED for side in height_and_width(size))
    mask = torch.ones(1, text_length, dtype=torch.long, device=transformer.device)
    inputs = _packed(transformer, size) | _text(transformer, text_length) | _guidance(transformer)
    return inputs | {"encoder_hidden_states_mask": mask, "img_shapes": [[(1, rows, columns)]]}


def _packed(transformer: Any, size: int | Sequence[int]) -> dict[str, Any]:
    import torch

    rows, columns = (side // PACKED for side in height_and_width(size))
    shape = (1, rows * columns, transformer.config.in_channels)
    latents = torch.zeros(shape, device=transformer.device, dtype=transformer.dtype)
    return {"hidden_states": latents, "timestep": torch.ones(1, device=transformer.device)}


def _text(transformer: Any, text_length: int) -> dict[str, Any]:
    import torch

    shape = (1, text_length, transformer.config.joint_attention_dim)
    return {"encoder_hidden_states": torch.zeros(shape, device=transformer.device, dtype=transformer.dtype)}


def _pooled(transformer: Any) -> dict[str, Any]:
    import torch

    width = transformer.config.pooled_projection_dim
    return {"pooled_projections": torch.zeros(1, width, device=transformer.device, dtype=transformer.dtype)}


def _guidance(transformer: Any) -> dict[str, Any]:
    """Build the scale of guidance that a distilled model takes in; nothing for another."""
    import torch

    return {"guidance": torch.ones(1, device=transformer.device)} if transformer.config.guidance_embeds else {}


SD3 = DenoiserSpec(
    walk("transformer_blocks"),
    sd3_inputs,
    sample="hidden_states",
    expand_timestep=True,
    branches=own_branches(("attn", "attn2"), ("ff", "ff_context")),
)
FLUX = DenoiserSpec(
    walk("transformer_blocks", "single_transformer_blocks"),
    flux_inputs,
    sample="hidden_states",
    expand_timestep=True,
    branches=own_branches("attn", ("ff", "ff_context"), joined="proj_mlp"),
    default_size=128,
)
QWEN_IMAGE = DenoiserSpec(
    walk("transformer_blocks"),
    qwen_inputs,
    sample="hidden_states",
    expand_timestep=True,
    branches=own_branches("attn", ("img_mlp", "txt_mlp")),
    default_size=128,
)
