"""Measures how fast each entry of a gallery is, on a machine that does nothing else: medians over rounds, with the full
run in between, so that what slows the machine for a while slows both.

    run_to_completion(measure_speeds(model, GALLERIES / model.id))

`gallery_pack` takes its times from the evaluation, which may have shared the machine with others.
"""

import json
import statistics
from collections.abc import Generator
from pathlib import Path
from typing import Any

from explorer import experiment
from explorer.bundled import gallery
from explorer.evaluation.results import hardware
from explorer.models.model import Model
from explorer.progress import Progress
from explorer.sampling.generate import generate

ROUNDS = 3
FULL_EVERY = 6  # entries, after which the full run is timed again
BY_SCHEDULE = "uniform"  # any method whose schedule is replaced by that of the entry


def measure_speeds(model: Model, folder: Path, rounds: int = ROUNDS) -> Generator[Progress, None, None]:
    """Write `seconds`, and the speedup as [median, smallest, largest], into a gallery's table."""
    table = json.loads((folder / gallery.TABLE).read_text(encoding="utf-8"))
    entries = [(method, result) for method in table["methods"].values() for result in method["results"] if result]
    full_s: list[float] = []
    for _, result in entries:
        result |= {"all_seconds": [], "all_speedups": []}
    _time(model, table)  # loads and warms up
    for number in range(rounds * len(entries)):
        method, result = entries[number % len(entries)]
        if number % FULL_EVERY == 0:
            full_s.append(_time(model, table))
            yield Progress(number, rounds * len(entries), f"{model.id}, full run {full_s[-1]:.2f} s")
        own_s = _time(model, table, method, result)
        result["all_seconds"].append(own_s)
        result["all_speedups"].append(full_s[-1] / own_s)
    for _, result in entries:
        speedups = result.pop("all_speedups")
        spread = (statistics.median(speedups), min(speedups), max(speedups))
        result["speedup"] = [float(f"{speedup:.4g}") for speedup in spread]
        result["seconds"] = float(f"{statistics.median(result.pop('all_seconds')):.4g}")
    table["original"]["seconds"] = float(f"{statistics.median(full_s):.4g}")
    (folder / gallery.TABLE).write_text(json.dumps(table, separators=(",", ":")), encoding="utf-8")
    _update_manifest(folder)


def _time(model: Model, table: dict[str, Any], method: dict[str, Any] | None = None, result: Any = None) -> float:
    """Return the seconds of the denoising loop of one picture; without a method, of the full run."""
    sample = table["samples"][0]
    sampler, steps, mask = table["sampler"], table["steps"], None
    if method and "keep" in result:
        settings = {name: method[name] for name in ("granularity", "order", "max_extrapolation")}
        trajectory = {name: table[name] for name in ("sampler", "steps", "guidance")}
        request = experiment.ExperimentRequest(
            model=model.id, method=BY_SCHEDULE, settings=settings, manual_schedule=result["keep"], **trajectory
        )
        mask = experiment.mask_at(model, request)
    elif method:
        sampler, steps = method["method"].removesuffix("-steps"), result["steps"]
    frames = generate(model, [sample["prompt"]], [sample["seed"]], sampler, steps, table["guidance"], mask, previews=0)
    return list(frames)[-1][0].seconds


def _update_manifest(folder: Path) -> None:
    file = folder / gallery.MANIFEST
    manifest = gallery.Manifest.model_validate_json(file.read_bytes())
    files = manifest.files | {gallery.TABLE: gallery.FileRecord.of(folder / gallery.TABLE)}
    updated = manifest.model_copy(update={"files": files, "hardware": hardware()})
    file.write_text(json.dumps(updated.model_dump(mode="json"), separators=(",", ":")), encoding="utf-8")
