"""Long work: a generator that yields its progress and returns its result. Anybody can drive it, stop it, go on."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

Outcome = TypeVar("Outcome")


class Progress(NamedTuple):
    """What is said between two pieces of work; what learns says more, and hands out the state to go on from."""

    done: int
    total: int
    message: str
    numbers: Mapping[str, float] = {}  # only read; a mapping proxy would not go from process to process
    state: Mapping[str, Any] | None = None  # named arrays, from which the same work goes on exactly; `score` (T, U)
    picture: bytes | None = None  # PNG: what the gates of the moment draw


def finished(work: Generator[Progress, None, Outcome], report: Callable[[str], None] = lambda message: None) -> Outcome:
    """What the work returns; its progress goes to `report`."""
    while True:
        try:
            step = next(work)
        except StopIteration as stop:
            return stop.value
        report(f"{step.done} of {step.total}: {step.message}")


@contextmanager
def memory_sufficing(batch: int) -> Iterator[None]:
    """Around a step of learning: what PyTorch says of memory becomes a ValueError that says what to do."""
    try:
        yield
    except RuntimeError as error:  # of which torch.OutOfMemoryError is one
        if "memory" not in f"{error}":
            raise
        raise ValueError(
            f"the memory does not suffice for {batch} pictures at once; take a smaller batch, or memory=nested"
        ) from error
