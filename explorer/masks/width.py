"""Widths: which heads, neurons, rows or channels of a network stay, for all calls, and the order in which they go.

Loads no torch.

The file is one .safetensors as that of a schedule (`masks`), with `sites` in place of units and calls: `width/<site>`
bool in a mask, `rank/width/<site>` int32 and `score/width/<site>` float32 in an importance. Ratios are shares of the
denoiser's parameters. Costs follow from the file alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from explorer.files import RatioRecord, document_of, refuse_beyond, text_of, write_whole
from explorer.masks import Header, Result
from explorer.masks import load as load_schedule
from explorer.sites import WidthHeader


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
        return 1 - float(self.header.lost(self._gone)[0]) / self.header.params

    @property
    def kept_macs(self) -> float:
        """Share of a call's MACs that stays."""
        return 1 - float(self.header.lost_macs(self._gone)[0]) / self.header.macs

    @property
    def removed(self) -> dict[str, int]:
        """Parameters that go, by kind of unit: what a ratio is made of."""
        own = {kind: [site.kind == kind for site in self.header.sites] for kind in self.header.kinds}
        return {kind: int(self.header.lost(self._gone * mask)[0]) for kind, mask in own.items()}

    @property
    def by_kind(self) -> str:
        """The same in words."""
        return ", ".join(f"{kind} {count:,}" for kind, count in self.removed.items())

    @property
    def _gone(self) -> np.ndarray:
        return np.array([[int((~self.keep[site.name]).sum()) for site in self.header.sites]])

    def narrowed(self, model: Any) -> Any:
        """The model without the units that go, really smaller. Raises ValueError for another model."""
        kinds = self.header.kinds
        self.header.refuse_unless(model.id, model.sites(channels="channels" in kinds, rows="rows" in kinds))
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

    @cached_property
    def stops(self) -> tuple[np.ndarray, np.ndarray]:
        """After how many removals (K,) one may stop, so that bunches are whole and channels are left everywhere, and
        the share (K,) of the parameters that is saved there."""
        total = sum(site.size for site in self.header.sites)
        opened, emptied = np.zeros(total, dtype=np.int64), np.zeros(total, dtype=np.int64)
        for site in self.header.sites:
            places, left = np.sort(self.rank[site.name]), site.size - 1 - np.arange(site.size)
            broken = (left % site.bunch != 0).astype(np.int64)
            opened[places] = np.diff(broken, prepend=0)
            emptied[places[-1]] = not site.can_vanish
        whole = (np.cumsum(opened) == 0) & (np.cumsum(emptied) == 0)
        stops = np.concatenate([[0], 1 + np.flatnonzero(whole)])
        return stops, self._saved(stops) / self.header.params

    def _saved(self, stops: np.ndarray) -> np.ndarray:
        """Parameters (K,) that the first so many removals save."""
        if self.header.layers:
            ranks = [np.sort(self.rank[site.name]) for site in self.header.sites]
            return self.header.lost(np.stack([np.searchsorted(rank, stops) for rank in ranks], axis=1))
        gone = np.zeros(1 + sum(site.size for site in self.header.sites), dtype=np.int64)
        for site in self.header.sites:
            rank = self.rank[site.name]
            gone[1 + rank] = site.params
            gone[1 + rank.max()] += site.rest
        return np.cumsum(gone)[stops]

    def at(self, ratio: float) -> Widths:
        """What stays when nearest to `ratio` of the parameters went. Raises ValueError outside 0 .. max_ratio."""
        refuse_beyond(self.header.max_ratio, ratio)
        stops, saved = self.stops
        gone = int(stops[np.abs(saved - ratio).argmin()])
        return self._without({name: rank >= gone for name, rank in self.rank.items()}, ratio)

    def thinned(self, ratio: float) -> Widths:
        """What stays when every layer loses the share `ratio` of its channels, counted by the file's rule: what the
        papers call a channel ratio. Raises ValueError for an order that is not over channels."""
        from explorer.channels import going  # here, because files are read without torch

        if not self.header.layers:
            raise ValueError("a channel ratio is for an order over channels; make one with axis=channels")
        rule, keep = self.header.pruner.config["rule"], {}
        for site in self.header.sites:
            lowest = np.argsort(self.rank[site.name])[: going(site.size, site.bunch, ratio, rule) * site.bunch]
            keep[site.name] = ~np.isin(np.arange(site.size), lowest)
        return self._without(keep, ratio, "channels")

    def _without(self, keep: Mapping[str, np.ndarray], asked: float, of: str = "params") -> Widths:
        header = self.header.model_copy(update={"kind": "mask"})
        reached = 1 - Widths(header, keep).kept if of == "params" else asked
        ratio = RatioRecord(asked=asked, reached=reached, of=of)
        return Widths(header.model_copy(update={"ratio": ratio}), keep)

    def save(self, path: str | Path) -> None:
        tensors = {f"rank/width/{name}": rank for name, rank in self.rank.items()}
        tensors |= {f"score/width/{name}": score for name, score in self.score.items()}
        write_whole(path, tensors, {"explorer": self.header.model_dump_json()})


def ranked(keys: Mapping[str, np.ndarray], bunches: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """site -> int32 (size,): the place at which each unit goes, the lowest key of all sites first.

    Units of a bunch (site -> its number, for each unit) have one key and go one after another.
    """
    sizes = [len(key) for key in keys.values()]
    bunch = np.concatenate([bunches[name] if bunches else np.arange(len(key)) for name, key in keys.items()])
    order = np.lexsort((bunch, np.repeat(np.arange(len(sizes)), sizes), np.concatenate(list(keys.values()))))
    places = np.empty(len(order), dtype=np.int32)
    places[order] = np.arange(len(order))
    return dict(zip(keys, np.split(places, np.cumsum(sizes)[:-1]), strict=True))


def _check(header: WidthHeader, tables: Mapping[str, np.ndarray], dtype: str) -> None:
    if set(tables) != {site.name for site in header.sites}:
        raise ValueError("the widths are not those of the sites that the header names")
    for site in header.sites:
        table = tables[site.name]
        if table.dtype != dtype or table.shape != (site.size,):
            raise ValueError(f"{site.name} must be {dtype} ({site.size},), got {table.dtype} {table.shape}")


Found = Result | Widths | WidthImportance


def header_in(path: str | Path) -> Header | WidthHeader:
    """The header of a file of schedules or widths. Raises ValueError, in one sentence, for neither."""
    return document_of(path, WidthHeader if _of_widths(path) else Header)


def found_in(path: str | Path) -> Found:
    """What a file holds, a schedule or widths. Raises ValueError, in one sentence, for neither."""
    return load(path) if _of_widths(path) else load_schedule(path)


def _of_widths(path: str | Path) -> bool:
    return '"sites":' in text_of(path)


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
