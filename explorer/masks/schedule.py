"""Schedules: which unit runs at which call, and the removal order that serves every ratio.

Everything about a file (ratios, cost, cascade) follows from it alone, without the network and without torch.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from explorer.masks.block_graph import MAX_MACS, BlockGraph, Extrapolation, Granularity, Reuse, Unit
from explorer.masks.encoding import decode_bits
from explorer.masks.file_format import (
    FORMAT,
    FileHeader,
    ModelRecord,
    PrunerRecord,
    RatioRecord,
    Text,
    check_ratio,
    provenance,
    read_header,
    read_tensors,
    write_atomic,
)
from explorer.masks.learned_coefficients import LEARNED, TENSOR, between, by_ratio, check_learned, table_of
from explorer.masks.result import READERS, Importance, Mask, PrunableModel

MAX_CALLS, MAX_UNITS = 1_000, 10_000
MAX_READS = 100_000  # of all units together
TENSORS = {"mask": {"schedule": "bool"}, "importance": {"rank/schedule": "int32", "score/schedule": "float32"}}


class ScheduleHeader(FileHeader):
    """What the file says of itself. `model`, `sampler`, `calls` and `units` are what it may be used with."""

    prunes: ClassVar[Literal["schedule"]] = "schedule"

    sampler: Text
    calls: int = Field(ge=1, le=MAX_CALLS)
    steps: int = Field(ge=1, le=MAX_CALLS)
    guidance: float = Field(ge=0, le=1000, allow_inf_nan=False)
    granularity: Granularity
    order: Literal[0, 1, 2]  # of the extrapolation
    max_extrapolation: int | None = Field(None, ge=1)  # in calls
    units: tuple[Unit, ...] = Field(min_length=1, max_length=MAX_UNITS)
    macs_fixed: int = Field(ge=0, le=MAX_MACS)

    @property
    def graph(self) -> BlockGraph:
        return BlockGraph(self.units, self.granularity, self.macs_fixed)

    @property
    def is_learned(self) -> bool:
        """Whether skipped units combine their last values by learned coefficients."""
        return LEARNED.items() <= self.pruner.config.items()

    def with_learned(self) -> "ScheduleHeader":
        """Return a header that says that there are learned coefficients."""
        pruner = self.pruner.model_copy(update={"config": self.pruner.config | LEARNED})
        return self.model_copy(update={"pruner": pruner})

    @property
    def reuse(self) -> Reuse:
        return "residual" if any(unit.reuse == "residual" for unit in self.units) else "output"

    @model_validator(mode="after")
    def _of_a_network(self) -> "ScheduleHeader":
        if not 1 <= self.macs_fixed + sum(unit.macs for unit in self.units) <= MAX_MACS:
            raise ValueError(f"a call must have between 1 and {MAX_MACS:.0e} MACs")
        if sum(len(unit.reads) for unit in self.units) > MAX_READS:
            raise ValueError(f"the units read more than {MAX_READS:,} others, which no network does")
        self.graph  # noqa: B018 (building it is the check that reads point left)
        return self

    def check_compatible(self, model_id: str, denoiser: str, calls: int, units: tuple[Unit, ...]) -> None:
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
                    f"unit {column} is {ours.name} in this file, {theirs.name} in the model; prune the model again"
                )
        if len(self.units) != len(units):
            raise ValueError(f"this file has {len(self.units)} units, the model {len(units)}; prune the model again")


@dataclass(frozen=True, eq=False)
class Schedule(Mask):
    """Hard decisions: keep (T, U) bool, closed under the cascade, call 0 all true. Raises ValueError otherwise.

    coefficients: float64 (N, m + 1), by which skipped units combine their last m values instead of a polynomial; see
    `learned_coefficients`.
    """

    prunes: ClassVar[Literal["schedule"]] = "schedule"

    header: ScheduleHeader
    keep: np.ndarray
    coefficients: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_schedule(self.header.graph, self.keep, self.header.calls)
        learned = {} if self.coefficients is None else {1.0: (self.keep, self.coefficients)}
        check_learned(self.header.graph, self.header.is_learned, learned)

    @property
    def macs_fraction(self) -> float:
        graph = self.header.graph
        return float(graph.cost(self.keep).sum() / (graph.macs_per_call * self.header.calls))

    def with_reached_ratio(self, asked: float | None) -> "Schedule":
        """Return the same schedule, with the requested and the actual ratio in its header."""
        ratio = RatioRecord(asked=asked, reached=min(1.0, max(0.0, 1 - self.macs_fraction)), of="macs")
        return replace(self, header=self.header.model_copy(update={"kind": "mask", "ratio": ratio}))

    def with_manual_keep(self, text: str) -> "Schedule":
        """Replace the decisions by those that `encoding.encode_bits` wrote, closed, call 0 whole; what was learned for
        others is dropped.

        Raises ValueError for text that is no schedule of this shape.
        """
        keep = decode_bits(text, self.keep.shape)
        keep[0] = True
        record = PrunerRecord(name="manual", config=_without_learned(self.header))  # of what was edited
        header = self.header.model_copy(update={"pruner": record, **provenance()})
        return Schedule(header, self.header.graph.close(keep)).with_reached_ratio(None)

    def with_extrapolation(self, extrapolation: Extrapolation) -> "Schedule":
        """Return the same decisions, extrapolated by a polynomial."""
        config = _without_learned(self.header) | extrapolation._asdict()
        pruner = self.header.pruner.model_copy(update={"config": config})
        return Schedule(self.header.model_copy(update={**extrapolation._asdict(), "pruner": pruner}), self.keep)

    def coefficient_table(self) -> np.ndarray | None:
        """Return the coefficients in their places, (T, U + 1, m + 1). Raises ValueError for those of another
        schedule."""
        return None if self.coefficients is None else table_of(self.header.graph, self.keep, self.coefficients)

    def with_coefficients(self, coefficients: np.ndarray) -> "Schedule":
        """Return the same decisions, extrapolated by coefficients (N, m + 1)."""
        return replace(self, header=self.header.with_learned(), coefficients=coefficients)

    def check_calls(self, model: PrunableModel, calls: int) -> None:
        self.header.check_compatible(model.id, model.record.denoiser, calls, self.header.units)

    def apply_to(self, model: PrunableModel, scheduler: Any = None) -> AbstractContextManager[Any]:
        return model.under_schedule(self, scheduler)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"kept": self.macs_fraction}

    def save(self, path: str | Path) -> None:
        tensors = {"schedule": self.keep} | ({} if self.coefficients is None else {TENSOR: self.coefficients})
        write_atomic(path, tensors, {"explorer": self.header.model_dump_json()})


@dataclass(frozen=True, eq=False)
class ScheduleImportance(Importance):
    """A removal order that is built once: rank (T, U) int32, and the scores it came from; `at(ratio)` is a schedule.

    coefficients: those that were learned for its schedules, by their ratios.
    """

    prunes: ClassVar[Literal["schedule"]] = "schedule"

    header: ScheduleHeader
    rank: np.ndarray
    score: np.ndarray
    coefficients: Mapping[float, np.ndarray] = field(default_factory=dict)

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
        check_learned(self.header.graph, self.header.is_learned, self._learned)

    @cached_property
    def saved_macs(self) -> np.ndarray:
        """Share of the trajectory's MACs that the first k removals save, for k = 0 .. (T - 1) U."""
        return self.header.graph.saved_macs(self.rank)

    @property
    def removal_ratio(self) -> np.ndarray:
        """float (T, U): the ratio at which each unit is removed; 1 at call 0, which stays."""
        first = np.concatenate([self.saved_macs[1:], np.ones(self.rank.shape[1])])
        return first[self.rank]

    def at(self, ratio: float) -> Schedule:
        """Return the schedule whose saved share of MACs is nearest to `ratio`. Raises ValueError outside 0 ..
        max_ratio."""
        check_ratio(self.max_ratio, ratio)
        keep = self._keep_at(ratio)
        if not self.coefficients:
            return Schedule(self.header, keep).with_reached_ratio(ratio)
        found = between(self.header.graph, keep, Extrapolation.of(self.header), self._learned, ratio)
        return Schedule(self.header, keep, found).with_reached_ratio(ratio)

    @property
    def _learned(self) -> dict[float, tuple[np.ndarray, np.ndarray]]:
        return {ratio: (self._keep_at(ratio), rows) for ratio, rows in self.coefficients.items()}

    def _keep_at(self, ratio: float) -> np.ndarray:
        saved = self.saved_macs
        reachable = saved[saved <= self.max_ratio + 1e-9]
        return self.rank >= int(np.abs(reachable - ratio).argmin())

    def with_coefficients(self, coefficients: Mapping[float, np.ndarray]) -> "ScheduleImportance":
        """Return the same order, with coefficients for its schedules at some ratios."""
        return replace(self, header=self.header.with_learned(), coefficients=coefficients)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"kept": None}

    def save(self, path: str | Path) -> None:
        tensors = {"rank/schedule": self.rank, "score/schedule": self.score}
        tensors |= {f"{TENSOR}/{ratio:.4f}": found for ratio, found in self.coefficients.items()}
        write_atomic(path, tensors, {"explorer": self.header.model_dump_json()})


def _without_learned(header: ScheduleHeader) -> dict[str, Any]:
    return {name: value for name, value in header.pruner.config.items() if name not in LEARNED}


def check_schedule(graph: BlockGraph, keep: np.ndarray, calls: int) -> None:
    """Raise ValueError unless `keep` is a schedule: bool (calls, U), row 0 all true, closed under the cascade."""
    if keep.dtype != bool or keep.shape != (calls, len(graph.units)):
        raise ValueError(f"a schedule must be bool {(calls, len(graph.units))}, got {keep.dtype} {keep.shape}")
    if not keep[0].all():
        raise ValueError("row 0 of the schedule must be all true: the first call has nothing to reuse")
    if not np.array_equal(graph.close(keep), keep):
        call, column = np.argwhere(graph.close(keep) != keep)[0]
        raise ValueError(f"call {call} computes {graph.names[column]}, which no unit reads; close the schedule first")


def load_schedule_header(path: str | Path) -> ScheduleHeader:
    """Read the header of a file of schedules. Raises ValueError, in one sentence, for any other file."""
    return read_header(path, ScheduleHeader)


def load_schedule(path: str | Path) -> Schedule | ScheduleImportance:
    """Read a file of schedules. Raises ValueError, in one sentence, for any other file, and for a damaged one."""
    header = load_schedule_header(path)
    wanted, tensors = TENSORS[header.kind], read_tensors(path)
    place = TENSOR if header.kind == "mask" else f"{TENSOR}/"
    learned = {name: tensors.pop(name) for name in list(tensors) if name[: len(TENSOR) + 1] == place}
    if set(tensors) != set(wanted):
        raise ValueError(f"{path}: a schedule's {header.kind} holds {sorted(wanted)}, not {list(tensors)}")
    for name, dtype in wanted.items():
        if tensors[name].dtype != dtype:
            raise ValueError(f"{path}: {name} must be {dtype}, not {tensors[name].dtype}")
    if header.kind == "mask":
        return Schedule(header, tensors["schedule"], learned.get(TENSOR))
    return ScheduleImportance(header, tensors["rank/schedule"], tensors["score/schedule"], by_ratio(learned))


READERS["units"] = load_schedule_header, load_schedule


def new_header(model: ModelRecord, graph: BlockGraph, config: Any, pruner: PrunerRecord, calls: int) -> ScheduleHeader:
    """Make the header of a fresh schedule: what it is for, when and with what it is made.

    config: the settings of a method for schedules.
    """
    fields = ("sampler", "steps", "guidance", "seed", "order", "max_extrapolation")
    return ScheduleHeader(
        format=FORMAT,
        kind="mask",
        model=model,
        pruner=pruner,
        units=graph.units,
        **{name: getattr(config, name) for name in fields},
        calls=calls,
        granularity=graph.granularity,
        macs_fixed=graph.macs_fixed,
        max_ratio=1 - 1 / calls,
        ratio=RatioRecord(asked=None, reached=None, of="macs"),
        **provenance(),
    )
