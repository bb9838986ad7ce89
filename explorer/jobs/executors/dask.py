"""Long work by Dask distributed: on this machine, in a cluster of its own, or on the machines of a scheduler.

Dask says which machine works. The work itself runs there in a process of its own, so that it can be ended at any
moment, may crash, and may take the memory of nobody else; what it says comes back as events of the scheduler. So a
machine needs this package and nothing else: no shared disk, no database.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread, Timer
from typing import Any
from urllib.parse import urlparse
from uuid import uuid4

from explorer.jobs.executors import LostError, OneProcess, handed_out

NICE = int(os.environ.get("EXPLORER_JOBS_NICE") or 10)  # how far runs stand back, so that pictures are drawn meanwhile
LOOK_EVERY = 0.2  # seconds between two looks at whether somebody still wants the work
PATIENCE = 10.0  # seconds to wait for a scheduler
KEPT = 20  # events of a topic that the scheduler remembers; they carry checkpoints, and were handed on at once
LOOPBACK = ("127.0.0.1", "localhost", "::1")
IDLE = 60.0  # seconds for which a process has the model of a search that asks for nothing
GONE = "the scheduler of the workers is out of reach"


class UnreachableError(LostError):
    """There is no scheduler at the moment."""


def checked(address: str) -> str:
    """A scheduler's address. Raises ValueError for one beyond this machine that is not encrypted."""
    there = urlparse(address)
    if there.scheme not in ("tcp", "tls") or not there.hostname:
        raise ValueError(f"{address!r} is no address of a scheduler; it looks like tls://host:8786")
    if there.scheme == "tcp" and there.hostname not in LOOPBACK:
        raise ValueError(f"{address} is not encrypted, and beyond this machine it must be; use tls://")
    return address


class Cluster:
    """An executor whose runs go where Dask sends them. Without an address it starts one worker here on first need.

    memory: bytes that a run may take; default: three quarters of the machine's.
    """

    def __init__(self, address: str | None = None, memory: int | None = None):
        self.address, self.memory = address and checked(address), memory
        self._lock = Lock()
        self._client: Any = None
        self._local: Any = None
        self._closed = False
        self._running: dict[tuple[str, str], Any] = {}

    def run(self, owner: str, work: str, *arguments: Any) -> Iterator[Any]:
        """Items as they come. Raises ValueError for a user's mistake, LostError where the process that worked is
        gone, and UnreachableError where there is no scheduler."""
        from distributed.protocol import deserialize_bytes

        self.stop(owner, work)
        client, topic, items = self._connected(), f"explorer-{owner}-{uuid4().hex}", SimpleQueue()
        client.subscribe_topic(topic, lambda event: items.put((event[1]["kind"], deserialize_bytes(event[1]["value"]))))
        shares = bool(self.address) and work == "prune" and arguments[-1] > 1
        run = partial(attempt, topic, work, arguments, self.memory, shares)
        future = client.submit(run, key=topic, pure=False, retries=0, **_seat(client, shares))
        self._running[owner, work] = future, items
        try:
            yield from handed_out(_Watched(items, future, client).get)
        finally:
            if self._running.get((owner, work), (None,))[0] is future:
                del self._running[owner, work]
            if client.status == "running":
                future.cancel()
                client.unsubscribe_topic(topic)

    def stop(self, owner: str, work: str | None = None) -> None:
        """End what the owner runs, at once: its process is killed by whoever watches it."""
        for key in [key for key in list(self._running) if key[0] == owner and work in (None, key[1])]:
            if found := self._running.pop(key, None):
                future, items = found
                future.cancel()
                items.put(("done", None))

    def busy(self, owner: str, work: str) -> bool:
        return (owner, work) in self._running

    def close(self) -> None:
        """End the workers of this machine; those of a scheduler stay."""
        with self._lock:
            self._closed = True
            for one in (self._client, self._local):
                if one is not None:
                    one.close()
            self._client = self._local = None

    def _connected(self) -> Any:
        from distributed import Client, LocalCluster

        with self._lock:
            if self._closed:
                raise UnreachableError("the workers have been let go")
            if self._client is not None and self._client.status == "running":
                return self._client
            _settle()
            try:
                if self.address is None and self._local is None:
                    self._local = LocalCluster(
                        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=0
                    )
                self._client = Client(self.address or self._local, timeout=PATIENCE, set_as_default=False)
            except OSError as error:
                raise UnreachableError(f"{GONE} ({error})") from error
            return self._client


def lend(address: str, gpus: int) -> None:
    """Work for a scheduler until it is gone or the process is interrupted. Raises ValueError where it is out of reach.

    The work of one run has this machine for itself: one at a time.
    """
    import asyncio

    from distributed import Nanny

    async def serve() -> None:
        lent = {"GPU": gpus} if gpus else {}
        own = {"dashboard_address": "127.0.0.1:0"}  # a worker's page is not encrypted, so it stays on this machine
        own |= {"host": "127.0.0.1"} if urlparse(address).hostname in LOOPBACK else {}
        nanny, interrupted = Nanny(checked(address), nthreads=1, resources=lent, memory_limit=0, **own), asyncio.Event()
        for told in (signal.SIGINT, signal.SIGTERM):  # not by cancelling, which gets lost while a nanny starts
            asyncio.get_running_loop().add_signal_handler(told, interrupted.set)
        staying, leaving = asyncio.ensure_future(_stay(nanny)), asyncio.ensure_future(interrupted.wait())
        await asyncio.wait([staying, leaving], return_when=asyncio.FIRST_COMPLETED)
        if staying.done():
            staying.result()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(nanny.close(), PATIENCE)

    _settle()
    try:
        asyncio.run(serve())
    except (OSError, RuntimeError, asyncio.TimeoutError) as error:
        raise ValueError(f"{GONE}: {error}") from error
    finally:
        for worker in multiprocessing.active_children():  # which Python would wait for
            worker.kill()


async def _stay(nanny: Any) -> None:
    await nanny
    await nanny.finished()


def _settle() -> None:
    """Dask as this project needs it, at both ends."""
    import dask

    dask.config.set(
        {
            "distributed.worker.daemon": False,  # or a worker may have no process of its own
            "distributed.scheduler.allowed-failures": 0,  # the ledger tries again, from the last checkpoint
            "distributed.admin.low-level-log-length": KEPT,
            "distributed.comm.timeouts.connect": f"{PATIENCE}s",
        }
    )


class _Watched:
    """The queue of a run that ends also when nobody is left to put anything into it."""

    def __init__(self, items: SimpleQueue, future: Any, client: Any):
        self.items, self.future, self.client = items, future, client

    def get(self) -> tuple[str, Any]:
        while True:
            try:
                return self.items.get(timeout=LOOK_EVERY)
            except Empty:
                if self.client.status != "running":
                    raise UnreachableError(GONE) from None
                if self.future.status == "error":
                    return "crash", f"the worker is gone ({self.future.exception()})"
                if self.future.status in ("cancelled", "lost"):
                    return "crash", f"the worker is gone ({self.future.status})"


def _seat(client: Any, shares: bool) -> dict[str, Any]:
    """Where a run may go: to a GPU of its own, if there are any; if workers share it, it only has to be near one."""
    there = client.scheduler_info(n_workers=-1).get("workers", {})
    gpus = [address for address, worker in there.items() if worker["resources"].get("GPU")]
    if not gpus:
        return {}
    return {"workers": gpus} if shares else {"resources": {"GPU": 1}}


class _Kept:
    """The process of a worker that has the model from one piece of a search to the next."""

    def __init__(self) -> None:
        self._process, self._leaving = OneProcess(nice=NICE), Timer(0, lambda: None)

    @contextmanager
    def lent(self) -> Iterator[OneProcess]:
        self._leaving.cancel()
        try:
            yield self._process
        finally:
            self._leaving = Timer(IDLE, self._process.close)
            self._leaving.daemon = True
            self._leaving.start()


KEPT_PROCESS = _Kept()


@contextmanager
def _of_its_own() -> Iterator[OneProcess]:
    process = OneProcess(nice=NICE)
    try:
        yield process
    finally:
        process.close()


def attempt(topic: str, work: str, arguments: tuple[Any, ...], memory: int | None, shares: bool) -> None:
    """What a worker of Dask does: the work, in a process of its own, for as long as the scheduler wants it. Whoever
    `shares` it out leaves this worker's turn to the pieces."""
    from distributed import get_worker, secede
    from distributed.protocol import serialize_bytes
    from distributed.system import MEMORY_LIMIT
    from distributed.worker import thread_state

    worker, key, over = get_worker(), thread_state.key, Event()
    if shares:
        os.environ["EXPLORER_SCHEDULER"] = worker.scheduler.address
        secede()
    most = memory or MEMORY_LIMIT * 3 // 4

    def tell(kind: str, value: Any = None) -> None:
        worker.log_event(topic, {"kind": kind, "value": serialize_bytes(value)})

    def watch() -> None:
        while not over.wait(LOOK_EVERY):
            task = worker.state.tasks.get(key)
            if task is None or task.state not in ("executing", "long-running"):  # cancelled, or whoever asked is gone
                process.close()
            elif _memory(process.pid) > most:
                tell("mistake", f"it took more than {most / 2**30:.1f} GB of memory; take a smaller batch")
                process.close()

    with KEPT_PROCESS.lent() if work == "piece" else _of_its_own() as process:
        Thread(target=watch, daemon=True).start()
        try:
            for kind, value in _heard(process.run(topic, work, *arguments)):
                if kind != "item":
                    over.set()  # nobody wants it any more from here on, and what is kept is not to be killed for that
                tell(kind, value)
        finally:
            over.set()


def _heard(run: Iterator[Any]) -> Iterator[tuple[str, Any]]:
    """What a run says, and how it ended."""
    try:
        for item in run:
            yield "item", item
        yield "done", None
    except LostError as error:
        yield "crash", f"{error}"
    except ValueError as error:
        yield "mistake", f"{error}"
    except RuntimeError as error:
        yield "fault", f"{error}"


def _memory(pid: int | None) -> int:
    """Bytes that a process and those that it started have; 0 for none."""
    import psutil  # Dask brings it along

    try:
        family = [one := psutil.Process(pid), *one.children(recursive=True)] if pid else []
        return sum(member.memory_info().rss for member in family)
    except psutil.NoSuchProcess:
        return 0
