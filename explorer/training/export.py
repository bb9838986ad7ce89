"""A trained pipeline becomes a folder of assets/: whole or not at all, in shards, with names and record beside it."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from explorer.training import data as pictures
from explorer.training import record
from explorer.training.captions import known_words

SHARD = "9MB"  # what a Space takes without large-file storage
KEPT = ("README.md", "grid.png", "real.safetensors")


def vocabulary(emoji: pictures.Emoji) -> dict[str, Any]:
    """What a model was taught, for names.json."""
    return {
        "names": emoji.names,
        "words": known_words(emoji),
        "styles": list(pictures.STYLES),
        "groups": {item.name: item.group for item in emoji.items},
        "also": {name: list(words) for name, words in pictures.well_known().items() if words},
    }


def publish(
    pipe: Any,
    names: dict[str, Any],
    out: Path,
    stretches: list[dict],
    dtype: torch.dtype = torch.float32,
    classes: list[str] | None = None,
) -> None:
    """Write pipeline, names and record beside `out`, then put the finished folder in its place; card, grid and
    features of real pictures stay.

    In half precision it takes half the room and loads as float32 all the same. `classes` are a DiTPipeline's labels,
    which diffusers itself does not write.
    """
    part, old = out.with_name(f".{out.name}.part"), out.with_name(f".{out.name}.old")
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    if dtype != torch.float32:
        pipe = copy.deepcopy(pipe).to(dtype=dtype)
    pipe.save_pretrained(part, max_shard_size=SHARD)
    if classes:
        index = json.loads((part / "model_index.json").read_text(encoding="utf-8"))
        index["id2label"] = {str(number): label for number, label in enumerate(classes)}
        _write(part / "model_index.json", index)
    _write(part / "names.json", names)
    record.write(part, stretches)
    for kept in KEPT:
        if (out / kept).exists():
            shutil.copy(out / kept, part)
    if out.exists():
        out.rename(old)
    part.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _write(file: Path, document: dict[str, Any]) -> None:
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
