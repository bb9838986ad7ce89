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
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator
from safetensors import safe_open

from explorer.files import (
    Origin,
    RatioRecord,
    Record,
    Share,
    document_of,
    refuse_beyond,
    text_of,
    write_whole,
)
from explorer.graph import MAX_MACS
from explorer.masks import MAX_UNITS, Header, Result
from explorer.masks import load as load_schedule

MAX_SIZE = 1_000_000  # units of one site
MAX_COUNTS = 100_000_000  # channels times layers, or times five sites, which an order over channels counts
KINDS = ("heads", "neurons", "rows", "channels")
Count = Annotated[int, Field(ge=0, le=10**9)]


class SiteRecord(Record):
    """A place with units that can go one by one, or so many at a time; see `structure.Site` and `channels.Group`."""

    name: str = Field(pattern=rf"^[\w.]+:({'|'.join(KINDS)})$", max_length=200)
    size: int = Field(ge=1, le=MAX_SIZE)
    params: Count = 0  # of one unit; what channels cost follows from `layers`
    rest: Count = 0  # that go with the last one
    macs: int = Field(0, ge=0, le=10**15)  # of one unit, in one call
    bunch: int = Field(1, ge=1, le=MAX_SIZE)  # what stays is a multiple of it

    @property
    def kind(self) -> str:
        return self.name.rpartition(":")[2]

    @property
    def can_vanish(self) -> bool:
        return self.kind != "channels"


class LayerRecord(Record):
    """A layer whose channels can go: kernel x outputs x inputs + bias x outputs parameters.

    As many MACs for each of its `positions` in a call; a norm has none.
    """

    kernel: Count
    bias: Count
    positions: Count
    outputs: dict[str, Count]  # site -> how often each of its channels occurs
    inputs: dict[str, Count]
    fixed_outputs: Count
    fixed_inputs: Count

    def params(self, left: Mapping[str, Any]) -> Any:
        """Parameters where so many channels of each site are left: numbers, or arrays of one shape."""
        outputs = self.fixed_outputs + sum(times * left[name] for name, times in self.outputs.items())
        inputs = self.fixed_inputs + sum(times * left[name] for name, times in self.inputs.items())
        return self.kernel * outputs * inputs + self.bias * outputs


class WidthHeader(Origin):
    """What the file says of itself. `model` and `sites` are what it may be used with."""

    sites: tuple[SiteRecord, ...] = Field(min_length=1, max_length=MAX_UNITS)
    layers: tuple[LayerRecord, ...] = Field((), max_length=MAX_UNITS)
    params: int = Field(ge=1, le=10**15)  # of the whole denoiser
    macs: int = Field(ge=1, le=MAX_MACS)  # of one whole call
    trace: tuple[tuple[int, Share], ...] = Field((), max_length=MAX_UNITS)  # timestep, loss as a share of the largest

    @model_validator(mode="after")
    def _of_a_network(self) -> "WidthHeader":
        known, units = {site.name for site in self.sites}, sum(site.size for site in self.sites)
        if self.layers and units * max(5 * len(self.sites), len(self.layers)) > MAX_COUNTS:
            raise ValueError(f"{units:,} channels of {len(self.sites)} sites are more than can be counted")
        if unknown := {name for layer in self.layers for name in (*layer.outputs, *layer.inputs)} - known:
            raise ValueError(f"a layer has channels of {unknown.pop()}, which is none of the sites")
        sizes = {site.name: site.size for site in self.sites}
        whole = [layer.params(sizes) for layer in self.layers]
        if sum(site.size * site.params + site.rest for site in self.sites) + sum(whole) > self.params:
            raise ValueError("the units have more parameters than the whole network")
        layered = sum(layer.positions * own for layer, own in zip(self.layers, whole, strict=True))
        if sum(site.size * site.macs for site in self.sites) + layered > self.macs:
            raise ValueError("the units have more MACs than the whole network")
        return self

    def lost(self, gone: np.ndarray) -> np.ndarray:
        """Parameters (K,) that go with `gone` (K, S) units of each site."""
        size, params, rest = (np.array([getattr(s, f) for s in self.sites]) for f in ("size", "params", "rest"))
        return gone @ params + (gone == size) @ rest + self._in_layers(0 * gone[:1])[0] - self._in_layers(gone)[0]

    def lost_macs(self, gone: np.ndarray) -> np.ndarray:
        """MACs (K,) of a call that go with `gone` (K, S) units of each site."""
        macs = np.array([site.macs for site in self.sites])
        return gone @ macs + self._in_layers(0 * gone[:1])[1] - self._in_layers(gone)[1]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the units that can go."""
        return tuple(kind for kind in KINDS if any(site.kind == kind for site in self.sites))

    def _in_layers(self, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Parameters and MACs (K,) of the layers that have channels."""
        left = {site.name: site.size - gone[:, number] for number, site in enumerate(self.sites)}
        params = macs = np.zeros(len(gone), dtype=np.int64)
        for layer in self.layers:
            own = layer.params(left)
            params, macs = params + own, macs + layer.positions * own
        return params, macs

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
