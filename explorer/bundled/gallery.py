"""The pictures that were generated beforehand, which the slider shows without computing anything. Loads no torch.

Every embedded model has a gallery, a folder: `table.json` (what was generated, which unit runs at which call, what it
costs and loses), a sprite strip of pictures per sample and method (lossless WebP, one tile per ratio, each but the
first as the difference to the one before, modulo 256; `studies.gallery_pack` makes them), and `manifest.json`, which
names every other file with its hash.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from explorer.masks.file_format import ModelRecord
from explorer.models.catalogue import ASSETS, EMBEDDED

GALLERIES = ASSETS / "gallery"  # one folder per model
MANIFEST, TABLE = "manifest.json", "table.json"
CLOSE_DB = 35.0  # of PSNR, on average over the scenes: what a model opens with is hardly told from its full run


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


def check_gallery(folder: Path, revision: str | None = None) -> GalleryCheck:
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


def strip_file(sample: int, name: str) -> str:
    """Name the file of a sample's pictures by a method, or "full". `static/pictures.js` names it so too."""
    return f"{sample:02}-{name}.webp"


def strips_of(model_id: str, scene: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """List the files that a scene (prompt, seed) has of methods, or "full"; none without a usable gallery."""
    folder = GALLERIES / model_id
    if not (folder / TABLE).is_file() or scene not in (samples := _read_table(folder / TABLE)["samples"]):
        return []
    files = [strip_file(samples.index(scene), name) for name in names]
    return [file for file in files if (folder / file).is_file()]


def opening_values(model_id: str, ratio: float | None = None) -> dict[str, Any]:
    """Choose the controls' values, by name, that a page opens with for a model; empty without a usable gallery.

    They are the first scene, the method that is best at `ratio`, and the strongest few-step sampler there. Without a
    `ratio` it is the largest at which some method ends nearer than CLOSE_DB to the full run.
    """
    if model_id not in EMBEDDED or not (GALLERIES / model_id / TABLE).is_file():
        return {}
    table = _read_table(GALLERIES / model_id / TABLE)
    pruners = {name: method for name, method in table["methods"].items() if "granularity" in method}
    bests = [_best(pruners, index) for index in range(len(table["ratios"]))]
    if ratio is None:
        close = [index for index, name in enumerate(bests) if _mean_psnr(pruners[name], index) >= CLOSE_DB]
        index = max(close, default=0)
    else:
        index = min(range(len(bests)), key=lambda one: abs(table["ratios"][one] - ratio))
    best = pruners[bests[index]]
    few_steps = {name: method for name, method in table["methods"].items() if name not in pruners}
    settings = best["settings_at"][index] if "settings_at" in best else best["settings"]
    scene = {name: value for name, value in table["samples"][0].items() if value != ""}  # an unused prompt is empty
    values = {name: table[name] for name in ("sampler", "steps", "guidance")} | scene
    values |= {"method": best["method"], "ratio": table["ratios"][index]}
    values |= {"baseline_sampler": _best(few_steps, index).removesuffix("-steps")}
    return values | {f"{best['method']}.{name}": value for name, value in settings.items()}


@lru_cache
def _read_table(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _best(methods: Mapping[str, Any], index: int) -> str:
    """Name the method with the highest mean PSNR at the ratio of this index."""
    return max(methods, key=lambda name: _mean_psnr(methods[name], index))


def _mean_psnr(method: Mapping[str, Any], index: int) -> float:
    """Return the mean over the scenes; less than anything where the method is out of range."""
    result = method["results"][index]
    return result["means"]["psnr"][0] if result else float("-inf")
