"""What every executor has in common: its interface, its errors, and the messages in which a run reports.

    for item in executor.run(owner, tasks.compare, request):    # items as they come
        ...
    executor.stop(owner)                                         # from another thread

A task is a generator function of a module, because it is sent to other processes by name. An owner (a visitor, a job)
has one run of a task at a time: the newest one ends the one before. What a task raises as a user's error arrives as
ValueError.
"""

import traceback
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any, Generic, Literal, Protocol, TypeVar

from explorer.errors import format_error
from explorer.jobs.executors.turns import Turns

MAX_CONCURRENT = 2  # runs that compute at a time; each brings OpenMP threads of its own, see `ui.threads_per_picture`
SHORT_TASKS = ("plan", "describe_model", "describe_architecture")  # that have a lane of their own, and need no GPU

Task = Callable[..., Iterator[Any]]
RunTask = Callable[..., Iterator[Any]]  # an executor's `run`, for one owner
Kind = Literal["item", "done", "user_error", "internal_error", "worker_lost"]
Message = tuple[Kind, Any]
R = TypeVar("R")


class WorkerLostError(ValueError):
    """The process that ran the task is lost: the caller may try again."""


class SchedulerUnreachableError(WorkerLostError):
    """There is no scheduler at present."""


class Executor(Protocol):
    """What runs the tasks of the page."""

    def run(self, owner: str, task: Task, *arguments: Any, address: str = "") -> Iterator[Any]:
        """Yield items as they come. The runs of one network address together have as many turns as those of another.

        Raises ValueError for a user's error, WorkerLostError where the process that ran the task is lost, and
        RuntimeError with a traceback for an error of ours.
        """

    def stop(self, owner: str) -> None:
        """End all runs of an owner."""

    def is_busy(self, owner: str, task: Task) -> bool:
        """Say whether the owner has such a run."""

    def close(self) -> None:
        """End all runs, and what was started for them."""


class NewestRuns(Generic[R]):
    """The newest run of each owner and task; a new one ends the one before."""

    def __init__(self, end: Callable[[R], None]):
        self._end, self._lock = end, Lock()
        self._runs: dict[tuple[str, str], R] = {}

    def begin(self, owner: str, task: Task, run: R) -> None:
        """Make `run` the newest one and end the one before."""
        with self._lock:
            before = self._runs.get((owner, task.__name__))
            self._runs[owner, task.__name__] = run
        if before is not None:
            self._end(before)

    def remove(self, run: R) -> None:
        """Forget a run that has ended."""
        with self._lock:
            self._runs = {key: newest for key, newest in self._runs.items() if newest is not run}

    def stop(self, owner: str) -> None:
        """End all runs of an owner."""
        with self._lock:
            runs = [run for (whose, _), run in self._runs.items() if whose == owner]
            self._runs = {key: run for key, run in self._runs.items() if key[0] != owner}
        for run in runs:
            self._end(run)

    def has(self, owner: str, task: Task) -> bool:
        return (owner, task.__name__) in self._runs

    def is_newest(self, run: R) -> bool:
        return any(newest is run for newest in list(self._runs.values()))


class BaseExecutor(Generic[R]):
    """What executors share: the newest run of each owner and task. `end` ends a run."""

    def __init__(self, end: Callable[[R], None]):
        self._runs: NewestRuns[R] = NewestRuns(end)

    def stop(self, owner: str) -> None:
        self._runs.stop(owner)

    def close(self) -> None:
        """End what was started for the runs: nothing, where they are threads of this process."""

    def is_busy(self, owner: str, task: Task) -> bool:
        return self._runs.has(owner, task)


class Lanes:
    """Where the tasks of one process take their turns."""

    def __init__(self) -> None:
        self._short, self._long = Turns(1), Turns(MAX_CONCURRENT)

    def of(self, task: Task) -> Turns:
        return self._short if task.__name__ in SHORT_TASKS else self._long


def to_messages(task: Task, arguments: tuple[Any, ...]) -> Iterator[Message]:
    """Run a task and turn what it yields or raises into messages, which `from_messages` turns back."""
    try:
        for item in task(*arguments):
            yield "item", item
        yield "done", None
    except WorkerLostError as error:
        yield "worker_lost", f"{error}"
    except ValueError as error:
        yield "user_error", format_error(error)
    except Exception:  # noqa: BLE001 -- an error of ours is reported where the page keeps its log
        yield "internal_error", traceback.format_exc()


def from_messages(receive: Callable[[], Message]) -> Iterator[Any]:
    """Yield the items that `receive` returns as messages, until one says that all is done or what went wrong."""
    errors = {"user_error": ValueError, "worker_lost": WorkerLostError, "internal_error": RuntimeError}
    while True:
        kind, value = receive()
        if kind == "item":
            yield value
        elif kind == "done":
            return
        else:
            raise errors[kind](value)
