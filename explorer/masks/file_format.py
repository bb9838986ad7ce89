"""The one kind of file: a .safetensors with a JSON document under the metadata key `explorer`. Loads no torch.

This is what files of schedules (`schedule`) and of widths (`width`) share: the records of the document, reading it
without the tensors, and writing.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from explorer.masks.format_1 import upgrade_dim_name, upgrade_header

FORMAT: Literal[2] = 2
MAX_BYTES = 64 * 2**20
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=200)]
H = TypeVar("H", bound="FileHeader")


class Record(BaseModel):
    """A part of a file's header."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRecord(Record):
    """Which network a file is for."""

    id: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", max_length=200)
    revision: Text | None
    denoiser: Text
    dtype: Text


class PrunerRecord(Record):
    """The method that made a file, and all of its settings."""

    name: Text
    config: dict[str, Any]


class RatioRecord(Record):
    """The ratio that was requested and the one that was reached, and what they are a share of."""

    asked: Share | None
    reached: Share | None
    of: Literal["macs", "params", "channels"]


class FileHeader(Record):
    """What every file records: for which model, by which method, when and with what."""

    prunes: ClassVar[Literal["schedule", "widths"]]  # as in `result.PruningResult`

    format: Literal[2]
    kind: Literal["mask", "importance"]
    model: ModelRecord
    max_ratio: Share
    pruner: PrunerRecord
    ratio: RatioRecord
    seed: int
    versions: dict[str, Text]
    created: datetime


def read_header(path: str | Path, kind: type[H]) -> H:
    """Read and check the header of a file of this kind. Raises ValueError, in one sentence, for any other file."""
    document = read_document(path)
    try:
        return kind.model_validate_json(json.dumps(document))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc'])) or 'header'}: {first['msg']}") from error


def read_document(path: str | Path) -> Any:
    """Read the document under a file's key `explorer`, in the words of this format.

    Raises ValueError, in one sentence, for a file that has none.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES // 2**20} MB, which no mask needs")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("explorer")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    if text is None:
        raise ValueError(f"{path} is a safetensors file, but holds no mask: its metadata lacks the key 'explorer'")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: header: invalid JSON: {error}") from error
    return upgrade_header(document) if isinstance(document, dict) and document.get("format") == 1 else document


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read all tensors of a file whose header was read before, by their names in this format.

    Raises ValueError for tensors of a type that NumPy does not have.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {upgrade_dim_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (TypeError, KeyError, AttributeError, SafetensorError) as error:
        raise ValueError(f"{path} holds a tensor that no mask has: {error}") from error


def load_torch_tensors(path: Path, what: str) -> Any:
    """Load a file of PyTorch's own format, in which others publish theirs: `what`, and nothing that would run.

    Raises ValueError, in one sentence, for any other file.
    """
    import torch  # here, because our own files are read without

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises, the file is not what it should be
        reason = (f"{error}".splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} holds no plain {what}: {reason}") from error


@contextmanager
def replace_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file next to `path` to write to, which becomes `path` at the end; after an error nothing
    changed."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all. Raises ValueError where it cannot be written."""
    try:
        with replace_atomically(path) as temporary:
            save_file(contiguous(tensors), temporary, metadata=dict(metadata))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be written: {error}") from error


def to_bytes(result: Any) -> bytes:
    """Encode a mask or an importance as the file that it would be saved as."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "result.safetensors"
        result.save(file)
        return file.read_bytes()


def contiguous(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copy tensors that are not contiguous, which safetensors would write wrongly."""
    return {name: np.ascontiguousarray(tensor).reshape(tensor.shape) for name, tensor in tensors.items()}


class RatioError(ValueError):
    """A ratio that cannot be reached; `largest` can."""

    def __init__(self, largest: float, ratio: float):
        super().__init__(f"the ratio must be between 0 and {largest:.4f} (the largest possible here), got {ratio}")
        self.largest = largest


def check_ratio(largest: float, ratio: float) -> None:
    """Raise RatioError for a ratio outside 0 .. largest (which the sentence gives with four digits)."""
    if not 0 <= ratio <= largest + 5e-5:
        raise RatioError(largest, ratio)


def provenance() -> dict[str, Any]:
    """Name the packages that a file is made with, and the time."""
    versions = {package: version(package) for package in ("torch", "diffusers", "transformers")}
    return {"versions": versions, "created": datetime.now(timezone.utc)}
