"""Runs tasks in one spawned process, which keeps the page free and survives a crash of the task."""

import itertools
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from explorer.jobs.executors.base import (
    MAX_CONCURRENT,
    UNQUEUED_TASKS,
    Message,
    NewestRuns,
    Task,
    from_messages,
    to_messages,
)
from explorer.models.catalogue import override_device

CRASHED = "the process that generates has stopped (was there too little memory?); it starts again, so please try again"


class _Run:
    """One run: its number in the process, and the messages from there."""

    def __init__(self, number: int):
        self.number, self.messages = number, SimpleQueue[Message]()


class ProcessExecutor:
    """Runs tasks in a spawned process, which is started on first need, and again after a crash.

    nice: its niceness, 0 to 19. threads: how many it computes with where OMP_NUM_THREADS does not say; default:
    PyTorch's choice. device: where it computes; default: `catalogue.default_device`. It may start processes of its
    own; all end with this one.
    """

    def __init__(self, nice: int = 0, threads: int | None = None, device: str = "") -> None:
        self._options = (nice, threads, device)
        self._lock, self._numbers = Lock(), itertools.count()
        self._process: Any = None
        self._connection: Connection | None = None
        self._kill_at_exit: Any = None
        self._active: dict[int, _Run] = {}
        self._runs: NewestRuns[_Run] = NewestRuns(self._end)

    def run(self, owner: str, task: Task, *arguments: Any) -> Iterator[Any]:
        yield from self.items(self.begin(owner, task, arguments))

    def begin(self, owner: str, task: Task, arguments: tuple[Any, ...]) -> "_Run":
        """Begin a run, whose items `items` yields."""
        run = _Run(next(self._numbers))
        self._runs.begin(owner, task, run)
        with self._lock:
            if self._process is None:
                self._start()
            self._active[run.number] = run
            self._send("begin", run.number, task, arguments)
        return run

    def items(self, run: "_Run") -> Iterator[Any]:
        """Yield the items of a run as they come."""
        try:
            yield from from_messages(run.messages.get)
        finally:
            self._runs.remove(run)
            self._end(run)

    def stop(self, owner: str) -> None:
        """End what the owner runs, after the current item."""
        self._runs.stop(owner)

    def is_busy(self, owner: str, task: Task) -> bool:
        return self._runs.has(owner, task)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._process is not None:
                self._process.kill()

    @property
    def pid(self) -> int | None:
        """Of the process, if there is one."""
        return self._process.pid if self._process is not None else None

    def _end(self, run: _Run) -> None:
        """Have the caller of a run wait no longer, and the process stop working on it; a second time does nothing."""
        with self._lock:
            if self._active.pop(run.number, None) is not None:
                run.messages.put(("done", None))
                self._send("end", run.number)

    def _send(self, *message: Any) -> None:
        with suppress(OSError):  # it has crashed, which `_listen` reports
            if self._connection is not None:
                self._connection.send(message)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit the page's threads and locks
        self._connection, theirs = context.Pipe()
        options = (theirs, *self._options)
        self._process = context.Process(target=_serve, args=options, name="explorer tasks", daemon=False)
        self._process.start()
        # a daemon would be ended as well, but may have no processes of its own
        self._kill_at_exit = Finalize(None, self._process.kill, exitpriority=1)
        theirs.close()
        Thread(target=self._listen, args=(self._connection,), daemon=True).start()

    def _listen(self, connection: Connection) -> None:
        """Hand messages of the process to the runs that they belong to."""
        while True:
            try:
                number, kind, value = connection.recv()
            except (EOFError, OSError):
                break
            with self._lock:
                if run := self._active.get(number):
                    run.messages.put((kind, value))
        with self._lock:  # a later run starts a new process; earlier runs get the message that this one crashed
            if connection is self._connection:
                self._process.join()
                self._kill_at_exit.cancel()
                self._process = None
                for run in self._active.values():
                    run.messages.put(("worker_lost", CRASHED))


def _serve(connection: Connection, nice: int, threads: int | None, device: str) -> None:
    """Begin and end runs on messages from the parent until the parent has ended: the main function of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # control-C is for the parent
    os.nice(nice)
    override_device(device)
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", f"{threads}")  # read when PyTorch is loaded, which it is not yet
    active: set[int] = set()
    sending = Lock()

    def work(number: int, task: Task, arguments: tuple[Any, ...]) -> None:
        for kind, value in to_messages(task, arguments):
            if number not in active:
                return
            with sending:
                try:
                    connection.send((number, kind, value))
                except (TypeError, AttributeError) as error:  # it cannot be pickled
                    reason = f"{task.__name__} yielded what cannot be sent: {error}"
                    connection.send((number, "internal_error", reason))
                    return
        active.discard(number)

    queued, unqueued = ThreadPoolExecutor(MAX_CONCURRENT), ThreadPoolExecutor(1)
    while True:
        try:
            what, number, *rest = connection.recv()
        except (EOFError, OSError):
            os._exit(0)  # the parent has ended
        if what == "end":
            active.discard(number)
        else:
            active.add(number)
            (unqueued if rest[0].__name__ in UNQUEUED_TASKS else queued).submit(work, number, *rest)
