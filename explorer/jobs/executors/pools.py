"""Worker pools of several processes of this machine, or of the workers of a scheduler, each with the model.

    with ProcessPool(2, "emoji-unet") as pool:
        mask = run_to_completion(prune(model, "genetic", config, pool=pool))     # config.candidates_per_round at least
        2

Any free worker takes the next item. Where a process is lost, another one takes its place and its item.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache, partial
from queue import SimpleQueue
from threading import Event
from typing import Any
from uuid import uuid4

from explorer.experiment import load_cached
from explorer.jobs.executors.base import Executor, WorkerLostError
from explorer.jobs.executors.dask import DaskExecutor
from explorer.jobs.executors.process import ProcessExecutor
from explorer.pruners.worker_pool import MapFn, TaskFactory, WorkerPool

MAX_LOSSES = 3  # of processes with one item: then it is the item's fault
Subject = tuple[str, str, str, str, bool]  # a model, its device, its dtype, the variant of its weights, offload


@dataclass(frozen=True)
class BoundTask:
    """A task factory and its arguments; the same id means the same task."""

    id: str
    factory: TaskFactory = field(compare=False)
    given: tuple[Any, ...] = field(compare=False)


@lru_cache(maxsize=2)  # a search has two at most: its steps, and its validation
def _bind(task: BoundTask, *subject: Any) -> Callable[..., Any]:
    return task.factory(load_cached(*subject), *task.given)


def answer_item(subject: Subject, task: BoundTask, item: tuple[Any, ...]) -> Iterator[Any]:
    """Yield the answer to one item: the task of a pool's workers. See `pruners.worker_pool`."""
    yield _bind(task, *subject)(*item)


class _ExecutorPool(ABC):
    """A pool whose workers are executors, each with the owner that it works for, and one item at a time. The model is
    loaded with the first item."""

    def __init__(self, workers: Sequence[tuple[Executor, str]], *subject: Any):
        if not workers:
            raise ValueError("a pool has at least one worker, got 0")
        self.size, self._subject, self._closed = len(workers), subject, False
        self._workers = workers
        self._free: SimpleQueue[tuple[Executor, str]] = SimpleQueue()
        for worker in workers:
            self._free.put(worker)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        self._closed = True
        self._end_runs()

    @abstractmethod
    def _end_runs(self) -> None:
        """End what the workers are doing, and leave them for the next items."""

    def bind(self, factory: TaskFactory, *given: Any) -> MapFn:
        """Bind a task. Its answers raise ValueError for a user's error, and WorkerLostError where an item has taken too
        many processes with it: that of the first item to fail."""
        return partial(self._answers, BoundTask(uuid4().hex, factory, given))

    def _answers(self, task: BoundTask, items: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        threads, over = ThreadPoolExecutor(self.size), Event()
        try:
            yield from threads.map(partial(self._answer, task, over), items)
        except BaseException:  # the other answers are no longer needed
            over.set()
            self._end_runs()
            raise
        finally:
            threads.shutdown(cancel_futures=True)

    def _answer(self, task: BoundTask, over: Event, item: tuple[Any, ...]) -> Any:
        executor, owner = worker = self._free.get()
        try:
            reason = ""
            for _ in range(MAX_LOSSES):
                if over.is_set() or self._closed:
                    raise WorkerLostError("the answer is no longer needed")
                try:
                    for answer in list(executor.run(owner, answer_item, self._subject, task, item)):
                        return answer
                except WorkerLostError as error:
                    reason = f" ({error})"
            raise WorkerLostError(
                f"{MAX_LOSSES} workers in a row were lost with the same item{reason}; "
                f"is the memory enough for {self.size}?"
            )
        finally:
            self._free.put(worker)


class ProcessPool(_ExecutorPool):
    """Processes of this machine.

    OMP_NUM_THREADS says how many threads each has; without it they share the cores. Sums over other numbers of threads
    have another order, so answers are the same to the last bit where that number is.
    """

    def __init__(self, size: int, *subject: Any):
        threads = max(1, (os.cpu_count() or 1) // max(1, size))
        self._processes = [ProcessExecutor(threads=threads) for _ in range(size)]
        super().__init__([(process, "pool") for process in self._processes], *subject)

    @property
    def pids(self) -> list[int]:
        """Of the processes that have been needed so far."""
        return [process.pid for process in self._processes if process.pid is not None]

    def _end_runs(self) -> None:
        for process in self._processes:
            process.close()


class DaskPool(_ExecutorPool):
    """So many items at a time for the workers of a scheduler (`jobs worker`), each of which has one at a time."""

    def __init__(self, size: int, address: str, *subject: Any):
        self._executor, name = DaskExecutor(address), uuid4().hex
        workers = [(self._executor, f"{name}-{number}") for number in range(size)]
        super().__init__(workers, *subject)

    def close(self) -> None:
        super().close()
        self._executor.close()

    def _end_runs(self) -> None:
        for executor, owner in self._workers:
            executor.stop(owner)


def worker_pool(
    size: int,
    scheduler: str,
    model: str,
    device: str = "",
    dtype: str = "float32",
    variant: str = "",
    offload: bool = False,
) -> AbstractContextManager[WorkerPool | None]:
    """Make a pool of several workers for as long as it is needed, of a scheduler if there is one or else of this
    machine; None for one worker, because the calling process is one already."""
    if size <= 1:
        return nullcontext()
    subject = (model, device, dtype, variant, offload)
    return DaskPool(size, scheduler, *subject) if scheduler else ProcessPool(size, *subject)
