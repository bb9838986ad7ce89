"""Packs a rendered gallery for the page: sprite strips of pictures, one table, a manifest with hashes."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from safetensors.numpy import load_file

from explorer.bundled.gallery import MANIFEST, TABLE, FileRecord, Manifest, strip_file
from explorer.evaluation.evaluate import image_files
from explorer.evaluation.results import hardware, read_results, versions
from explorer.evaluation.statistics import paired_difference, summarize
from explorer.masks.block_graph import Granularity
from explorer.masks.encoding import encode_bits, encode_floats
from explorer.masks.schedule import Schedule, ScheduleImportance
from explorer.measures.table import PAGE_METRICS
from explorer.models.model import Model
from explorer.sampling.schedulers import make_scheduler
from explorer.studies.galleries import Gallery
from explorer.studies.gallery_render import image_dir, settings_at

# names in the table -> columns of the rows of each picture, and of their summary
NEARNESS = {metric.name: metric.page_column for metric in PAGE_METRICS}
PICTURE_COLUMNS = NEARNESS | {"clip": "clip_score", "rank": "rank"}
MEAN_COLUMNS = NEARNESS | {"clip": "clip_score"}
MEAN_COLUMNS |= {"top1": "retrieval_top1", "top5": "retrieval_top5"}
GRANULARITIES: tuple[Granularity, ...] = ("stage", "layer")
WHITE = 255


def pack(model: Model, gallery: Gallery, source: Path, target: Path) -> None:
    """Pack what `gallery_render.render` left in `source`. What was in `target` is deleted."""
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    tables = [read_results(source / f"{ratio}.parquet")[1] for ratio in gallery.ratios]
    keys = [json.loads((source / f"{ratio}.json").read_text(encoding="utf-8")) for ratio in gallery.ratios]
    full = tables[0][tables[0].method == "full"].key.iloc[0]
    table = _shared_facts(model, gallery) | {"original": _result(gallery, tables[0], full)}
    table["methods"] = {name: _method(gallery, source, name, tables, keys) for name in gallery.methods}
    table["leaders"] = [_leader(rows, key) for rows, key in zip(tables, keys, strict=True)]
    _write_json(target / TABLE, table)
    original = _read_pictures(source, full)
    _write_strips(original[:, None], target, "full")
    for name in gallery.methods:
        pictures = [_read_pictures(source, key[name]) if name in key else np.full_like(original, WHITE) for key in keys]
        _write_strips(np.stack(pictures, axis=1), target, name)
    manifest = Manifest(
        format=2,
        model=model.record,
        files={file.name: FileRecord.of(file) for file in sorted(target.iterdir())},
        versions=versions(),
        hardware=hardware(),
        created=datetime.now(timezone.utc),
    )
    _write_json(target / MANIFEST, manifest.model_dump(mode="json"))


def _shared_facts(model: Model, gallery: Gallery) -> dict[str, Any]:
    """Return what all methods share: the trajectory, the samples, the ratios, the units."""
    scheduler = make_scheduler(gallery.reference.sampler, model.scheduler_config)
    scheduler.set_timesteps(gallery.reference.steps)
    graphs = {granularity: model.graph(granularity) for granularity in GRANULARITIES}
    return {
        "model": model.id,
        **vars(gallery.reference),
        "timesteps": [float(timestep) for timestep in scheduler.timesteps],
        "samples": [sample._asdict() for sample in gallery.samples],
        "ratios": gallery.ratios,
        "graphs": {
            granularity: {"units": [unit.model_dump() for unit in graph.units], "macs_fixed": graph.macs_fixed}
            for granularity, graph in graphs.items()
        },
    }


def _method(
    gallery: Gallery, source: Path, name: str, tables: Sequence[pd.DataFrame], keys: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """Describe one method with its result at every ratio; None where it cannot remove so much."""
    method = gallery.methods[name]
    about: dict[str, Any] = {"title": method.title, "method": method.method, "settings": dict(method.settings)}
    settings = [settings_at(gallery, name, ratio, source) for ratio in gallery.ratios]
    if any(each != settings[0] for each in settings):
        about["settings_at"] = settings
    elif method.tried:
        about["settings"] = settings[0]
    results: list[dict[str, Any] | None] = []
    for ratio, rows, key in zip(gallery.ratios, tables, keys, strict=True):
        result = _result(gallery, rows, key[name]) if name in key else None
        file = source / f"{ratio}-{name}.safetensors"
        if result and file.exists():
            schedule = Schedule.load(file)
            result["keep"] = encode_bits(schedule.keep)
            about |= {field: getattr(schedule.header, field) for field in ("granularity", "order", "max_extrapolation")}
        results.append(result)
    file = source / f"{name}.safetensors"
    if file.exists():
        importance = ScheduleImportance.load(file)
        about |= {"removal_ratio": encode_floats(importance.removal_ratio), "score": encode_floats(importance.score)}
    return about | {"results": results}


def _result(gallery: Gallery, rows: pd.DataFrame, key: str) -> dict[str, Any]:
    """Return what one candidate costs and loses: each measure of each sample, and means with intervals."""
    own = rows[rows.key == key].set_index(["prompt", "seed"]).loc[list(gallery.samples)]
    with_full = rows[rows.key.isin(own.key) | (rows.method == "full")]
    summary = summarize(with_full).set_index("key").loc[key]
    each = {name: [_round(value) for value in own[column]] for name, column in PICTURE_COLUMNS.items() if column in own}
    means = {
        name: [_round(summary[f"{column}{end}"]) for end in ("", "_low", "_high")]
        for name, column in MEAN_COLUMNS.items()
        if column in summary
    }
    speedup = [_round(summary[f"speedup{end}"]) for end in ("", "_low", "_high")]
    costs = {"kept": float(summary.kept), "steps": int(summary.steps), "seconds": _round(summary.loop_seconds)}
    return costs | {"speedup": speedup, "each": each, "means": means}


def _leader(rows: pd.DataFrame, keys: Mapping[str, str]) -> dict[str, Any] | None:
    """Find which method is nearest to the full run at a ratio, and its lead over the next; None with fewer than two."""
    means = {name: rows[rows.key == key].psnr_box.mean() for name, key in keys.items()}
    ranked = sorted(means, key=means.__getitem__, reverse=True)
    if len(ranked) < 2:
        return None
    difference = paired_difference(rows, keys[ranked[0]], keys[ranked[1]], "psnr_box")
    lead = [_round(value) for value in difference[:3]]
    counts = {"higher": difference.higher, "n": difference.n}
    return {"method": ranked[0], "runner_up": ranked[1], "lead": lead} | counts


def _round(value: float) -> float:
    """Round to five digits, so that the table stays small."""
    return float(f"{value:.5g}")


def _read_pictures(source: Path, key: str) -> np.ndarray:
    """Read the pictures of a candidate, uint8 (samples, H, W, 3)."""
    return np.concatenate([load_file(file)["pictures"] for file in image_files(image_dir(source), key)])


def _write_strips(tiles: np.ndarray, target: Path, name: str) -> None:
    """Write a sprite strip per sample from `tiles`, uint8 (samples, N, H, W, 3).

    They are lossless, so that a difference between pictures is never one of compression. Each tile but the first is
    stored as what it adds to the one before, modulo 256, which takes half the space.
    """
    differences = np.concatenate([tiles[:, :1], tiles[:, 1:] - tiles[:, :-1]], axis=1)
    for number, row in enumerate(differences):
        sprite_strip = Image.fromarray(np.concatenate(list(row), axis=1))
        sprite_strip.save(target / strip_file(number, name), lossless=True, method=6, quality=100)


def _write_json(file: Path, document: Any) -> None:
    file.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
