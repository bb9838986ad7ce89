"""The pictures that were drawn beforehand, which the slider shows without computing anything. Loads no torch.

A gallery is a folder: `table.json` (what was drawn, which unit runs at which call, what it costs and loses), a strip of
pictures a scene and method (lossless WebP, a tile a ratio, each but the first as what it adds to the one before, modulo
256; `evidence.packing` makes them), and `manifest.json`, which
names every other file with its hash.
"""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from explorer import catalogue
from explorer.files import ModelRecord

FOLDER = catalogue.ASSETS / "gallery"
MANIFEST, TABLE = "manifest.json", "table.json"


class Part(BaseModel):
    """One file of a gallery."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)

    @classmethod
    def of(cls, file: Path) -> "Part":
        content = file.read_bytes()
        return cls(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


class Manifest(BaseModel):
    """What a gallery is made of, and with what it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    model: ModelRecord
    parts: dict[str, Part]
    versions: dict[str, str]
    hardware: str
    created: datetime


class Checked(BaseModel):
    """A gallery as it lies on this disk: what is amiss, one sentence each, and which parts cannot be shown."""

    usable: bool  # whether there is a table at all
    missing: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


def check(folder: Path = FOLDER, revision: str | None = None) -> Checked:
    """Compare every file with the manifest, and the model's `revision` with the one that drew."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError:
        return Checked(usable=False, said=("no gallery of pictures lies beside the page; draw your own words",))
    except ValidationError as error:
        return Checked(usable=False, said=(f"the gallery's manifest is damaged ({error.error_count()} errors)",))
    gone = [name for name in manifest.parts if not (folder / name).is_file()]
    stale = [name for name, part in manifest.parts.items() if name not in gone and Part.of(folder / name) != part]
    said = [f"the gallery lacks {len(gone)} of its {len(manifest.parts)} files: {_some(gone)}"] if gone else []
    said += [f"{len(stale)} files of the gallery are not those of its manifest: {_some(stale)}"] if stale else []
    if revision and manifest.model.revision != revision:
        said.append("the gallery was drawn by other weights than those that are here: pictures of your own may differ")
    missing = (*gone, *stale)
    return Checked(usable=TABLE not in missing, missing=missing, said=tuple(said))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", .." if len(names) > 3 else "")
