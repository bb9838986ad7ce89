"""DiT: DiTTransformer2DModel, a chain of blocks of one width. Loads no torch."""

from collections.abc import Iterator, Sequence
from typing import Any

from explorer.models.denoiser_spec import DenoiserSpec, Layer, latents_and_timestep


def walk(transformer: Any) -> Iterator[Layer]:
    """Yield the blocks; each one is its own stage."""
    for index, _ in enumerate(transformer.transformer_blocks):
        name = f"transformer_blocks.{index}"
        yield Layer(name, name, (name,), (index - 1,) if index else (), True)


def example_inputs(transformer: Any, size: int | Sequence[int], text_length: int) -> dict[str, Any]:
    """Build the arguments of a call for one batch element: latents (1, C, H, W) and a class."""
    import torch

    labels = torch.zeros(1, dtype=torch.long, device=transformer.device)
    return {**latents_and_timestep(transformer, size, "hidden_states"), "class_labels": labels}


DIT = DenoiserSpec(walk, example_inputs, sample="hidden_states", cond_first=True, expand_timestep=True)
