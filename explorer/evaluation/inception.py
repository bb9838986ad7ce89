"""Features of the Inception network that KID and FID are published with, by torchmetrics, where its weights are."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from explorer.masks.file_format import load_torch_tensors
from explorer.measures.table import checkpoints

NAME = "inception-v3-compat"
WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity's releases name them
NEEDS = ("torchvision", "torch_fidelity")


def load_inception() -> Any:
    """Load the network: uint8 pictures (B, 3, H, W) to features (B, 2048).

    Raises ValueError, with what to do, where a package or the weights are missing, or the weights hold more than
    tensors.
    """
    if lacking := [package for package in NEEDS if importlib.util.find_spec(package) is None]:
        raise ValueError(f"Inception features need {lacking[0].replace('_', '-')}, which is not installed")
    path = checkpoints() / WEIGHTS
    if not path.is_file():
        raise ValueError(f"Inception features need the file {WEIGHTS} of torch-fidelity's releases in {path.parent}")
    load_torch_tensors(path, "weights")  # because torch-fidelity would run what is in it
    from torchmetrics.image.fid import NoTrainInceptionV3

    return NoTrainInceptionV3(NAME, ["2048"], str(path))


def compute_features(network: Any, pictures: torch.Tensor) -> torch.Tensor:
    """Compute features (B, 2048) of pictures (B, 3, H, W) in [0, 1], rounded to bytes as for published figures."""
    with torch.no_grad():
        return network((pictures * 255).round().to(torch.uint8)).float().cpu()


def folder_features(network: Any, folder: Path) -> torch.Tensor:
    """Compute features (M, 2048) of every picture in `folder`, by name. Raises ValueError for fewer than two."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            pixels = np.array(Image.open(path).convert("RGB"))
        except (OSError, UnidentifiedImageError):
            continue  # no picture
        found.append(compute_features(network, torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255))
    if len(found) < 2:
        raise ValueError(f"{folder} holds {len(found)} pictures; KID and FID need at least two real ones")
    return torch.cat(found)
