"""What was measured about the features of different calls, and its file. Loads no torch; `feature_similarity`
measures."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from explorer.masks.block_graph import Granularity
from explorer.masks.file_format import ModelRecord, write_atomic

MAX_BYTES = 512 * 2**20


class SimilarityHeader(BaseModel):
    """What was measured, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    model: ModelRecord
    measure: Literal["cosine", "cka"]
    sampler: str
    steps: int
    calls: int = Field(ge=1)
    guidance: float
    granularity: Granularity
    units: tuple[str, ...] = Field(min_length=1)
    pictures: int = Field(ge=1)
    seed: int


@dataclass(frozen=True, eq=False)
class Similarity:
    """Means and standard deviations over pictures, float32: U units, T calls."""

    header: SimilarityHeader
    alike: np.ndarray  # (U, T, T) similarity of the outputs at two calls, 1 on the diagonal
    alike_spread: np.ndarray  # (U, T, T)
    change: np.ndarray  # (U, T) |f_t - f_(t-1)| / |f_(t-1)|, 0 at call 0
    change_spread: np.ndarray  # (U, T)

    TENSORS = ("alike", "alike_spread", "change", "change_spread")

    def __post_init__(self) -> None:
        units, calls = len(self.header.units), self.header.calls
        for name in self.TENSORS:
            shape = (units, calls, calls) if name.startswith("alike") else (units, calls)
            tensor = getattr(self, name)
            if tensor.shape != shape or not np.isfinite(tensor).all():
                raise ValueError(f"{name} must be finite numbers of shape {shape}, got shape {tensor.shape}")

    @property
    def adjacent(self) -> np.ndarray:
        """(U, T): similarity of each call's output to that of the call before; 1 at call 0."""
        before = np.diagonal(self.alike, offset=1, axis1=1, axis2=2)
        return np.concatenate([np.ones((len(before), 1), np.float32), before], axis=1)

    def save(self, path: str | Path) -> None:
        """Write whole or not at all. Raises ValueError where nothing can be written."""
        tensors = {name: getattr(self, name).astype(np.float32) for name in self.TENSORS}
        write_atomic(path, tensors, {"similarity": self.header.model_dump_json()})

    @classmethod
    def load(cls, path: str | Path) -> "Similarity":
        """Read a file that `save` wrote. Raises ValueError, in one sentence, for anything else."""
        path = Path(path)
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path} does not exist or is larger than {MAX_BYTES // 2**20} MB")
        try:
            with safe_open(path, framework="numpy") as file:
                document = json.loads((file.metadata() or {}).get("similarity", "null"))
                if document is None or set(file.keys()) != set(cls.TENSORS):
                    raise ValueError(f"{path} holds no similarity")
                return cls(SimilarityHeader.model_validate(document), *(file.get_tensor(name) for name in cls.TENSORS))
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
        except ValidationError as error:
            raise ValueError(f"{path}: {error.errors()[0]['msg']}") from error
