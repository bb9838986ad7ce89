"""The graph of a denoiser's units: which unit reads which, what a skipped one takes with it, and what all of it costs.

Everything here is decided on names and tables alone. `models.architectures` builds the graph of a network, and
`execution.supernet` runs a network under a schedule. Loads no torch.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

Granularity = Literal["stage", "layer", "module"]
Reuse = Literal["output", "residual"]
MAX_MACS = 10**15  # of a call, so that sums over a trajectory fit into 64 bits


class Extrapolation(NamedTuple):
    """How a skipped unit's value follows from cached ones: the polynomial through its last `order` + 1 computed values,
    over call indices, continued for at most `max_extrapolation` calls beyond the last of them (None: without limit)."""

    order: int = 0
    max_extrapolation: int | None = None

    @classmethod
    def of(cls, settings: Any) -> "Extrapolation":
        """Read it from a method's settings or from a file's header."""
        return cls(settings.order, settings.max_extrapolation)

    def weights(self, calls: Sequence[int], call: int) -> list[float]:
        """Compute the weights of the values of `calls`, in order, in the polynomial through them at `call`
        (Lagrange)."""
        if self.max_extrapolation is not None:
            call = min(call, calls[-1] + self.max_extrapolation)
        return [float(np.prod([(call - c) / (k - c) for c in calls if c != k])) for k in calls]


class Unit(BaseModel):
    """The smallest piece that can be skipped on its own: one column of a schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[\w. ]+$", max_length=200)  # a path in the network; pages and figures show it
    kind: Literal["stream", "branch"]  # a branch is added to a stream by its parent
    reuse: Reuse  # what a skipped unit hands back: its last output, or its input plus its last change
    macs: int = Field(default=0, ge=0, le=MAX_MACS)  # per call, one batch element, without attention products
    reads: tuple[int, ...]  # columns whose output it reads, all to its left

    @property
    def passes_input(self) -> bool:
        """Whether its input is still read when it is skipped."""
        return self.kind == "branch" or self.reuse == "residual"


class BlockGraph:
    """Units in running order. The output of the network reads the last one; the rest of the network always runs.

    The graph of a network also says where its units are, which a graph that was read from a file does not know:
    modules: for each unit the paths of the modules that make it up, in running order.
    streams: for each unit the arguments of its first module that carry its hidden states, in the order in which its
        last module returns them; empty: the first argument.
    arguments: the names under which the network takes its sample and its timestep.

    Raises ValueError if a unit reads itself or one to its right.
    """

    def __init__(
        self,
        units: Iterable[Unit],
        granularity: Granularity,
        macs_fixed: int = 0,
        modules: Iterable[tuple[str, ...]] = (),
        streams: Iterable[tuple[str, ...]] = (),
        arguments: tuple[str, str] = ("sample", "timestep"),
    ):
        self.units, self.granularity, self.macs_fixed = tuple(units), granularity, macs_fixed
        self.modules, self.arguments = tuple(modules), arguments
        self.streams = tuple(streams) or ((),) * len(self.units)
        for column, unit in enumerate(self.units):
            if any(not 0 <= read < column for read in unit.reads):
                raise ValueError(f"unit {unit.name} reads {unit.reads}, but may read only columns left of {column}")

    def with_macs(self, macs: Iterable[int], macs_fixed: int) -> "BlockGraph":
        """Copy the graph with these MACs of each unit, and of what always runs."""
        units = (unit.model_copy(update={"macs": own}) for unit, own in zip(self.units, macs, strict=True))
        return BlockGraph(units, self.granularity, macs_fixed, self.modules, self.streams, self.arguments)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(unit.name for unit in self.units)

    @property
    def macs(self) -> np.ndarray:
        """MACs of each unit, int64 (U,)."""
        return np.array([unit.macs for unit in self.units], dtype=np.int64)

    @property
    def macs_per_call(self) -> int:
        return int(self.macs.sum()) + self.macs_fixed

    def needed(self, keep: np.ndarray) -> np.ndarray:
        """Find whose output is read if `keep`, bool (T, U), runs: bool (T, U), by backward reachability from the
        output."""
        needed = np.zeros_like(keep, dtype=bool)
        needed[:, -1] = True
        for column in reversed(range(len(self.units))):
            unit = self.units[column]
            passes_on = needed[:, column] & (keep[:, column] | unit.passes_input)
            for read in unit.reads:
                needed[:, read] |= passes_on
        return needed

    def close(self, keep: np.ndarray) -> np.ndarray:
        """Apply the cascade: bool (T, U) of what really runs, because a unit that no running unit reads does not."""
        return keep & self.needed(keep)

    def cost(self, keep: np.ndarray) -> np.ndarray:
        """Count the MACs of each call, int64 (T,), under a closed `keep`, bool (T, U). A call without units is free."""
        return keep @ self.macs + self.macs_fixed * keep.any(axis=1)

    def cascade_of(self, running: np.ndarray, column: int) -> np.ndarray:
        """Find what is removed when a unit of a call is skipped in which `running`, bool (U,), runs: bool (U,), itself
        included."""
        removed = self._cascade(sum(1 << int(other) for other in np.flatnonzero(running)), int(column))
        return np.array([bool(removed >> other & 1) for other in range(len(self.units))])

    def _cascade(self, running: int, column: int) -> int:
        """Find what `cascade_of` does, with sets of units as the bits of a number: a hundred times faster for one
        call."""
        without = running & ~(1 << column)
        if self.units[column].passes_input:  # everything that it reads is still read
            return running & ~without
        needed = 1 << (len(self.units) - 1)
        for reader, reads, passes_input in self._readers:
            if needed >> reader & 1 and (passes_input or without >> reader & 1):
                needed |= reads
        return running & ~(without & needed)

    @cached_property
    def _readers(self) -> list[tuple[int, int, bool]]:
        """Each unit from the last one to the first: its column, the bits of what it reads, whether it passes it on."""
        return [
            (column, sum(1 << read for read in set(unit.reads)), unit.passes_input)
            for column, unit in reversed(list(enumerate(self.units)))
        ]

    @cached_property
    def cascades(self) -> np.ndarray:
        """Row by row, what is removed with each unit of a call that runs whole: bool (U, U)."""
        whole = np.ones(len(self.units), dtype=bool)
        return np.stack([self.cascade_of(whole, column) for column in range(len(whole))])

    def saved_macs(self, rank: np.ndarray) -> np.ndarray:
        """Compute the share of a trajectory's MACs that the first k removals of `rank` (T, U) save, k = 0 .. (T - 1)
        U."""
        order = np.argsort(rank, axis=None)[: rank.size - rank.shape[1]]
        macs = self.macs[order % rank.shape[1]]
        macs[rank[1:].max(axis=1)] += self.macs_fixed  # without its last unit a call is not entered at all
        return np.concatenate([[0.0], np.cumsum(macs)]) / (self.macs_per_call * len(rank))

    def keep_at_ratio(self, score: np.ndarray, ratio: float) -> np.ndarray:
        """Remove the prefix of the removal order of `score` (T, U) that saves nearest to `ratio`: bool (T, U)."""
        rank = self.removal_order(score)
        return rank >= int(np.abs(self.saved_macs(rank) - ratio).argmin())

    def removal_order(self, score: np.ndarray) -> np.ndarray:
        """Rank the removals, int32 (T, U): the lowest `score` (T, U) first, call 0 last of all.

        Before a unit, whatever only it reads is removed, upstream first, so that every prefix of the order is closed.
        """
        calls, units = score.shape
        running, rank = [(1 << units) - 1] * calls, np.zeros(score.shape, dtype=np.int32)
        position = 0
        for index in np.argsort(score[1:], axis=None, kind="stable").tolist():
            call, column = 1 + index // units, index % units
            if not running[call] >> column & 1:
                continue
            removed = self._cascade(running[call], column)
            running[call] &= ~removed
            while removed:  # columns are in running order, so upstream comes first
                first = (removed & -removed).bit_length() - 1
                rank[call, first], position = position, position + 1
                removed &= removed - 1
        rank[0] = np.arange(position, position + units)
        return rank
