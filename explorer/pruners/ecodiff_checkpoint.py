"""EcoDiff's masks as its authors released them: two files of unnamed lists of logits, for attentions and feed-forwards.

github.com/YaNgZhAnG-V5/EcoDiff, branch inference_only, mask/attn.pt and mask/ff.pt, for SDXL. Their lists follow a call
from layer to layer. Nothing but tensors is read from the files, and the network's weights are not needed.
"""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from explorer.files import foreign_tensors
from explorer.pruners.configs import ReleasedConfig
from explorer.pruners.orders import decided, places
from explorer.widths import Widths
from explorer.work import Progress

REACHED = ("down_blocks", "mid_block", "up_blocks")  # of a U-Net, in this order; other networks as they are listed


def released(model: Any, prompts: Sequence[str], config: ReleasedConfig) -> Generator[Progress, None, Widths]:
    """The widths that the files and the shares to keep come to, heads and neurons ranked separately over all layers.

    Raises ValueError for a file that is not such a list, and for one whose sizes are not the model's.
    """
    yield Progress(0, 1, "reading logits")
    there = places(model, config)
    order = sorted(there, key=_reached)
    keep: dict[str, np.ndarray] = {}
    parts = {":heads": (config.attention, config.heads), ":neurons": (config.feedforward, config.neurons)}
    for kind, (file, share) in parts.items():
        names = [name for name in order if name.endswith(kind)]
        keep |= _kept(dict(zip(names, _read(Path(file), [there[name].size for name in names]), strict=True)), share)
    return decided(model, there, {name: keep[name] for name in there}, "ecodiff-released", config)


def _reached(site: str) -> int:
    block = site.partition(".")[0]
    return REACHED.index(block) if block in REACHED else 0


def _read(file: Path, sizes: Sequence[int]) -> list[np.ndarray]:
    import torch

    found = foreign_tensors(file, "tensors")
    if not isinstance(found, list) or not all(isinstance(one, torch.Tensor) for one in found):
        raise ValueError(f"{file} holds no list of tensors")
    vectors = [one.float().reshape(-1).numpy() for one in found]
    own = [len(vector) for vector in vectors]
    if own != list(sizes):
        first = next((at for at, pair in enumerate(zip(own, sizes, strict=False)) if pair[0] != pair[1]), None)
        what = f"layer {first} has {own[first]} logits and {sizes[first]} units" if first is not None else "they differ"
        raise ValueError(f"{file} has logits for {len(own)} layers, the model has {len(sizes)}: {what}")
    return vectors


def _kept(logits: Mapping[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
    """The largest `share` of all units stays, the earlier one of equals."""
    every = np.concatenate(list(logits.values()))
    keep = np.zeros(len(every), dtype=bool)
    keep[np.argsort(-every, kind="stable")[: round(share * len(every))]] = True
    return dict(zip(logits, np.split(keep, np.cumsum([len(one) for one in logits.values()])[:-1]), strict=True))
