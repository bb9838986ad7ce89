"""The training pictures: emoji of three families on white, with names, tags and groups.

`load(folder)` fetches the sources on first use (three npm packages and Debian's Noto font) and caches what it builds.
"""

import functools
import hashlib
import json
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from safetensors import safe_open
from safetensors.numpy import save_file

from explorer.masks.file_format import replace_atomically
from explorer.settings import settings

SIDE = 64
MARGIN = 2
STYLES = ("3d", "flat", "shaded")  # Fluent, Twemoji, Noto
GROUPS = {
    0: "smileys",
    1: "people",
    3: "animals and nature",
    4: "food",
    5: "travel and places",
    6: "activities",
    7: "objects",
    8: "symbols",
}
PACKAGES = {
    "lobehub-fluent-emoji-3d-1.1.0.tgz": "@lobehub/fluent-emoji-3d@1.1.0",
    "emoji-datasource-twitter-16.0.0.tgz": "emoji-datasource-twitter@16.0.0",
    "emojibase-data-17.0.0.tgz": "emojibase-data@17.0.0",
}
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109  # the only size of the font's bitmaps
HELD_OUT_PER_MILLE = 56  # of the names that are not well known: 5 % of all
_FORMAT = "1"


@dataclass(frozen=True)
class Item:
    """What is known about one picture."""

    name: str
    style: str
    tags: tuple[str, ...]
    group: str


@dataclass(frozen=True)
class Emoji:
    """The pictures, uint8 (N, 64, 64, 3), and as many items."""

    pictures: np.ndarray
    items: list[Item]

    def where(self, keep: Callable[[Item], bool]) -> "Emoji":
        """Select the pictures whose item satisfies `keep(item)`."""
        index = [i for i, item in enumerate(self.items) if keep(item)]
        return Emoji(self.pictures[index], [self.items[i] for i in index])

    @property
    def names(self) -> list[str]:
        """Every name once, in the order of the pictures."""
        return list(dict.fromkeys(item.name for item in self.items))


@functools.cache
def well_known_names() -> dict[str, tuple[str, ...]]:
    """Read well-known names, each with other everyday words for it (possibly none)."""
    lines = Path(__file__).with_name("well_known.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(" = ")[::2] for line in lines if line and not line.startswith("#"))
    return {name: tuple(w.strip() for w in words.split(",") if w.strip()) for name, words in pairs}


def is_held_out(name: str) -> bool:
    """Say whether `name` is among the fixed 5 % of the names that only measure quality; well-known names never are."""
    digest = hashlib.sha256(name.encode()).digest()
    return name not in well_known_names() and int.from_bytes(digest[:4], "big") % 1000 < HELD_OUT_PER_MILLE


def data_folder(data: Path | None = None) -> Path:
    """Return where the sources and the built pictures are: `data`, else EXPLORER_DATA, else ./data."""
    return Path(data or settings().data)


def load(data: Path | None = None) -> Emoji:
    """Load all pictures, from the cache or built from the sources. Raises ValueError if a source cannot be fetched."""
    cache = data_folder(data) / f"emoji{SIDE}.safetensors"
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        _write(build(data_folder(data)), cache)
    with safe_open(cache, framework="numpy") as file:
        metadata = file.metadata()
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"{cache} was built by another version; delete it and start again")
        rows = json.loads(metadata["items"])
        items = [Item(name, style, tuple(tags), group) for name, style, tags, group in rows]
        return Emoji(file.get_tensor("pictures"), items)


def _write(emoji: Emoji, path: Path) -> None:
    rows = [(item.name, item.style, item.tags, item.group) for item in emoji.items]
    with replace_atomically(path) as temporary:
        save_file({"pictures": emoji.pictures}, temporary, {"format": _FORMAT, "items": json.dumps(rows)})


def fetch(data: Path) -> dict[str, Path]:
    """Fetch the source archives that are missing with npm; returns all of them by file name.

    Raises ValueError where one cannot be fetched, and where the font is missing.
    """
    for file, package in PACKAGES.items():
        if (data / file).exists():
            continue
        try:
            subprocess.run(["npm", "pack", "--silent", package], cwd=data, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ValueError(f"could not fetch {package} with npm: {error}") from error
    if not FONT.exists():
        raise ValueError(f"{FONT} is missing: install Debian's fonts-noto-color-emoji")
    return {file: data / file for file in PACKAGES}


def build(data: Path) -> Emoji:
    """Build the picture of every emoji in every style that has it."""
    fluent, twitter, base = (_read_members(path) for path in fetch(data).values())
    font = ImageFont.truetype(str(FONT), FONT_SIZE)
    pictures, items = [], []
    for entry in json.loads(base["package/en/data.json"]):
        if not _is_included(entry):
            continue
        drawings = (
            _find_image(fluent, "package/assets/{}.webp", entry["hexcode"]),
            _find_image(twitter, "package/img/twitter/64/{}.png", entry["hexcode"]),
            _draw_glyph(font, entry["emoji"]),
        )
        for style, drawing in zip(STYLES, drawings, strict=True):
            picture = _frame(drawing)
            if picture is not None:
                name, tags = entry["label"].lower(), tuple(t.lower() for t in entry.get("tags", ()))
                pictures.append(picture)
                items.append(Item(name, style, tags, GROUPS[entry["group"]]))
    return Emoji(np.stack(pictures), items)


def _read_members(archive: Path) -> dict[str, bytes]:
    suffixes = (".webp", ".png", "en/data.json")
    with tarfile.open(archive) as tar:
        members = (m for m in tar if m.isfile() and m.name.endswith(suffixes) and "/128/" not in m.name)
        files = {m.name: tar.extractfile(m) for m in members if "sheet" not in m.name}
        return {name: file.read() for name, file in files.items() if file is not None}


def _is_included(entry: dict[str, Any]) -> bool:
    """Leave out components, flags and variants by gender or direction."""
    code = entry["hexcode"]
    gendered = any(part in code for part in ("-200D-2640", "-200D-2642", "-200D-27A1"))
    gendered |= code.startswith(("1F468-200D", "1F469-200D"))
    return entry.get("group") in GROUPS and not gendered


def _find_image(members: dict[str, bytes], pattern: str, hexcode: str) -> Image.Image | None:
    code = hexcode.lower()
    for candidate in (code, code.replace("-fe0f", ""), f"{code}-fe0f"):
        raw = members.get(pattern.format(candidate))
        if raw is not None:
            return Image.open(BytesIO(raw)).convert("RGBA")
    return None


def _draw_glyph(font: ImageFont.FreeTypeFont, text: str) -> Image.Image | None:
    canvas = Image.new("RGBA", (320, 160))
    ImageDraw.Draw(canvas).text((8, 8), text, font=font, embedded_color=True)
    box = canvas.getbbox()
    # a sequence that the font does not know becomes several glyphs side by side
    return canvas if box and box[2] - box[0] <= 150 else None


def _frame(drawing: Image.Image | None) -> np.ndarray | None:
    """Crop to the drawing, pad to a square, put on white, resize, leave a margin: uint8 (64, 64, 3); None if empty."""
    if drawing is None or not (box := drawing.getchannel("A").getbbox()):
        return None
    crop = drawing.crop(box)
    side = max(crop.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(crop, ((side - crop.width) // 2, (side - crop.height) // 2))
    inner = SIDE - 2 * MARGIN
    small = square.convert("RGB").resize((inner, inner), Image.Resampling.LANCZOS)
    framed = Image.new("RGB", (SIDE, SIDE), "white")
    framed.paste(small, (MARGIN, MARGIN))
    return np.asarray(framed)
