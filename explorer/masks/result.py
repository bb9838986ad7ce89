"""What every pruning method returns: one protocol for schedules, widths and their importances. Loads no torch.

result = load("learned.safetensors")     # Mask.load and Importance.load take files of one kind only
with result.at(0.5).apply_to(model) as pruned:
    ...
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from explorer.masks.file_format import FileHeader, ModelRecord, read_document

R = TypeVar("R", bound="LoadableResult")


class PrunableModel(Protocol):
    """What a result needs of a model: `models.model.Model`, which is a layer above."""

    id: str

    @property
    def record(self) -> ModelRecord:
        """How a mask file names the model."""

    def under_schedule(self, schedule: Any, scheduler: Any) -> AbstractContextManager[Any]:
        """Enter a context whose value is a copy, with shared weights, that runs under the schedule."""

    def prune_widths(self, widths: Any) -> Any:
        """Build a smaller model."""


class Applicable(Protocol):
    """What a run is made under: a mask, an importance at a ratio, or a cache of another package."""

    def check_calls(self, model: PrunableModel, calls: int) -> None:
        """Raise ValueError where a run of `model` with so many calls cannot follow the result."""

    def apply_to(self, model: PrunableModel, scheduler: Any = None) -> AbstractContextManager[Any]:
        """Enter a context whose value is the pruned model, a `models.model.Model`.

        That is a copy, with shared weights, which runs under the schedule while `scheduler` counts its calls, or a
        smaller model. Raises ValueError for an importance, and for a model that the result was not made for.
        """


class PruningResult(Applicable, Protocol):
    """A mask (hard decisions) or an importance (a removal order that serves every ratio), of a schedule or of
    widths."""

    @property
    def prunes(self) -> Literal["schedule", "widths"]:
        """What the result leaves out: calls of units, or parts of the network."""

    @property
    def header(self) -> Any:
        """What the file says of itself: a `FileHeader`."""

    @property
    def max_ratio(self) -> float:
        """The largest ratio that can be requested."""

    @property
    def macs_fraction(self) -> float:
        """Share of the trajectory's MACs that is still computed; of an importance, that of the whole model: 1."""

    @property
    def params_fraction(self) -> float:
        """Share of the denoiser's parameters that stays; of an importance, that of the whole model: 1."""

    def at(self, ratio: float) -> Any:
        """Decide at a ratio; a mask is decided already and returns itself.

        Raises ValueError for a ratio outside 0 .. max_ratio.
        """

    def describe(self) -> dict[str, Any]:
        """List the header and what is kept as plain values, for JSON."""

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all. Raises ValueError where it cannot be written."""


class LoadableResult:
    """What masks and importances share: where they are read, and the defaults of the protocol."""

    prunes: ClassVar[Literal["schedule", "widths"]]
    other_kind: ClassVar[str]  # what is wrong with a file of the other kind
    header: Any

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Read a file of this kind. Raises ValueError, in one sentence, for any other file."""
        result = load(path)
        if not isinstance(result, cls):
            raise ValueError(f"{path} {cls.other_kind}")
        return result

    @property
    def max_ratio(self) -> float:
        return self.header.max_ratio

    @property
    def macs_fraction(self) -> float:
        return 1.0

    @property
    def params_fraction(self) -> float:
        return 1.0

    def check_calls(self, model: PrunableModel, calls: int) -> None:
        """Accept any run: widths hold for all calls."""

    def describe(self) -> dict[str, Any]:
        return self.header.model_dump(mode="json")


class Mask(LoadableResult):
    """Hard decisions: a `schedule.Schedule` or `width.Widths`."""

    other_kind = "holds an importance, not a mask; ask it for a ratio"

    def at(self: R, ratio: float) -> R:
        """Return the mask itself: it has one ratio only."""
        return self


class Importance(LoadableResult):
    """A removal order: a `schedule.ScheduleImportance` or a `width.WidthImportance`."""

    other_kind = "holds a mask, which has one ratio only; an importance is needed"

    def apply_to(self, model: PrunableModel, scheduler: Any = None) -> AbstractContextManager[Any]:
        raise ValueError("an importance serves every ratio; choose one with at(ratio) first")


# What a header lists -> functions that read the header, and the whole file. `schedule` and `width` add their row.
READERS: dict[str, tuple[Callable[[str | Path], FileHeader], Callable[[str | Path], Any]]] = {}


def load(path: str | Path) -> Any:
    """Read a file of schedules or widths. Raises ValueError, in one sentence, for any other file."""
    return READERS[_listed_in(path)][1](path)


def load_header(path: str | Path) -> Any:
    """Read the header of a file of schedules or widths. Raises ValueError, in one sentence, for any other file."""
    return READERS[_listed_in(path)][0](path)


def _listed_in(path: str | Path) -> str:
    document = read_document(path)
    return "dims" if isinstance(document, dict) and "dims" in document else "units"
