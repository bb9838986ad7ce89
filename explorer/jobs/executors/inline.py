"""Runs tasks in the thread of the caller: for tests, and for ZeroGPU hosts."""

from collections.abc import Callable, Iterator
from typing import Any

from explorer.jobs.executors.base import BaseExecutor, Lanes, Task


def run_here(task: Task, arguments: tuple[Any, ...]) -> Iterator[Any]:
    """Run a task in this thread."""
    yield from task(*arguments)


class InlineExecutor(BaseExecutor[object]):
    """Runs tasks in the caller's thread; `run_task` runs a task and yields its items."""

    def __init__(self, run_task: Callable[[Task, tuple[Any, ...]], Iterator[Any]] = run_here) -> None:
        self._run_task = run_task
        self._lanes = Lanes()
        super().__init__(end=lambda run: None)  # a run checks between two items whether it was ended

    def run(self, owner: str, task: Task, *arguments: Any, address: str = "") -> Iterator[Any]:
        run = object()
        self._runs.begin(owner, task, run)
        items = self._run_task(task, arguments)
        try:
            for item in self._lanes.of(task).share(items, address, lambda: self._runs.is_newest(run)):
                if not self._runs.is_newest(run):
                    return
                yield item
        finally:
            self._runs.remove(run)
