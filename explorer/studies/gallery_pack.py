"""A gallery that was drawn, packed for the page: strips of pictures, one table, a manifest with hashes."""

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from safetensors.numpy import load_file

from explorer import gallery, trajectory
from explorer.evidence.evaluation import album_files
from explorer.evidence.results import hardware, read, versions
from explorer.evidence.showcase import FULL, METHODS, RATIOS, scenes, settings_at
from explorer.evidence.summary import difference, summary
from explorer.letters import floats, packed
from explorer.masks import Importance, Mask

MEASURES = {"ssim": "ssim", "psnr": "psnr_box", "clip": "clip_score", "rank": "rank"}  # of each picture
MEANS = {"ssim": "ssim", "psnr": "psnr_box", "clip": "clip_score", "top1": "retrieval_top1", "top5": "retrieval_top5"}
GRANULARITIES = ("stage", "layer")


def pack(model: Any, source: Path, target: Path) -> None:
    """Pack what `showcase.drawn` left in `source` for the page. What lay in `target` goes."""
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    tables = [read(source / f"{ratio}.parquet")[1] for ratio in RATIOS]
    keys = [json.loads((source / f"{ratio}.json").read_text(encoding="utf-8")) for ratio in RATIOS]
    full = tables[0][tables[0].method == "full"].key.iloc[0]
    table = _about(model) | {"original": _stop(tables[0], full)}
    table["methods"] = {name: _method(source, name, tables, keys) for name in METHODS}
    table["first"] = [_first(rows, key) for rows, key in zip(tables, keys, strict=True)]
    _write(target / gallery.TABLE, table)
    original = _pictures(source, full)
    _strips(original[:, None], target, "full")
    for name in METHODS:
        drawn = [_pictures(source, key[name]) if name in key else np.full_like(original, 255) for key in keys]
        _strips(np.stack(drawn, axis=1), target, name)
    manifest = gallery.Manifest(
        format=1,
        model=model.record,
        parts={file.name: gallery.Part.of(file) for file in sorted(target.iterdir())},
        versions=versions(),
        hardware=hardware(),
        created=datetime.now(timezone.utc),
    )
    _write(target / gallery.MANIFEST, manifest.model_dump(mode="json"))


def _about(model: Any) -> dict[str, Any]:
    """What all methods share: the trajectory, the scenes, the stops, the units."""
    scheduler = trajectory.sampler(FULL.sampler, model.scheduler_config)
    scheduler.set_timesteps(FULL.steps)
    graphs = {size: model.graph(size) for size in GRANULARITIES}
    return {
        "model": model.id,
        **vars(FULL),
        "timesteps": [float(timestep) for timestep in scheduler.timesteps],
        "scenes": [pair._asdict() for pair in scenes()],
        "ratios": RATIOS,
        "graphs": {
            size: {"units": [unit.model_dump() for unit in graph.units], "macs_fixed": graph.macs_fixed}
            for size, graph in graphs.items()
        },
    }


def _method(source: Path, name: str, tables: list[pd.DataFrame], keys: list[Mapping[str, str]]) -> dict[str, Any]:
    """One method at every stop; None where it cannot stand."""
    shown = METHODS[name]
    about: dict[str, Any] = {"title": shown.title, "method": shown.method, "settings": dict(shown.settings)}
    settings = [settings_at(name, ratio) for ratio in RATIOS]
    if any(each != settings[0] for each in settings):
        about["settings_at"] = settings
    stops: list[dict[str, Any] | None] = []
    for ratio, rows, key in zip(RATIOS, tables, keys, strict=True):
        stop = _stop(rows, key[name]) if name in key else None
        file = source / f"{ratio}-{name}.safetensors"
        if stop and file.exists():
            mask = Mask.load(file)
            stop["keep"] = packed(mask.keep)
            about |= {field: getattr(mask.header, field) for field in ("granularity", "order", "reach")}
        stops.append(stop)
    order = source / f"{name}.safetensors"
    if order.exists():
        importance = Importance.load(order)
        about |= {"goes": floats(importance.goes), "score": floats(importance.score)}
    return about | {"stops": stops}


def _stop(rows: pd.DataFrame, key: str) -> dict[str, Any]:
    """What one contender costs and loses: each measure scene by scene, and means with intervals."""
    own = rows[rows.key == key].set_index(["prompt", "seed"]).loc[scenes()]
    whole = rows[rows.key.isin(own.key) | (rows.method == "full")]
    summed = summary(whole).set_index("key").loc[key]
    each = {name: [_short(value) for value in own[column]] for name, column in MEASURES.items() if column in own}
    means = {
        name: [_short(summed[f"{column}{end}"]) for end in ("", "_low", "_high")]
        for name, column in MEANS.items()
        if column in summed
    }
    speedup = [_short(summed[f"speedup{end}"]) for end in ("", "_low", "_high")]
    costs = {"kept": float(summed.kept), "steps": int(summed.steps), "seconds": _short(summed.loop_seconds)}
    return costs | {"speedup": speedup, "each": each, "means": means}


def _first(rows: pd.DataFrame, keys: Mapping[str, str]) -> dict[str, Any] | None:
    """Who is nearest to the full run at a stop, and by how much ahead of the next; None without two of them."""
    means = {name: rows[rows.key == key].psnr_box.mean() for name, key in keys.items()}
    ranked = sorted(means, key=means.__getitem__, reverse=True)
    if len(ranked) < 2:
        return None
    found = difference(rows, keys[ranked[0]], keys[ranked[1]], "psnr_box")
    by = [_short(value) for value in found[:3]]
    return {"method": ranked[0], "over": ranked[1], "by": by, "higher": found.higher, "n": found.n}


def _short(value: float) -> float:
    """As many digits as anybody reads."""
    return float(f"{value:.5g}")


def _pictures(source: Path, key: str) -> np.ndarray:
    """uint8 (scenes, H, W, 3)."""
    return np.concatenate([load_file(file)["pictures"] for file in album_files(source / "album", key)])


def _strips(tiles: np.ndarray, target: Path, name: str) -> None:
    """A strip a scene from `tiles` (scenes, N, H, W, 3). Without loss: a difference must show no compression.

    A tile but the first is stored as what it adds to the one before, modulo 256, which takes half the room.
    """
    steps = np.concatenate([tiles[:, :1], tiles[:, 1:] - tiles[:, :-1]], axis=1)
    for number, row in enumerate(steps):
        strip = Image.fromarray(np.concatenate(list(row), axis=1))
        strip.save(target / f"{number:02}-{name}.webp", lossless=True, method=6, quality=100)


def _write(file: Path, document: Any) -> None:
    file.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
