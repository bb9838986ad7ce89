"""Schedules, masks and importances, and their file.

Everything about a file (ratios, cost, cascade) follows from it alone, without the network and without torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator
from safetensors import safe_open

from explorer.files import (
    ModelRecord,
    Origin,
    PrunerRecord,
    RatioRecord,
    Text,
    document_of,
    refuse_beyond,
    stamped,
    write_whole,
)
from explorer.graph import MAX_MACS, BlockGraph, Forecast, Granularity, Reuse, Unit
from explorer.letters import unpacked

MAX_CALLS, MAX_UNITS = 1_000, 10_000
MAX_READS = 100_000  # of all units together


class Header(Origin):
    """What the file says of itself. `model`, `sampler`, `calls` and `units` are what it may be used with."""

    sampler: Text
    calls: int = Field(ge=1, le=MAX_CALLS)
    steps: int = Field(ge=1, le=MAX_CALLS)
    guidance: float = Field(ge=0, le=1000, allow_inf_nan=False)
    granularity: Granularity
    order: Literal[0, 1, 2]
    reach: int | None = Field(None, ge=1)  # of extrapolation, in calls
    units: tuple[Unit, ...] = Field(min_length=1, max_length=MAX_UNITS)
    macs_fixed: int = Field(ge=0, le=MAX_MACS)

    @property
    def graph(self) -> BlockGraph:
        return BlockGraph(self.units, self.granularity, self.macs_fixed)

    @property
    def reuse(self) -> Reuse:
        return "residual" if any(unit.reuse == "residual" for unit in self.units) else "output"

    @model_validator(mode="after")
    def _of_a_network(self) -> "Header":
        if not 1 <= self.macs_fixed + sum(unit.macs for unit in self.units) <= MAX_MACS:
            raise ValueError(f"a call must have between 1 and {MAX_MACS:.0e} MACs")
        if sum(len(unit.reads) for unit in self.units) > MAX_READS:
            raise ValueError(f"the units read more than {MAX_READS:,} others, which no network does")
        self.graph  # noqa: B018 (building it is the check that reads point left)
        return self

    def refuse_unless(self, model_id: str, denoiser: str, calls: int, units: tuple[Unit, ...]) -> None:
        """Raise ValueError naming the first thing in which the model at hand differs from this file's."""
        if self.model.id != model_id:
            raise ValueError(f"this file is for the model {self.model.id}, not {model_id}; prune {model_id} itself")
        if self.model.denoiser != denoiser:
            raise ValueError(f"this file is for a {self.model.denoiser}, the model at hand has a {denoiser}")
        if self.calls != calls:
            raise ValueError(
                f"this file schedules {self.calls} calls ({self.sampler}, {self.steps} steps), "
                f"the sampler at hand makes {calls}; use the same sampler and steps, or prune for them"
            )
        for column, (ours, theirs) in enumerate(zip(self.units, units, strict=False)):
            if (ours.name, ours.kind, ours.reuse, ours.reads) != (theirs.name, theirs.kind, theirs.reuse, theirs.reads):
                raise ValueError(
                    f"unit {column} is {ours.name} in this file, {theirs.name} in the model; prune it anew"
                )
        if len(self.units) != len(units):
            raise ValueError(f"this file has {len(self.units)} units, the model {len(units)}; prune it anew")


@dataclass(frozen=True, eq=False)
class Mask:
    """Hard decisions: keep (T, U) bool, closed under the cascade, call 0 all true. Raises ValueError otherwise."""

    header: Header
    keep: np.ndarray

    def __post_init__(self) -> None:
        check_schedule(self.header.graph, self.keep, self.header.calls)

    @property
    def kept(self) -> float:
        """Share of the trajectory's MACs that is still computed."""
        graph = self.header.graph
        return float(graph.cost(self.keep).sum() / (graph.macs_per_call * self.header.calls))

    def reached(self, asked: float | None) -> "Mask":
        """The same mask, its header saying which ratio was asked for and which it has."""
        ratio = RatioRecord(asked=asked, reached=min(1.0, max(0.0, 1 - self.kept)), of="macs")
        return Mask(self.header.model_copy(update={"kind": "mask", "ratio": ratio}), self.keep)

    def by_hand(self, text: str) -> "Mask":
        """The schedule that `letters.packed` wrote, closed, call 0 whole. Raises ValueError for other letters."""
        keep = unpacked(text, self.keep.shape)
        keep[0] = True
        pruner = PrunerRecord(name="by hand", config=self.header.pruner.config)
        header = self.header.model_copy(update={"pruner": pruner})
        return Mask(header, self.header.graph.close(keep)).reached(None)

    def forecasting(self, forecast: Forecast) -> "Mask":
        """The same decisions, extrapolated in another way."""
        config = self.header.pruner.config | forecast._asdict()
        pruner = self.header.pruner.model_copy(update={"config": config})
        return Mask(self.header.model_copy(update={**forecast._asdict(), "pruner": pruner}), self.keep)

    def save(self, path: str | Path) -> None:
        write_whole(path, {"schedule": self.keep}, {"explorer": self.header.model_dump_json()})

    @classmethod
    def load(cls, path: str | Path) -> "Mask":
        loaded = load(path)
        if not isinstance(loaded, cls):
            raise ValueError(f"{path} holds an importance, not a mask; ask it for a ratio")
        return loaded


@dataclass(frozen=True, eq=False)
class Importance:
    """A removal order built once: rank (T, U) int32, and the scores it came from. `at(ratio)` makes the mask."""

    header: Header
    rank: np.ndarray
    score: np.ndarray

    def __post_init__(self) -> None:
        shape = (self.header.calls, len(self.header.units))
        if self.rank.shape != shape or self.score.shape != shape:
            raise ValueError(f"rank and score must be {shape}, got {self.rank.shape} and {self.score.shape}")
        if not np.array_equal(np.sort(self.rank, axis=None), np.arange(self.rank.size)):
            raise ValueError("rank is not an order: each position from 0 must appear exactly once")
        if self.rank[0].min() < self.rank.size - len(self.header.units):
            raise ValueError("rank removes call 0, which has nothing to reuse")
        if not np.isfinite(self.score).all():
            raise ValueError("score holds values that are not finite")

    @property
    def saved(self) -> np.ndarray:
        """Share of the trajectory's MACs that the first k removals save, for k = 0 .. (T - 1) U."""
        return self.header.graph.saved(self.rank)

    @property
    def goes(self) -> np.ndarray:
        """float (T, U): the ratio at which each unit goes; 1 at call 0, which stays."""
        first = np.concatenate([self.saved[1:], np.ones(self.rank.shape[1])])
        return first[self.rank]

    def at(self, ratio: float) -> Mask:
        """The mask whose saved share of MACs is nearest to `ratio`. Raises ValueError outside 0 .. max_ratio."""
        largest = self.header.max_ratio
        refuse_beyond(largest, ratio)
        saved = self.saved
        reachable = saved[saved <= largest + 1e-9]
        removed = int(np.abs(reachable - ratio).argmin())
        return Mask(self.header, self.rank >= removed).reached(ratio)

    def save(self, path: str | Path) -> None:
        tensors = {"rank/schedule": self.rank, "score/schedule": self.score}
        write_whole(path, tensors, {"explorer": self.header.model_dump_json()})

    @classmethod
    def load(cls, path: str | Path) -> "Importance":
        loaded = load(path)
        if not isinstance(loaded, cls):
            raise ValueError(f"{path} holds a mask, which has one ratio only; an importance is needed")
        return loaded


Result = Mask | Importance


def check_schedule(graph: BlockGraph, keep: np.ndarray, calls: int) -> None:
    """Raise ValueError unless `keep` is a schedule: bool (calls, U), row 0 all true, closed under the cascade."""
    if keep.dtype != bool or keep.shape != (calls, len(graph.units)):
        raise ValueError(f"a schedule must be bool {(calls, len(graph.units))}, got {keep.dtype} {keep.shape}")
    if not keep[0].all():
        raise ValueError("row 0 of the schedule must be all true: the first call has nothing to reuse")
    if not np.array_equal(graph.close(keep), keep):
        call, column = np.argwhere(graph.close(keep) != keep)[0]
        raise ValueError(f"call {call} computes {graph.names[column]}, which nobody reads; close the schedule first")


def header_of(path: str | Path) -> Header:
    """The header of a file, without loading tensors. Raises ValueError with one sentence for a file that is no mask."""
    return document_of(path, Header)


def load(path: str | Path) -> Result:
    """Read a mask or importance file. Raises ValueError, in one sentence, for anything that is not a sound one."""
    header = header_of(path)
    wanted = {"mask": {"schedule": "bool"}, "importance": {"rank/schedule": "int32", "score/schedule": "float32"}}
    with safe_open(path, framework="numpy") as file:
        if set(file.keys()) != set(wanted[header.kind]):
            raise ValueError(f"{path}: a schedule {header.kind} holds {sorted(wanted[header.kind])}, not {file.keys()}")
        tensors = {name: file.get_tensor(name) for name in wanted[header.kind]}
    for name, dtype in wanted[header.kind].items():
        if tensors[name].dtype != dtype:
            raise ValueError(f"{path}: {name} must be {dtype}, not {tensors[name].dtype}")
    return (Mask if header.kind == "mask" else Importance)(header, *tensors.values())


def made_for(model: ModelRecord, graph: BlockGraph, config: Any, pruner: PrunerRecord, calls: int) -> Header:
    """The header of a fresh mask: what it was made for, when and with what. `config` has a schedule's settings."""
    return Header(
        format=1,
        kind="mask",
        model=model,
        pruner=pruner,
        units=graph.units,
        **{name: getattr(config, name) for name in ("sampler", "steps", "guidance", "seed", "order", "reach")},
        calls=calls,
        granularity=graph.granularity,
        macs_fixed=graph.macs_fixed,
        max_ratio=1 - 1 / calls,
        ratio=RatioRecord(asked=None, reached=None, of="macs"),
        **stamped(),
    )
