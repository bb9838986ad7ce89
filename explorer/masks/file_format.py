"""The one kind of file: a .safetensors with a JSON document under the metadata key `explorer`. Loads no torch.

Here is what schedules (`masks`) and widths share: records of the document, reading it without tensors, writing whole.
"""

import os
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

MAX_BYTES = 64 * 2**20
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=200)]
R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """A part of a file's header."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRecord(Record):
    id: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", max_length=200)
    revision: Text | None
    denoiser: Text
    dtype: Text


class PrunerRecord(Record):
    name: Text
    config: dict[str, Any]


class RatioRecord(Record):
    asked: Share | None
    reached: Share | None
    of: Literal["macs", "params", "channels"]


class Origin(Record):
    """What every file says of itself: for which model, by which method, when and with what."""

    format: Literal[1]
    kind: Literal["mask", "importance"]
    model: ModelRecord
    max_ratio: Share
    pruner: PrunerRecord
    ratio: RatioRecord
    seed: int
    versions: dict[str, Text]
    created: datetime


def document_of(path: str | Path, kind: type[R]) -> R:
    """The header of a file of this kind, checked. Raises ValueError with one sentence for any other file."""
    try:
        return kind.model_validate_json(text_of(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc'])) or 'header'}: {first['msg']}") from error


def text_of(path: str | Path) -> str:
    """The document under a file's key `explorer`. Raises ValueError with one sentence for a file that has none."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES // 2**20} MB, which no mask needs")
    try:
        with safe_open(path, framework="numpy") as file:
            document = (file.metadata() or {}).get("explorer")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    if document is None:
        raise ValueError(f"{path} is a safetensors file, but holds no mask: its metadata lacks the key 'explorer'")
    return document


def foreign_tensors(path: Path, what: str) -> Any:
    """What a file of PyTorch's own format holds, which others publish theirs in: `what`, and nothing that would run.

    Raises ValueError with one sentence for any other file.
    """
    import torch  # here, because our own files are read without

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises, the file is not what it should be
        reason = (f"{error}".splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} holds no plain {what}: {reason}") from error


def write_whole(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all: a temporary one beside it, then a rename. Raises ValueError."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(contiguous(tensors), temporary, metadata=dict(metadata))
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"{path} cannot be written: {error}") from error


def bytes_of(found: Any) -> bytes:
    """The file that a mask or an importance would be saved as."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "found.safetensors"
        found.save(file)
        return file.read_bytes()


def contiguous(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors as safetensors writes them correctly."""
    return {name: np.ascontiguousarray(tensor).reshape(tensor.shape) for name, tensor in tensors.items()}


def refuse_beyond(largest: float, ratio: float) -> None:
    """Raise ValueError for a ratio outside 0 .. largest (which the sentence gives with four digits)."""
    if not 0 <= ratio <= largest + 5e-5:
        raise ValueError(f"the ratio must be between 0 and {largest:.4f} (the largest possible here), got {ratio}")


def stamped() -> dict[str, Any]:
    """With what a file is made, and when."""
    versions = {package: version(package) for package in ("torch", "diffusers", "transformers")}
    return {"versions": versions, "created": datetime.now(timezone.utc)}
