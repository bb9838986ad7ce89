"""Pictures of a published model, for its sample grids and its card, drawn by the code that draws everything else."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from explorer import catalogue
from explorer.drawing import draw
from explorer.training import autoencoder

GUIDANCE = 7.5  # StableDiffusionPipeline's own default: a folder cannot store another
STEPS = 25
SAMPLES = 24


def drawn(
    folder: Path, prompts: Sequence[str], seed: int = 0, steps: int = STEPS, guidance: float = GUIDANCE, batch: int = 16
) -> np.ndarray:
    """One picture a prompt by DDIM, uint8 (N, H, W, 3); picture i starts from noise of seed 1000 seed + i."""
    model, found = catalogue.load(folder), []
    for start in range(0, len(prompts), batch):
        some = list(prompts[start : start + batch])
        seeds = range(1000 * seed + start, 1000 * seed + start + len(some))
        *_, (_, pictures) = draw(model, some, seeds, "ddim", steps, guidance, previews=1)
        found.append(autoencoder.to_images(pictures * 2 - 1))
    return np.concatenate(found)


def spread(names: Sequence[str], count: int) -> list[str]:
    """`count` of the names, evenly over the list (which is ordered by group)."""
    return [names[i * len(names) // count] for i in range(min(count, len(names)))]
