"""The pictures that were generated beforehand, which the slider shows without computing anything. Loads no torch.

A gallery is a folder: `table.json` (what was generated, which unit runs at which call, what it costs and loses), a
sprite strip of pictures per sample and method (lossless WebP, one tile per ratio, each but the first as the difference
to the one before, modulo 256; `studies.gallery_pack` makes them), and `manifest.json`, which names every other file
with its hash.
"""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from explorer.masks.file_format import ModelRecord
from explorer.models.catalogue import ASSETS

FOLDER = ASSETS / "gallery"
MANIFEST, TABLE = "manifest.json", "table.json"


class FileRecord(BaseModel):
    """One file of a gallery."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)

    @classmethod
    def of(cls, file: Path) -> "FileRecord":
        content = file.read_bytes()
        return cls(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


class Manifest(BaseModel):
    """What a gallery is made of, and with what it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2]
    model: ModelRecord
    files: dict[str, FileRecord]
    versions: dict[str, str]
    hardware: str
    created: datetime


class GalleryCheck(BaseModel):
    """A gallery as it is on this disk: what is wrong, one sentence each, and which files cannot be shown."""

    usable: bool  # whether there is a table at all
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def check_gallery(folder: Path = FOLDER, revision: str | None = None) -> GalleryCheck:
    """Compare every file with the manifest, and the model's `revision` with the one that generated the pictures."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError:
        return GalleryCheck(usable=False, warnings=("there is no gallery of pictures here; generate your own words",))
    except ValidationError as error:
        sentence = f"the gallery's manifest is damaged ({error.error_count()} errors)"
        return GalleryCheck(usable=False, warnings=(sentence,))
    gone = [name for name in manifest.files if not (folder / name).is_file()]
    stale = [
        name for name, record in manifest.files.items() if name not in gone and FileRecord.of(folder / name) != record
    ]
    warnings = [f"the gallery lacks {len(gone)} of its {len(manifest.files)} files: {_some(gone)}"] if gone else []
    warnings += [f"{len(stale)} files of the gallery are not those of its manifest: {_some(stale)}"] if stale else []
    if revision and manifest.model.revision != revision:
        warnings.append("the gallery was made with other weights than those here: pictures of your own may differ")
    missing = (*gone, *stale)
    return GalleryCheck(usable=TABLE not in missing, missing=missing, warnings=tuple(warnings))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", .." if len(names) > 3 else "")
