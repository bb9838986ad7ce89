"""The importance files that come with the project: what methods learned for the embedded models. Loads no torch."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from explorer.masks.result import load, load_header
from explorer.masks.schedule import ScheduleHeader, ScheduleImportance
from explorer.masks.width import WidthImportance
from explorer.masks.width_header import WidthHeader
from explorer.measures.similarity_file import Similarity
from explorer.models.catalogue import ASSETS, EMBEDDED

SCHEDULES = ASSETS / "schedules"  # one folder per model
WIDTHS = ASSETS / "widths"  # likewise
MODELS = (*EMBEDDED, "dit-xl-2-256")  # the last one for what others published, which needs no weights


def schedule_headers(model_id: str) -> dict[Path, ScheduleHeader]:
    """Read the headers of a model's schedules, by file; none for one that is not in MODELS."""
    return headers_in(SCHEDULES / model_id) if model_id in MODELS else {}


def width_headers(model_id: str) -> dict[str, WidthHeader]:
    """Read the headers of a model's widths, by the name of their file."""
    found = headers_in(WIDTHS / model_id) if model_id in MODELS else {}
    return {file.stem: header for file, header in found.items()}


@lru_cache
def headers_in(folder: Path) -> dict[Path, Any]:
    """Read the headers of the files in a folder; a damaged one is left out."""
    found = {}
    for file in sorted(folder.glob("*.safetensors"), key=lambda file: file.stem):  # taylor before taylor-0.1
        try:
            found[file] = load_header(file)
        except ValueError:
            continue
    return found


def feature_similarity(model_id: str, sampler: str, steps: int) -> Similarity:
    """Read how similar a model's features are along a trajectory. Raises ValueError where that was not measured."""
    file = ASSETS / "features" / model_id / f"{sampler}-{steps}.safetensors"
    if model_id not in EMBEDDED or not file.is_file():
        raise ValueError(
            f"features of {model_id} were not measured for {sampler} with {steps} steps; measure your prompt"
        )
    return Similarity.load(file)


def learned_methods(model_id: str) -> list[str]:
    """List the methods that have schedules for a model."""
    return list(dict.fromkeys(header.pruner.name for header in schedule_headers(model_id).values()))


def find_schedule(
    model_id: str, method: str, sampler: str, steps: int, settings: Mapping[str, Any]
) -> ScheduleImportance:
    """Find what a method learned for a trajectory, with these settings. Raises ValueError, naming what there is."""
    own = {file: header for file, header in schedule_headers(model_id).items() if header.pruner.name == method}
    for file, header in own.items():
        config = header.pruner.config
        if (header.sampler, header.steps) == (sampler, steps) and _matches(config, settings):
            return ScheduleImportance.load(file)
    if not own:
        raise ValueError(f"no file of {method} for {model_id} comes with the project; make one with the command prune")
    trajectories = ", ".join(dict.fromkeys(f"{header.sampler} {header.steps}" for header in own.values()))
    raise ValueError(
        f"{method} was learned for {trajectories} steps, not for {sampler} {steps} with these settings; "
        "choose one of those, or make a file with the command prune"
    )


def find_widths(model_id: str, method: str, settings: Mapping[str, Any]) -> WidthImportance:
    """Find the widths that a method learned with these settings. Raises ValueError, naming what there is."""
    headers = width_headers(model_id)
    for stem, header in headers.items():
        if header.pruner.name == method and _matches(header.pruner.config, settings):
            return load(WIDTHS / model_id / f"{stem}.safetensors")
    raise ValueError(
        f"no widths of {method} with these settings come with the project for {model_id} (there are: "
        f"{', '.join(headers) or 'none'}); make a file with the command prune"
    )


def _matches(config: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    return all(config.get(name) == value for name, value in settings.items())
