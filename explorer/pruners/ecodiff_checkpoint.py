"""EcoDiff's masks as its authors published them: two files of unnamed lists of logits, for attentions and
feed-forwards.

github.com/YaNgZhAnG-V5/EcoDiff, branch inference_only, mask/attn.pt and mask/ff.pt, for SDXL. Their lists follow a call
from layer to layer. Nothing but tensors is read from the files, and the network's weights are not needed.
"""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import numpy as np

from explorer.masks.file_format import load_torch_tensors
from explorer.masks.width import Widths
from explorer.models.model import Model
from explorer.progress import Progress
from explorer.pruners.width_configs import EcodiffCheckpointConfig
from explorer.pruners.width_ranking import make_widths, select_dims

CALL_ORDER = ("down_blocks", "mid_block", "up_blocks")  # of a U-Net; other networks in the order of their modules


def ecodiff_checkpoint(
    model: Model, prompts: Sequence[str], config: EcodiffCheckpointConfig
) -> Generator[Progress, None, Widths]:
    """Read the widths that the files and the shares to keep define, heads and neurons ranked apart over all layers.

    Raises ValueError for a file that is not such a list, and for one whose sizes are not the model's.
    """
    yield Progress(0, 1, "reading logits")
    dims = select_dims(model, config)
    order = sorted(dims, key=_block_position)
    keep: dict[str, np.ndarray] = {}
    parts = {":heads": (config.attention, config.heads), ":neurons": (config.feedforward, config.neurons)}
    for kind, (file, share) in parts.items():
        names = [name for name in order if name.endswith(kind)]
        logits = _read_logits(Path(file), [dims[name].size for name in names])
        keep |= _keep_largest(dict(zip(names, logits, strict=True)), share)
    return make_widths(model, dims, {name: keep[name] for name in dims}, "ecodiff-checkpoint", config)


def _block_position(dim: str) -> int:
    block = dim.partition(".")[0]
    return CALL_ORDER.index(block) if block in CALL_ORDER else 0


def _read_logits(file: Path, sizes: Sequence[int]) -> list[np.ndarray]:
    import torch

    tensors = load_torch_tensors(file, "tensors")
    if not isinstance(tensors, list) or not all(isinstance(one, torch.Tensor) for one in tensors):
        raise ValueError(f"{file} holds no list of tensors")
    vectors = [one.detach().float().reshape(-1).numpy() for one in tensors]
    own = [len(vector) for vector in vectors]
    if own != list(sizes):
        first = next((at for at, pair in enumerate(zip(own, sizes, strict=False)) if pair[0] != pair[1]), None)
        what = (
            f"layer {first} has {own[first]} logits and {sizes[first]} elements" if first is not None else "they differ"
        )
        raise ValueError(f"{file} has logits for {len(own)} layers, the model has {len(sizes)}: {what}")
    return vectors


def _keep_largest(logits: Mapping[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
    """Keep the largest `share` of all elements, the earlier one of equals."""
    every = np.concatenate(list(logits.values()))
    keep = np.zeros(len(every), dtype=bool)
    keep[np.argsort(-every, kind="stable")[: round(share * len(every))]] = True
    return dict(zip(logits, np.split(keep, np.cumsum([len(one) for one in logits.values()])[:-1]), strict=True))
