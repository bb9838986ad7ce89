"""Writes a trained pipeline as a folder of assets/: whole or not at all, in shards, with names and training record."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from explorer.training import provenance
from explorer.training.captions import list_words
from explorer.training.data import STYLES, Emoji, well_known_names
from explorer.training.provenance import TrainingRun

SHARD_SIZE = "9MB"  # what a Space accepts without large-file storage
MEASURED_FILES = ("README.md", "grid.webp", "real.safetensors")  # which evaluation writes


def make_vocabulary(emoji: Emoji) -> dict[str, Any]:
    """List what a model was trained on, for names.json."""
    return {
        "names": emoji.names,
        "words": list_words(emoji),
        "styles": list(STYLES),
        "groups": {item.name: item.group for item in emoji.items},
        "also": {name: list(words) for name, words in well_known_names().items() if words},
    }


def export(
    pipe: Any,
    names: dict[str, Any],
    out: Path,
    runs: list[TrainingRun],
    dtype: torch.dtype = torch.float32,
    classes: list[str] | None = None,
) -> None:
    """Write pipeline, names and training record next to `out`, then move the finished folder there.

    In half precision it takes half the space and loads as float32
    all the same. `classes` are a DiTPipeline's labels, which diffusers itself does not write.
    """
    temporary = out.with_name(f".{out.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    if dtype != torch.float32:
        pipe = copy.deepcopy(pipe).to(dtype=dtype)
    pipe.save_pretrained(temporary, max_shard_size=SHARD_SIZE)
    for config in temporary.glob("text_encoder*/config.json"):  # by which transformers chooses the type to load as
        _write_json(config, json.loads(config.read_text(encoding="utf-8")) | {"dtype": "float32"})
    if classes:
        index = json.loads((temporary / "model_index.json").read_text(encoding="utf-8"))
        index["id2label"] = {str(number): label for number, label in enumerate(classes)}
        _write_json(temporary / "model_index.json", index)
    _write_json(temporary / "names.json", names)
    for tokenizer in temporary.glob("tokenizer*/tokenizer.json"):  # half of which is white space
        document = json.loads(tokenizer.read_text(encoding="utf-8"))
        tokenizer.write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    provenance.write(temporary, runs)
    replace_folder(temporary, out)


def replace_folder(temporary: Path, out: Path) -> None:
    """Move a finished folder to `out`; card, sample grid and features of real pictures stay."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    for name in MEASURED_FILES:
        if (out / name).exists():
            shutil.copy(out / name, temporary)
    if out.exists():
        out.rename(old)
    temporary.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(file: Path, document: dict[str, Any]) -> None:
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
