"""Runs tasks in one process of its own, which keeps the page free and survives a crash of the task."""

import itertools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import psutil

from explorer.jobs.executors.base import (
    BaseExecutor,
    Lanes,
    Message,
    Task,
    from_messages,
    to_messages,
)
from explorer.models.catalogue import override_device

# What a process needs before it can load a model: seconds of imports, which one process makes for all on Linux.
PRELOADED = ["explorer.sampling.rollout", "explorer.measures.metrics", "diffusers.pipelines.stable_diffusion"]
PROCESS_NAME = "explorer tasks"
CRASHED = "the process that generates has stopped (was there too little memory?); it starts again, so please try again"


class _Run:
    """One run: its number in the process, and the messages from there."""

    def __init__(self, number: int):
        self.number, self.messages = number, SimpleQueue[Message]()


class ProcessExecutor(BaseExecutor[_Run]):
    """Runs tasks in a process, which is started on first need, and again after a crash.

    nice: its niceness, 0 to 19. threads: how many it computes with where OMP_NUM_THREADS does not say; default:
    PyTorch's choice. device: where it computes; default: `catalogue.default_device`. forked: from a process that has
    PyTorch loaded, where that can be; a process that is not makes the imports itself, with its own niceness. It may
    start processes of its own; all end with this one.
    """

    def __init__(self, nice: int = 0, threads: int | None = None, device: str = "", forked: bool = True) -> None:
        self._options, self._forked = (nice, threads, device), forked
        self._lock, self._numbers = Lock(), itertools.count()
        self._process: Any = None
        self._kill: Callable[[], None] = _kill_nothing
        self._connection: Connection | None = None
        self._kill_at_exit: Any = None
        self._active: dict[int, _Run] = {}
        super().__init__(self._end)

    def run(self, owner: str, task: Task, *arguments: Any, address: str = "") -> Iterator[Any]:
        yield from self.items(self.begin(owner, task, arguments, address))

    def begin(self, owner: str, task: Task, arguments: tuple[Any, ...], address: str = "") -> "_Run":
        """Begin a run, whose items `items` yields."""
        run = _Run(next(self._numbers))
        self._runs.begin(owner, task, run)
        with self._lock:
            self._active[run.number] = run
            try:
                if self._process is None:
                    self._start()
            except (OSError, EOFError):  # no process can be started at present
                run.messages.put(("worker_lost", CRASHED))
            else:
                self._send("begin", run.number, address, task, arguments)
        return run

    def items(self, run: "_Run") -> Iterator[Any]:
        """Yield the items of a run as they come, and none that waited when the run was ended."""
        try:
            for item in from_messages(run.messages.get):
                if run.number not in self._active:
                    return
                yield item
        finally:
            self._runs.remove(run)
            self._end(run)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._process is not None:
                self._kill()

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
        context = _context(self._forked)
        connection, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, *self._options), name=PROCESS_NAME, daemon=False)
        process.start()
        self._connection, self._process, self._kill = connection, process, _killer(process.pid)
        # a daemon would be ended as well, but may have no processes of its own
        self._kill_at_exit = Finalize(None, self._kill, exitpriority=1)
        theirs.close()
        Thread(target=self._listen, args=(connection,), daemon=True).start()

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


def _context(forked: bool) -> Any:
    """Choose how processes start: not as forks of this one, which would inherit its threads and locks.

    On Linux they are forks of a process that has imported PRELOADED and nothing else. Such a fork starts its own anew,
    so that it is their parent.
    """
    if not forked or sys.platform != "linux" or multiprocessing.current_process().name == PROCESS_NAME:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _killer(pid: int) -> Callable[[], None]:
    """Make what kills this process, even where the one that forked it has ended, but no later one with its number."""
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return _kill_nothing

    def kill() -> None:
        with suppress(psutil.NoSuchProcess):
            process.kill()

    return kill


def _kill_nothing() -> None:
    """Do nothing, where there is no process."""


def _use_threads(threads: int) -> None:
    """Compute with so many threads, unless OMP_NUM_THREADS says how many."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch  # here, because the page that imports this module has none

        torch.set_num_threads(threads)


def _serve(connection: Connection, nice: int, threads: int | None, device: str) -> None:
    """Begin and end runs on messages from the parent until the parent has ended: the main function of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # control-C is for the parent
    os.nice(nice)
    override_device(device)
    if threads is not None:
        _use_threads(threads)
    active: set[int] = set()
    sending, lanes = Lock(), Lanes()

    def work(number: int, address: str, task: Task, arguments: tuple[Any, ...]) -> None:
        messages = to_messages(task, arguments)
        for kind, value in lanes.of(task).share(messages, address, lambda: number in active):
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

    while True:
        try:
            what, number, *rest = connection.recv()
        except (EOFError, OSError):
            os._exit(0)  # the parent has ended
        if what == "end":
            active.discard(number)
        else:
            active.add(number)
            Thread(target=work, args=(number, *rest), daemon=True).start()
