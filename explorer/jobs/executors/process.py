"""Who does the page's work. Every executor has one face:

    for item in executor.run(owner, "compare", question):    # items as they come
        ...
    executor.stop(owner)                                      # from another thread

An owner (a visitor, a job) has one run of a kind at a time: a second one ends the first. What a work raises as a user's
mistake arrives as ValueError. `InProcess` is for tests, and for hosts that lend a GPU to the page's own process;
`OneProcess` keeps the page free while something is drawn, and outlives a crash. `cluster.Cluster` is for long work.
"""

import itertools
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Protocol

from explorer import experiment
from explorer.jobs.works import WORKS

CRASHED = "the process that draws has stopped (was there too little memory?); it starts anew, so please try again"
PLACES = 2  # for runs side by side in a process; each brings OpenMP threads of its own, see `ui.threads_a_picture`
QUICK = ("plan",)  # works that need not wait for one of these places


Run = Callable[..., Iterator[Any]]  # an executor's `run`, for one owner


class LostError(ValueError):
    """The process that worked is gone: whoever asked may ask again."""


class Executor(Protocol):
    """What the page needs of whoever does its work."""

    def run(self, owner: str, work: str, *arguments: Any) -> Iterator[Any]: ...

    def stop(self, owner: str) -> None: ...

    def busy(self, owner: str, work: str) -> bool: ...


def handed_out(get: Callable[[], tuple[str, Any]]) -> Iterator[Any]:
    """The items that `get` hands out as (kind, value), until it says that all is done or what went wrong."""
    while True:
        kind, value = get()
        if kind == "item":
            yield value
        elif kind == "done":
            return
        else:
            raise {"mistake": ValueError, "crash": LostError, "fault": RuntimeError}[kind](value)


def done_here(work: str, arguments: tuple[Any, ...]) -> Iterator[Any]:
    """The items of a work, in this thread."""
    yield from WORKS[work](*arguments)


class InProcess:
    """Works in the thread of whoever asks; `done` says how a work by name comes to its items."""

    def __init__(self, done: Callable[[str, tuple[Any, ...]], Iterator[Any]] = done_here) -> None:
        self._done, self._lock = done, Lock()
        self._newest: dict[tuple[str, str], object] = {}

    def run(self, owner: str, work: str, *arguments: Any) -> Iterator[Any]:
        """Items as they come. Raises ValueError for a user's mistake."""
        mine = object()
        with self._lock:
            self._newest[owner, work] = mine
        try:
            for item in self._done(work, arguments):
                if self._newest.get((owner, work)) is not mine:
                    return
                yield item
        finally:
            with self._lock:
                if self._newest.get((owner, work)) is mine:
                    del self._newest[owner, work]

    def stop(self, owner: str) -> None:
        """End what the owner runs, after the item it is at."""
        with self._lock:
            for key in [key for key in self._newest if key[0] == owner]:
                del self._newest[key]

    def busy(self, owner: str, work: str) -> bool:
        """Whether the owner has such a run going."""
        return (owner, work) in self._newest


class OneProcess:
    """Works in a spawned process, which is started on first need, and again after a crash.

    nice: how far it stands back behind other processes, 0 to 19. threads: how many it computes with where
    OMP_NUM_THREADS does not say; default: PyTorch's choice. It may start processes of its own; all end with this one.
    """

    def __init__(self, nice: int = 0, threads: int | None = None) -> None:
        self._nice, self._threads = nice, threads
        self._lock, self._numbers = Lock(), itertools.count()
        self._process: Any = None
        self._connection: Connection | None = None
        self._last: Any = None  # what ends the process with this one
        self._waiting: dict[int, SimpleQueue] = {}
        self._newest: dict[tuple[str, str], int] = {}

    def run(self, owner: str, work: str, *arguments: Any) -> Iterator[Any]:
        """Items as they come. Raises ValueError for a user's mistake, and where the process crashed."""
        number, items = self._begin(owner, work, arguments)
        try:
            yield from handed_out(items.get)
        finally:
            self._end(number)

    def stop(self, owner: str) -> None:
        """End what the owner runs, after the item it is at."""
        with self._lock:
            numbers = [number for (whose, _), number in self._newest.items() if whose == owner]
        for number in numbers:
            self._end(number)

    def busy(self, owner: str, work: str) -> bool:
        """Whether the owner has such a run going."""
        return (owner, work) in self._newest

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._process is not None:
                self._process.kill()

    @property
    def pid(self) -> int | None:
        """Of the process, if there is one."""
        return self._process.pid if self._process is not None else None

    def _begin(self, owner: str, work: str, arguments: tuple[Any, ...]) -> tuple[int, SimpleQueue]:
        with self._lock:
            before = self._newest.get((owner, work))
        if before is not None:
            self._end(before)
        with self._lock:
            if self._process is None:
                self._start()
            number, items = next(self._numbers), SimpleQueue()
            self._waiting[number], self._newest[owner, work] = items, number
            self._send("begin", number, work, arguments)
        return number, items

    def _end(self, number: int) -> None:
        """Whoever waits for it waits no longer; the process is told. Once only."""
        with self._lock:
            items = self._waiting.pop(number, None)
            self._newest = {key: newest for key, newest in self._newest.items() if newest != number}
            if items is not None:
                items.put(("done", None))
                self._send("end", number)

    def _send(self, *message: Any) -> None:
        with suppress(OSError):  # it has crashed, which `_listen` says to those who wait
            self._connection.send(message)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit the page's threads and locks
        self._connection, theirs = context.Pipe()
        serve = (theirs, self._nice, self._threads)
        self._process = context.Process(target=_serve, args=serve, name="explorer works", daemon=False)
        self._process.start()
        # a daemon would be ended as well, but may have no processes of its own
        self._last = Finalize(None, self._process.kill, exitpriority=1)
        theirs.close()
        Thread(target=self._listen, args=(self._connection,), daemon=True).start()

    def _listen(self, connection: Connection) -> None:
        """Hand what the process says to whoever waits for it."""
        while True:
            try:
                number, kind, value = connection.recv()
            except (EOFError, OSError):
                break
            with self._lock:
                if items := self._waiting.get(number):
                    items.put((kind, value))
        with self._lock:  # whoever asks from here on starts a new process; until here it is told that this one crashed
            if connection is self._connection:
                self._process.join()
                self._last.cancel()
                self._process = None
                for items in self._waiting.values():
                    items.put(("crash", CRASHED))


def _serve(connection: Connection, nice: int, threads: int | None) -> None:
    """The process: begins and ends works as it is told, until whoever started it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # control-C is for whoever started it
    os.nice(nice)
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", f"{threads}")  # read when PyTorch is loaded, which it is not yet
    running: set[int] = set()
    sending = Lock()

    def work(number: int, name: str, arguments: tuple[Any, ...]) -> None:
        for kind, value in told(name, arguments):
            if number not in running:
                return
            with sending:
                try:
                    connection.send((number, kind, value))
                except (TypeError, AttributeError) as error:  # it cannot go from process to process
                    connection.send((number, "fault", f"{name} said what cannot be sent: {error}"))
                    return
        running.discard(number)

    pool, quick = ThreadPoolExecutor(PLACES), ThreadPoolExecutor(1)
    while True:
        try:
            what, number, *rest = connection.recv()
        except (EOFError, OSError):
            os._exit(0)  # nobody is left to hear anything
        if what == "end":
            running.discard(number)
        else:
            running.add(number)
            (quick if rest[0] in QUICK else pool).submit(work, number, *rest)


def told(name: str, arguments: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """What a work says, mistakes and faults included, as `handed_out` takes it."""
    try:
        for item in done_here(name, arguments):
            yield "item", item
        yield "done", None
    except ValueError as error:
        yield "mistake", experiment.sentence(error)
    except Exception:  # noqa: BLE001 -- a fault of ours is told where the page keeps its log
        yield "fault", traceback.format_exc()
