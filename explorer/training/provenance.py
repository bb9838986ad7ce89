"""training.json: how a model's weights were trained, run by run, so that its card can be written on any machine."""

import json
import os
import platform
from pathlib import Path
from typing import Any

FILE = "training.json"

TrainingRun = dict[str, Any]  # what `training_run` returns


def training_run(part: str, seconds: float, steps: int, batch: int, device: str, seed: int) -> TrainingRun:
    """Record one run of the training loop, all resumptions from its checkpoints included."""
    where = hardware(device)
    return {"part": part, "steps": steps, "batch": batch, "seconds": round(seconds), "seed": seed, "on": where}


def hardware(device: str) -> str:
    """Describe this machine."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    return f"{os.cpu_count()} CPU cores ({model.strip()}), shared with other work"


def read(folder: Path) -> list[TrainingRun]:
    """Read the runs recorded in `folder`, oldest first; none without a record."""
    file = folder / FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def write(folder: Path, runs: list[TrainingRun]) -> None:
    """Replace the record of `folder`."""
    (folder / FILE).write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
