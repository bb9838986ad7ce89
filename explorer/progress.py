"""Long work is a generator that yields its progress and returns its result: any caller can drive, stop and resume
it."""

from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple, TypeVar

Outcome = TypeVar("Outcome")


class Progress(NamedTuple):
    """What a generator yields between two pieces of work. A method that learns also yields the state to resume from."""

    done: int
    total: int
    message: str
    metrics: Mapping[str, float] = {}  # only read; a mapping proxy could not be sent to another process
    state: Mapping[str, Any] | None = None  # named arrays from which the same work continues exactly; `score` (T, U)
    picture: bytes | None = None  # PNG: what the current gates generate


def run_to_completion(
    work: Generator[Progress, None, Outcome], report: Callable[[Progress], None] = lambda step: None
) -> Outcome:
    """Drive `work` to its end and return its result; `report` is called with each progress."""
    while True:
        try:
            step = next(work)
        except StopIteration as stop:
            return stop.value
        report(step)
