"""The pictures that Width pruning shows before a visitor generates any. Loads no torch.

A folder per model: `table.json`, which this reads, and a PNG per picture (`studies.width_pictures` makes them).
"""

from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from explorer.models.catalogue import ASSETS, EMBEDDED

FOLDER = ASSETS / "width-examples"
TABLE = "table.json"


class ExamplePicture(BaseModel):
    """One picture: its file, and how close it is to the original."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    calls: int
    ssim: float
    psnr: float


class Example(BaseModel):
    """What one file of widths leaves of the scene at one ratio, and the run of the same cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ratio: float
    pruned: ExamplePicture
    baseline: ExamplePicture


class Examples(BaseModel):
    """All pictures of a model: one scene, its full run, and examples by the name of the file of widths."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    seed: int
    steps: int
    sampler: str
    guidance: float
    baseline_sampler: str
    original: ExamplePicture
    files: dict[str, tuple[Example, ...]]


@lru_cache(maxsize=8)
def read_examples(model_id: str) -> Examples | None:
    """Read the examples of an embedded model; None where there are none, or they are damaged."""
    if model_id not in EMBEDDED:
        return None
    try:
        return Examples.model_validate_json((FOLDER / model_id / TABLE).read_bytes())
    except (OSError, ValidationError):
        return None


def nearest_example(model_id: str, file: str, ratio: float) -> Example | None:
    """Find the example of a file of widths nearest to a ratio."""
    examples = read_examples(model_id)
    own = examples.files.get(file, ()) if examples else ()
    return min(own, key=lambda example: abs(example.ratio - ratio), default=None)


def read_picture(model_id: str, picture: ExamplePicture) -> bytes:
    """Read a picture, as PNG; empty where it is gone."""
    path = FOLDER / model_id / Path(picture.file).name
    return path.read_bytes() if path.is_file() else b""
