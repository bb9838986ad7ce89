"""What every trainer is told. Loads no torch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingOptions:
    """One training run; see `explorer.training.train`."""

    minutes: float
    resume: bool = False
    device: str = "cpu"
    seed: int = 0
    data: Path | None = None
    out: Path | None = None
