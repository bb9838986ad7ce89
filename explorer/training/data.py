"""The training pictures: emoji of three families on white, with names, tags and groups.

`load(folder)` fetches the sources on first use (three npm packages and Debian's Noto font) and caches what it built.
"""

import functools
import hashlib
import json
import os
import subprocess
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from safetensors import safe_open
from safetensors.numpy import save_file

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

    def where(self, keep) -> "Emoji":
        """The pictures whose item satisfies `keep(item)`."""
        index = [i for i, item in enumerate(self.items) if keep(item)]
        return Emoji(self.pictures[index], [self.items[i] for i in index])

    @property
    def names(self) -> list[str]:
        """Every name once, in the order of the pictures."""
        return list(dict.fromkeys(item.name for item in self.items))


@functools.cache
def well_known() -> dict[str, tuple[str, ...]]:
    """The names that everybody knows, each with other everyday words for it (possibly none)."""
    lines = Path(__file__).with_name("well_known.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(" = ")[::2] for line in lines if line and not line.startswith("#"))
    return {name: tuple(w.strip() for w in words.split(",") if w.strip()) for name, words in pairs}


def held_out(name: str) -> bool:
    """Whether `name` belongs to the fixed 5 % of the names that only measure quality; well-known names never do."""
    digest = hashlib.sha256(name.encode()).digest()
    return name not in well_known() and int.from_bytes(digest[:4], "big") % 1000 < HELD_OUT_PER_MILLE


def folder(data: Path | None = None) -> Path:
    """Where the sources and the built pictures lie: `data`, else EXPLORER_DATA, else ./data."""
    return Path(data or os.environ.get("EXPLORER_DATA") or "data")


def load(data: Path | None = None) -> Emoji:
    """All pictures, from the cache or built from the sources. Raises ValueError if a source cannot be had."""
    cache = folder(data) / f"emoji{SIDE}.safetensors"
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        _write(build(folder(data)), cache)
    with safe_open(cache, framework="numpy") as file:
        meta = file.metadata()
        if meta.get("format") != _FORMAT:
            raise ValueError(f"{cache} was built by another version; delete it and start again")
        rows = json.loads(meta["items"])
        return Emoji(file.get_tensor("pictures"), [Item(n, s, tuple(t), g) for n, s, t, g in rows])


def _write(emoji: Emoji, path: Path) -> None:
    rows = [(i.name, i.style, i.tags, i.group) for i in emoji.items]
    part = path.with_suffix(".part")
    save_file({"pictures": emoji.pictures}, part, {"format": _FORMAT, "items": json.dumps(rows)})
    part.rename(path)


def fetch(data: Path) -> dict[str, Path]:
    """The source archives by file name, fetched with npm where they are missing."""
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
    """Draw every emoji in every style that has it."""
    fluent, twitter, base = (_members(path) for path in fetch(data).values())
    font = ImageFont.truetype(str(FONT), FONT_SIZE)
    pictures, items = [], []
    for entry in json.loads(base["package/en/data.json"]):
        if not _wanted(entry):
            continue
        drawings = (
            _find(fluent, "package/assets/{}.webp", entry["hexcode"]),
            _find(twitter, "package/img/twitter/64/{}.png", entry["hexcode"]),
            _glyph(font, entry["emoji"]),
        )
        for style, drawing in zip(STYLES, drawings, strict=True):
            picture = _frame(drawing)
            if picture is not None:
                name, tags = entry["label"].lower(), tuple(t.lower() for t in entry.get("tags", ()))
                pictures.append(picture)
                items.append(Item(name, style, tags, GROUPS[entry["group"]]))
    return Emoji(np.stack(pictures), items)


def _members(archive: Path) -> dict[str, bytes]:
    suffixes = (".webp", ".png", "en/data.json")
    with tarfile.open(archive) as tar:
        wanted = (m for m in tar if m.isfile() and m.name.endswith(suffixes) and "/128/" not in m.name)
        return {m.name: tar.extractfile(m).read() for m in wanted if "sheet" not in m.name}


def _wanted(entry: dict) -> bool:
    """No components, no flags, none of the variants by gender or direction."""
    code = entry["hexcode"]
    gendered = any(part in code for part in ("-200D-2640", "-200D-2642", "-200D-27A1"))
    gendered |= code.startswith(("1F468-200D", "1F469-200D"))
    return entry.get("group") in GROUPS and not gendered


def _find(members: dict[str, bytes], pattern: str, hexcode: str) -> Image.Image | None:
    code = hexcode.lower()
    for candidate in (code, code.replace("-fe0f", ""), f"{code}-fe0f"):
        raw = members.get(pattern.format(candidate))
        if raw is not None:
            return Image.open(BytesIO(raw)).convert("RGBA")
    return None


def _glyph(font: ImageFont.FreeTypeFont, text: str) -> Image.Image | None:
    canvas = Image.new("RGBA", (320, 160))
    ImageDraw.Draw(canvas).text((8, 8), text, font=font, embedded_color=True)
    box = canvas.getbbox()
    # a sequence the font does not know comes out as several glyphs side by side
    return canvas if box and box[2] - box[0] <= 150 else None


def _frame(drawing: Image.Image | None) -> np.ndarray | None:
    """Crop to the drawing, pad to a square, put on white, resize, leave a margin."""
    box = drawing and drawing.getchannel("A").getbbox()
    if not box:
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
