"""Importance files that come with the project: schedules and widths that methods found for the embedded models. Loads
no torch."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from explorer import catalogue
from explorer.features import Similarity
from explorer.files import document_of
from explorer.masks import Header, Importance, header_of
from explorer.sites import WidthHeader
from explorer.widths import WidthImportance, load

FOLDER = catalogue.ASSETS / "schedules"  # a folder a model in it
WIDTHS = catalogue.ASSETS / "widths"  # likewise


def headers(model_id: str) -> dict[Path, Header]:
    """The headers of a model's files, by file; none for a model that does not come with the project."""
    return headers_in(FOLDER / model_id) if model_id in catalogue.EMBEDDED else {}


@lru_cache
def headers_in(folder: Path) -> dict[Path, Header]:
    """The headers of the files in a folder; a damaged one is left out."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            found[file] = header_of(file)
        except ValueError:
            continue
    return found


def features(model_id: str, sampler: str, steps: int) -> Similarity:
    """How alike a model's features are along a trajectory. Raises ValueError where that was not measured."""
    file = catalogue.ASSETS / "features" / model_id / f"{sampler}-{steps}.safetensors"
    if model_id not in catalogue.EMBEDDED or not file.is_file():
        raise ValueError(
            f"features of {model_id} were not measured for {sampler} with {steps} steps; measure your prompt"
        )
    return Similarity.load(file)


def methods(model_id: str) -> list[str]:
    """The methods that have files for a model."""
    return list(dict.fromkeys(header.pruner.name for header in headers(model_id).values()))


def find(model_id: str, method: str, sampler: str, steps: int, settings: Mapping[str, Any]) -> Importance:
    """What a method learned for a trajectory, with these of its settings. Raises ValueError, naming what there is."""
    own = {file: header for file, header in headers(model_id).items() if header.pruner.name == method}
    for file, header in own.items():
        config = header.pruner.config
        if (header.sampler, header.steps) == (sampler, steps) and all(
            config.get(name) == settings[name] for name in settings
        ):
            return Importance.load(file)
    if not own:
        raise ValueError(f"no file of {method} for {model_id} comes with the project; make one with the command prune")
    there = ", ".join(dict.fromkeys(f"{header.sampler} {header.steps}" for header in own.values()))
    raise ValueError(
        f"{method} was learned for {there} steps, not for {sampler} {steps} with these settings; "
        "choose one of those, or make a file with the command prune"
    )


@lru_cache
def widths(model_id: str) -> dict[str, WidthHeader]:
    """The headers of a model's widths, by the name of their file; a damaged one is left out."""
    found = {}
    files = (WIDTHS / model_id).glob("*.safetensors") if model_id in catalogue.EMBEDDED else ()
    for file in sorted(files, key=lambda file: file.stem):  # taylor before taylor-0.1
        try:
            found[file.stem] = document_of(file, WidthHeader)
        except ValueError:
            continue
    return found


def find_widths(model_id: str, method: str, settings: Mapping[str, Any]) -> WidthImportance:
    """The order over a model's units that a method found with these of its settings. Raises ValueError for none."""
    for stem, header in widths(model_id).items():
        config = header.pruner.config
        if header.pruner.name == method and all(config.get(name) == value for name, value in settings.items()):
            return load(WIDTHS / model_id / f"{stem}.safetensors")
    there = ", ".join(widths(model_id)) or "none"
    raise ValueError(
        f"no widths of {method} with these settings come with the project for {model_id} (there are: {there}); make a "
        "file with the command prune"
    )
