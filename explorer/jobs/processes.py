"""A team of several processes of this machine, each with the model.

    with Processes(2, "emoji-unet") as team:
        mask = finished(prune(model, "genetic", config, team=team))     # config.brood at least 2

Whoever is free takes the next item. Where a process is lost, another one takes its place and its item.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from queue import SimpleQueue
from threading import Event
from typing import Any
from uuid import uuid4

from explorer.jobs.executors import LostError, OneProcess
from explorer.jobs.works import Errand
from explorer.team import Crew, Make, Team

LOSSES = 3  # of processes by one item: then it is the item's fault


class Processes:
    """A team (`team.Team`). The model is loaded in each process when it gets its first item.

    OMP_NUM_THREADS says how many threads each has; without it they share the cores. Sums of other threads have another
    order, so answers are the same to the last bit where that number is.
    """

    def __init__(self, size: int, model: str, device: str = "cpu", dtype: str = "float32"):
        if size < 1:
            raise ValueError(f"a team has at least one worker, got {size}")
        self.size, self._subject, self._closed = size, (model, device, dtype), False
        self._all = [OneProcess(threads=max(1, (os.cpu_count() or 1) // size)) for _ in range(size)]
        self._free: SimpleQueue[OneProcess] = SimpleQueue()
        for process in self._all:
            self._free.put(process)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, whatever they are at."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        for process in self._all:
            process.close()

    @property
    def pids(self) -> list[int]:
        """Of the processes that have been needed so far."""
        return [process.pid for process in self._all if process.pid is not None]

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
        process = self._free.get()
        try:
            for _ in range(LOSSES):
                try:
                    (answer,) = process.run("team", "piece", self._subject, errand, item)
                    return answer
                except LostError:
                    if over.is_set() or self._closed:
                        raise
            raise LostError(
                f"{LOSSES} workers in a row were lost with the same piece; is the memory enough for {self.size}?"
            )
        finally:
            self._free.put(process)


def hired(size: int, model: str, device: str = "cpu", dtype: str = "float32") -> AbstractContextManager[Team | None]:
    """A team of several for as long as it is needed; none of one, for whoever asks is one already."""
    return Processes(size, model, device, dtype) if size > 1 else nullcontext()
