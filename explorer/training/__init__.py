"""How the embedded models were made: `train(name, minutes)` runs the trainer of one of them."""

from importlib import import_module
from pathlib import Path

from explorer.training.options import TrainingOptions

# model -> module and function, which takes TrainingOptions; imported on use, because a trainer imports torch
TRAINERS = {
    "emoji-autoencoder": ("explorer.training.autoencoder", "train"),
    "emoji-clip": ("explorer.training.clip", "train_clip"),
    "emoji-judge": ("explorer.training.clip", "train_judge"),
    "emoji-unet": ("explorer.training.unet", "train"),
    "emoji-dit": ("explorer.training.dit", "train"),
    "emoji-ddpm": ("explorer.training.ddpm", "train"),
    "emoji-flux-teacher": ("explorer.training.flux", "train_teacher"),
    "emoji-flux": ("explorer.training.flux", "train"),
    "emoji-flux-turbo": ("explorer.training.flux", "train_turbo"),
}


def train(
    name: str,
    minutes: float,
    resume: bool = False,
    device: str = "cpu",
    seed: int = 0,
    data: Path | None = None,
    out: Path | None = None,
) -> None:
    """Train one embedded model for at most `minutes` and write it to `out` (default: its place in assets/).

    `resume` continues from the last checkpoint in `runs/<name>/` (EXPLORER_RUNS names another folder); `device` is
    `cpu` or `cuda`; `data` is the folder of the pictures (default: EXPLORER_DATA or ./data), filled on first use.
    Progress goes to standard error. Raises ValueError for a model without a trainer, minutes that are not positive, or
    a device that is not there.
    """
    if name not in TRAINERS:
        raise ValueError(f"no trainer for {name!r}; known: {', '.join(TRAINERS)}")
    if not 0 < minutes < float("inf"):
        raise ValueError(f"minutes must be a positive number, not {minutes}")
    module, function = TRAINERS[name]
    getattr(import_module(module), function)(TrainingOptions(minutes, resume, device, seed, data, out))
