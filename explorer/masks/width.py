"""Widths: which heads, neurons or channels of a network stay, for all calls, and their removal order.

The file is one .safetensors like that of a schedule, with `dims` in place of units and calls: `width/<dim>` bool in a
mask, `rank/width/<dim>` int32 and `score/width/<dim>` float32 in an importance. Ratios are shares of the denoiser's
parameters. Costs follow from the file alone. Loads no torch.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from explorer.masks.channel_rules import num_removed_per_group
from explorer.masks.file_format import RatioRecord, check_ratio, read_header, read_tensors, write_atomic
from explorer.masks.result import READERS, Importance, Mask, PrunableModel
from explorer.masks.width_header import WidthHeader

PREFIXES = {"mask": ("width/",), "importance": ("rank/width/", "score/width/")}


@dataclass(frozen=True, eq=False)
class Widths(Mask):
    """Hard decisions: dimension -> bool (size,). Raises ValueError where they are not those of the header's
    dimensions."""

    prunes: ClassVar[Literal["widths"]] = "widths"

    header: WidthHeader
    keep: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        _check(self.header, self.keep, "bool")

    @property
    def macs_fraction(self) -> float:
        return 1 - float(self.header.removed_macs(self._removed)[0]) / self.header.macs

    @property
    def params_fraction(self) -> float:
        return 1 - float(self.header.removed_params(self._removed)[0]) / self.header.params

    @property
    def removed_by_kind(self) -> dict[str, int]:
        """Removed parameters by kind of element: what a ratio is made of."""
        own = {kind: [dim.kind == kind for dim in self.header.dims] for kind in self.header.kinds}
        return {kind: int(self.header.removed_params(self._removed * mask)[0]) for kind, mask in own.items()}

    @property
    def _removed(self) -> np.ndarray:
        return np.array([[int((~self.keep[dim.name]).sum()) for dim in self.header.dims]])

    def apply_to(self, model: PrunableModel, scheduler: Any = None) -> AbstractContextManager[Any]:
        return nullcontext(model.prune_widths(self).with_shared_weights())

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"kept": self.params_fraction, "removed": self.removed_by_kind}

    def save(self, path: str | Path) -> None:
        tensors = {f"width/{name}": keep for name, keep in self.keep.items()}
        write_atomic(path, tensors, {"explorer": self.header.model_dump_json()})


@dataclass(frozen=True, eq=False)
class WidthImportance(Importance):
    """An order over all elements of all dimensions: dimension -> the position of each of its elements, and its
    score."""

    prunes: ClassVar[Literal["widths"]] = "widths"

    header: WidthHeader
    rank: Mapping[str, np.ndarray]
    score: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        _check(self.header, self.rank, "int32")
        _check(self.header, self.score, "float32")
        positions = np.concatenate([self.rank[dim.name] for dim in self.header.dims])
        if not np.array_equal(np.sort(positions), np.arange(len(positions))):
            raise ValueError("rank is not an order: each position from 0 must appear exactly once")
        if not all(np.isfinite(score).all() for score in self.score.values()):
            raise ValueError("score holds values that are not finite")

    @cached_property
    def reachable(self) -> tuple[np.ndarray, np.ndarray]:
        """After how many removals (K,) one may stop, so that multiples are whole and every layer keeps a channel, and
        the share (K,) of the parameters that is saved there."""
        total = sum(dim.size for dim in self.header.dims)
        opened, emptied = np.zeros(total, dtype=np.int64), np.zeros(total, dtype=np.int64)
        for dim in self.header.dims:
            positions, left = np.sort(self.rank[dim.name]), dim.size - 1 - np.arange(dim.size)
            broken = (left % dim.multiple_of != 0).astype(np.int64)
            opened[positions] = np.diff(broken, prepend=0)
            emptied[positions[-1]] = not dim.may_be_empty
        whole = (np.cumsum(opened) == 0) & (np.cumsum(emptied) == 0)
        counts = np.concatenate([[0], 1 + np.flatnonzero(whole)])
        return counts, self._saved_params(counts) / self.header.params

    def _saved_params(self, counts: np.ndarray) -> np.ndarray:
        """Count the parameters (K,) that the first so many removals save."""
        if self.header.layers:
            ranks = [np.sort(self.rank[dim.name]) for dim in self.header.dims]
            return self.header.removed_params(np.stack([np.searchsorted(rank, counts) for rank in ranks], axis=1))
        saved = np.zeros(1 + sum(dim.size for dim in self.header.dims), dtype=np.int64)
        for dim in self.header.dims:
            rank = self.rank[dim.name]
            saved[1 + rank] = dim.params
            saved[1 + rank.max()] += dim.params_when_empty
        return np.cumsum(saved)[counts]

    def at(self, ratio: float) -> Widths:
        """Return what stays when nearest to `ratio` of the parameters went. Raises ValueError outside 0 ..
        max_ratio."""
        check_ratio(self.max_ratio, ratio)
        counts, saved = self.reachable
        removed = int(counts[np.abs(saved - ratio).argmin()])
        return self._without({name: rank >= removed for name, rank in self.rank.items()}, ratio)

    def at_channel_ratio(self, ratio: float) -> Widths:
        """Return what stays when every layer loses the share `ratio` of its channels, which the papers call a channel
        ratio, counted by the file's rule. Raises ValueError for an importance that is not of channels."""
        if not self.header.layers:
            raise ValueError("a channel ratio is for an importance of channels; make one with axis=channels")
        rule, keep = self.header.pruner.config["rule"], {}
        for dim in self.header.dims:
            count = num_removed_per_group(dim.size, dim.multiple_of, ratio, rule) * dim.multiple_of
            keep[dim.name] = ~np.isin(np.arange(dim.size), np.argsort(self.rank[dim.name])[:count])
        return self._without(keep, ratio, "channels")

    def _without(self, keep: Mapping[str, np.ndarray], asked: float, of: str = "params") -> Widths:
        header = self.header.model_copy(update={"kind": "mask"})
        reached = 1 - Widths(header, keep).params_fraction if of == "params" else asked
        ratio = RatioRecord(asked=asked, reached=reached, of=of)
        return Widths(header.model_copy(update={"ratio": ratio}), keep)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"kept": None}

    def save(self, path: str | Path) -> None:
        tensors = {f"rank/width/{name}": rank for name, rank in self.rank.items()}
        tensors |= {f"score/width/{name}": score for name, score in self.score.items()}
        write_atomic(path, tensors, {"explorer": self.header.model_dump_json()})


def rank_elements(
    keys: Mapping[str, np.ndarray], batches: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Rank the elements of all dimensions together, the lowest key first: dimension -> position, int32 (size,).

    Elements of one batch (dimension -> its number, for each element) have one key and are removed one after another.
    """
    sizes = [len(key) for key in keys.values()]
    batch = np.concatenate([batches[name] if batches else np.arange(len(key)) for name, key in keys.items()])
    order = np.lexsort((batch, np.repeat(np.arange(len(sizes)), sizes), np.concatenate(list(keys.values()))))
    positions = np.empty(len(order), dtype=np.int32)
    positions[order] = np.arange(len(order))
    return dict(zip(keys, np.split(positions, np.cumsum(sizes)[:-1]), strict=True))


def _check(header: WidthHeader, tables: Mapping[str, np.ndarray], dtype: str) -> None:
    if set(tables) != {dim.name for dim in header.dims}:
        raise ValueError("the widths are not those of the dimensions that the header names")
    for dim in header.dims:
        table = tables[dim.name]
        if table.dtype != dtype or table.shape != (dim.size,):
            raise ValueError(f"{dim.name} must be {dtype} ({dim.size},), got {table.dtype} {table.shape}")


def load_width_header(path: str | Path) -> WidthHeader:
    """Read the header of a file of widths. Raises ValueError, in one sentence, for any other file."""
    return read_header(path, WidthHeader)


def load_widths(path: str | Path) -> Widths | WidthImportance:
    """Read a file of widths. Raises ValueError, in one sentence, for any other file, and for a damaged one."""
    header = load_width_header(path)
    names, prefixes, tensors = [dim.name for dim in header.dims], PREFIXES[header.kind], read_tensors(path)
    if set(tensors) != {prefix + name for prefix in prefixes for name in names}:
        raise ValueError(f"{path}: the tensors are not those of the dimensions that the header names")
    tables = [{name: tensors[prefix + name] for name in names} for prefix in prefixes]
    return (Widths if header.kind == "mask" else WidthImportance)(header, *tables)


READERS["dims"] = load_width_header, load_widths
