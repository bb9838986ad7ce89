"""Widths: which heads and neurons of a network stay, for all calls, and the order in which they go. Loads no torch.

The file is one .safetensors as that of a schedule (`masks`), with `sites` in place of units and calls: `width/<site>`
bool in a mask, `rank/width/<site>` int32 and `score/width/<site>` float32 in an importance. Ratios are shares of the
denoiser's parameters. Costs follow from the file alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from safetensors import safe_open

from explorer.files import (
    Origin,
    RatioRecord,
    Record,
    document_of,
    refuse_beyond,
    text_of,
    write_whole,
)
from explorer.masks import MAX_UNITS, Result
from explorer.masks import load as load_schedule

MAX_SIZE = 1_000_000  # units of one site


class SiteRecord(Record):
    """A place with units that can go one by one; see `structure.Site`."""

    name: str = Field(pattern=r"^[\w.]+:(heads|neurons)$", max_length=200)
    size: int = Field(ge=1, le=MAX_SIZE)
    params: int = Field(ge=0)  # of one unit
    rest: int = Field(0, ge=0)  # that go with the last one


class WidthHeader(Origin):
    """What the file says of itself. `model` and `sites` are what it may be used with."""

    sites: tuple[SiteRecord, ...] = Field(min_length=1, max_length=MAX_UNITS)
    params: int = Field(ge=1)  # of the whole denoiser

    def refuse_unless(self, model_id: str, sites: Mapping[str, Any]) -> None:
        """Raise ValueError naming the first thing in which the model at hand differs from this file's."""
        if self.model.id != model_id:
            raise ValueError(f"this file is for the model {self.model.id}, not {model_id}; prune {model_id} itself")
        for site in self.sites:
            size = sites[site.name].size if site.name in sites else 0
            if size != site.size:
                raise ValueError(f"{site.name} has {site.size} units in this file, {size} in the model; prune it anew")


@dataclass(frozen=True, eq=False)
class Widths:
    """Hard decisions: site name -> bool (size,). Raises ValueError where they are not those of the header's sites."""

    header: WidthHeader
    keep: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        _check(self.header, self.keep, "bool")

    @property
    def kept(self) -> float:
        """Share of the denoiser's parameters that stays."""
        gone = sum(
            int((~self.keep[site.name]).sum()) * site.params + (0 if self.keep[site.name].any() else site.rest)
            for site in self.header.sites
        )
        return 1 - gone / self.header.params

    def narrowed(self, model: Any) -> Any:
        """The model without the heads and neurons that go, really smaller. Raises ValueError for another model."""
        from explorer.structure import sites  # here, because files are read without torch

        self.header.refuse_unless(model.id, sites(model.denoiser))
        return model.smaller(self.keep)

    def save(self, path: str | Path) -> None:
        tensors = {f"width/{name}": keep for name, keep in self.keep.items()}
        write_whole(path, tensors, {"explorer": self.header.model_dump_json()})


@dataclass(frozen=True, eq=False)
class WidthImportance:
    """An order over all units of all sites: site name -> the place of each of its units in it, and its score."""

    header: WidthHeader
    rank: Mapping[str, np.ndarray]
    score: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        _check(self.header, self.rank, "int32")
        _check(self.header, self.score, "float32")
        places = np.concatenate([self.rank[site.name] for site in self.header.sites])
        if not np.array_equal(np.sort(places), np.arange(len(places))):
            raise ValueError("rank is not an order: each position from 0 must appear exactly once")
        if not all(np.isfinite(score).all() for score in self.score.values()):
            raise ValueError("score holds values that are not finite")

    @property
    def saved(self) -> np.ndarray:
        """Share of the parameters that the first k removals save, for k = 0 .. all."""
        gone = np.zeros(sum(site.size for site in self.header.sites), dtype=np.int64)
        for site in self.header.sites:
            rank = self.rank[site.name]
            gone[rank] = site.params
            gone[rank.max()] += site.rest
        return np.concatenate([[0.0], np.cumsum(gone)]) / self.header.params

    def at(self, ratio: float) -> Widths:
        """What stays when nearest to `ratio` of the parameters went. Raises ValueError outside 0 .. max_ratio."""
        refuse_beyond(self.header.max_ratio, ratio)
        saved = self.saved
        gone = int(np.abs(saved[saved <= self.header.max_ratio + 1e-9] - ratio).argmin())
        reached = RatioRecord(asked=ratio, reached=float(saved[gone]), of="params")
        header = self.header.model_copy(update={"kind": "mask", "ratio": reached})
        return Widths(header, {name: rank >= gone for name, rank in self.rank.items()})

    def save(self, path: str | Path) -> None:
        tensors = {f"rank/width/{name}": rank for name, rank in self.rank.items()}
        tensors |= {f"score/width/{name}": score for name, score in self.score.items()}
        write_whole(path, tensors, {"explorer": self.header.model_dump_json()})


def ranked(sites: Mapping[str, Any], score: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """site name -> int32 (size,): the place at which each unit goes, the lowest score of all sites first."""
    places = np.empty(sum(site.size for site in sites.values()), dtype=np.int32)
    places[np.argsort(np.concatenate([score[name] for name in sites]), kind="stable")] = np.arange(len(places))
    ends = np.cumsum([site.size for site in sites.values()])
    return dict(zip(sites, np.split(places, ends[:-1]), strict=True))


def _check(header: WidthHeader, tables: Mapping[str, np.ndarray], dtype: str) -> None:
    if set(tables) != {site.name for site in header.sites}:
        raise ValueError("the widths are not those of the sites that the header names")
    for site in header.sites:
        table = tables[site.name]
        if table.dtype != dtype or table.shape != (site.size,):
            raise ValueError(f"{site.name} must be {dtype} ({site.size},), got {table.dtype} {table.shape}")


def found_in(path: str | Path) -> Result | Widths | WidthImportance:
    """What a file holds, a schedule or widths. Raises ValueError, in one sentence, for neither."""
    return load(path) if '"sites":' in text_of(path) else load_schedule(path)


def load(path: str | Path) -> Widths | WidthImportance:
    """Read a file of widths. Raises ValueError, in one sentence, for anything that is not a sound one."""
    header = document_of(path, WidthHeader)
    names = [site.name for site in header.sites]
    prefixes = {"mask": ["width/"], "importance": ["rank/width/", "score/width/"]}[header.kind]
    with safe_open(path, framework="numpy") as file:
        if set(file.keys()) != {prefix + name for prefix in prefixes for name in names}:
            raise ValueError(f"{path}: the tensors are not those of the sites that the header names")
        tables = [{name: file.get_tensor(prefix + name) for name in names} for prefix in prefixes]
    return (Widths if header.kind == "mask" else WidthImportance)(header, *tables)
