"""Runs each task in a process of its own, which can be ended at any moment, may crash, and may use so much memory only.

Jobs run like this, on the page's machine and on the workers of a scheduler.
"""

from collections.abc import Iterator
from threading import Event, Lock, Thread
from typing import Any

import psutil

from explorer.jobs.executors.base import BaseExecutor, Task
from explorer.jobs.executors.process import ProcessExecutor
from explorer.models.memory import run_memory
from explorer.settings import settings

CHECK_INTERVAL_S = 0.2  # between two checks of the memory of a run


class OwnProcessExecutor(BaseExecutor["_OwnProcess"]):
    """Runs tasks that take long, each in a process of its own. `stop` ends a run at once.

    memory: bytes that a run may use; default: `run_memory`. device: as for `ProcessExecutor`.
    """

    def __init__(self, memory: int | None = None, device: str = ""):
        self._memory, self._device, self._closed = memory or run_memory(), device, False
        super().__init__(lambda run: run.end())

    def run(self, owner: str, task: Task, *arguments: Any, address: str = "") -> Iterator[Any]:
        if self._closed:
            return
        run = _OwnProcess(ProcessExecutor(nice=settings().jobs_nice, device=self._device), self._memory)
        self._runs.begin(owner, task, run)
        try:
            yield from run.items(owner, task, arguments)
        finally:
            self._runs.remove(run)
            run.end()

    def close(self) -> None:
        """Start no more processes."""
        self._closed = True


class _OwnProcess:
    """A process and the one task that it runs."""

    def __init__(self, process: ProcessExecutor, memory: int):
        self._process, self._memory, self._lock, self._over = process, memory, Lock(), Event()
        self._owner, self._exceeded = "", False

    def items(self, owner: str, task: Task, arguments: tuple[Any, ...]) -> Iterator[Any]:
        """Yield the items of the task. Raises ValueError where it used more memory than it may."""
        with self._lock:
            if self._over.is_set():  # it was stopped before it began
                return
            self._owner, run = owner, self._process.begin(owner, task, arguments)
        Thread(target=self._watch, daemon=True).start()
        try:
            yield from self._process.items(run)
        except ValueError as error:
            if self._exceeded:
                raise ValueError(memory_error(self._memory)) from error
            raise

    def end(self) -> None:
        """Have the caller wait no longer, and kill the process."""
        with self._lock:
            self._over.set()
            self._process.stop(self._owner)
            self._process.close()

    def _watch(self) -> None:
        while not self._over.wait(CHECK_INTERVAL_S):
            if process_memory(self._process.pid) > self._memory:
                self._exceeded = True
                self._process.close()
                return


def memory_error(memory: int) -> str:
    """Describe what to do where a run used more than `memory` bytes."""
    return f"it used more than {memory / 2**30:.1f} GB of memory; use a smaller batch"


def process_memory(pid: int | None) -> int:
    """Count the bytes that a process and those that it started use; 0 for none."""
    try:
        family = [process := psutil.Process(pid), *process.children(recursive=True)] if pid else []
        return sum(member.memory_info().rss for member in family)
    except psutil.NoSuchProcess:
        return 0
