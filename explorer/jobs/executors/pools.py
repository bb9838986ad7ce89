"""Teams of several: processes of this machine, or workers of a scheduler, each with the model.

    with Processes(2, "emoji-unet") as team:
        mask = finished(prune(model, "genetic", config, team=team))     # config.brood at least 2

Whoever is free takes the next item. Where a process is lost, another one takes its place and its item.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from queue import SimpleQueue
from threading import Event
from typing import Any
from uuid import uuid4

from explorer.jobs.cluster import Cluster
from explorer.jobs.executors import Executor, LostError, OneProcess
from explorer.jobs.works import Errand
from explorer.team import Crew, Make, Team

LOSSES = 3  # of processes by one item: then it is the item's fault


class _Several(ABC):
    """A team (`team.Team`): each member is an executor and whom it works for, and has one piece at a time. The model is
    loaded where the first piece is done."""

    def __init__(self, members: Sequence[tuple[Executor, str]], *subject: str):
        if not members:
            raise ValueError("a team has at least one worker, got 0")
        self.size, self._subject, self._closed = len(members), subject, False
        self._members = members
        self._free: SimpleQueue[tuple[Executor, str]] = SimpleQueue()
        for member in members:
            self._free.put(member)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End all of them, whatever they are at."""
        self._closed = True
        self._end()

    @abstractmethod
    def _end(self) -> None:
        """End what the members are at, and leave them for the next items."""

    def crew(self, make: Make, *given: Any) -> Crew:
        """Raises, when its answers are taken, ValueError for a user's mistake, and LostError where an item has taken
        too many processes along: that of the first item to fail."""
        return partial(self._answers, Errand(uuid4().hex, make, given))

    def _answers(self, errand: Errand, items: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        pool, over = ThreadPoolExecutor(self.size), Event()
        try:
            yield from pool.map(partial(self._answer, errand, over), items)
        except BaseException:  # nobody wants the other answers any more
            over.set()
            self._end()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _answer(self, errand: Errand, over: Event, item: tuple[Any, ...]) -> Any:
        executor, owner = member = self._free.get()
        try:
            said = ""
            for _ in range(LOSSES):
                if over.is_set() or self._closed:
                    raise LostError("nobody waits for it any more")
                try:
                    for answer in list(executor.run(owner, "piece", self._subject, errand, item)):
                        return answer
                except LostError as error:
                    said = f" ({error})"
            raise LostError(
                f"{LOSSES} workers in a row were lost with the same piece{said}; is the memory enough for {self.size}?"
            )
        finally:
            self._free.put(member)


class Processes(_Several):
    """Processes of this machine.

    OMP_NUM_THREADS says how many threads each has; without it they share the cores. Sums of other threads have another
    order, so answers are the same to the last bit where that number is.
    """

    def __init__(self, size: int, model: str, device: str = "", dtype: str = "float32"):
        threads = max(1, (os.cpu_count() or 1) // max(1, size))
        self._all = [OneProcess(threads=threads) for _ in range(size)]
        super().__init__([(process, "team") for process in self._all], model, device, dtype)

    @property
    def pids(self) -> list[int]:
        """Of the processes that have been needed so far."""
        return [process.pid for process in self._all if process.pid is not None]

    def _end(self) -> None:
        for process in self._all:
            process.close()


class Machines(_Several):
    """So many pieces at a time for the workers of a scheduler (`jobs work`), each of which has one at a time."""

    def __init__(self, size: int, address: str, model: str, device: str = "", dtype: str = "float32"):
        self._cluster, name = Cluster(address), uuid4().hex
        members = [(self._cluster, f"{name}-{number}") for number in range(size)]
        super().__init__(members, model, device, dtype)

    def close(self) -> None:
        super().close()
        self._cluster.close()

    def _end(self) -> None:
        for cluster, owner in self._members:
            cluster.stop(owner)


def hired(size: int, model: str, device: str = "", dtype: str = "float32") -> AbstractContextManager[Team | None]:
    """A team of several for as long as it is needed, of the scheduler EXPLORER_SCHEDULER or else of this machine; none
    of one, for whoever asks is one already."""
    if size <= 1:
        return nullcontext()
    address = os.environ.get("EXPLORER_SCHEDULER")
    return Machines(size, address, model, device, dtype) if address else Processes(size, model, device, dtype)
