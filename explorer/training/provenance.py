"""training.json: what was done to a model's weights, stretch by stretch, so that its card can be written anywhere."""

import json
import os
import platform
from pathlib import Path

FILE = "training.json"


def hardware(device: str) -> str:
    """The machine this runs on, in words."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    return f"{os.cpu_count()} CPU cores ({model.strip()}), shared with other work"


def read(folder: Path) -> list[dict]:
    """The stretches recorded in `folder`, oldest first; none without a record."""
    file = folder / FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def write(folder: Path, stretches: list[dict]) -> None:
    """Replace the record of `folder`."""
    (folder / FILE).write_text(json.dumps(stretches, indent=1) + "\n", encoding="utf-8")


def stretch(part: str, seconds: float, steps: int, batch: int, device: str, seed: int) -> dict:
    """One uninterrupted run of the training loop (its resumptions from checkpoints included)."""
    where = hardware(device)
    return {"part": part, "steps": steps, "batch": batch, "seconds": round(seconds), "seed": seed, "on": where}
