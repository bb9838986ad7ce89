"""Runs tasks on the workers of a Dask scheduler; nothing else imports distributed.

Dask chooses the machine. The task itself runs there in a process of its own, so that it can be ended at any moment, may
crash, and may use so much memory only; its messages come back as events of the scheduler. So a machine needs this
package and nothing else: no shared disk, no database.
"""

import asyncio
import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread, Timer
from typing import Any
from urllib.parse import urlparse
from uuid import uuid4

from explorer.jobs.executors.base import (
    BaseExecutor,
    Message,
    SchedulerUnreachableError,
    Task,
    from_messages,
    to_messages,
)
from explorer.jobs.executors.own_process import memory_error, process_memory
from explorer.jobs.executors.process import ProcessExecutor
from explorer.jobs.prune_request import PruneRequest
from explorer.models.memory import run_memory
from explorer.settings import settings

CHECK_INTERVAL_S = 0.2  # between two checks whether the run is still wanted
CONNECT_TIMEOUT_S = 10.0
NUM_EVENTS = 20  # of a topic that the scheduler remembers; they carry checkpoints, and were handed on at once
LOOPBACK = ("127.0.0.1", "localhost", "::1")
IDLE_TIMEOUT_S = 60.0  # for which a process keeps the model of a search that sends no items
UNREACHABLE = "the scheduler of the workers cannot be reached"


def check_address(address: str) -> str:
    """Return a scheduler's address. Raises ValueError for one beyond this machine that is not encrypted."""
    url = urlparse(address)
    if url.scheme not in ("tcp", "tls") or not url.hostname:
        raise ValueError(f"{address!r} is no address of a scheduler; it looks like tls://host:8786")
    if url.scheme == "tcp" and url.hostname not in LOOPBACK:
        raise ValueError(f"{address} is not encrypted, and beyond this machine it must be; use tls://")
    return address


class _Run:
    """One run: its future at the scheduler, and the messages from the worker."""

    def __init__(self) -> None:
        self.future: Any = None
        self.messages: SimpleQueue[Message] = SimpleQueue()
        self.stopped = False

    def end(self) -> None:
        """Have the caller wait no longer, and the worker kill the process."""
        self.stopped = True
        self.messages.put(("done", None))
        if self.future is not None:
            self.future.cancel()


class DaskExecutor(BaseExecutor[_Run]):
    """Runs tasks where a scheduler sends them. memory: bytes that a run may use; default: three quarters of the
    worker's.

    Raises ValueError for an address beyond this machine that is not encrypted.
    """

    def __init__(self, address: str, memory: int | None = None):
        self.address, self._memory = check_address(address), memory
        self._lock = Lock()
        self._client: Any = None
        self._closed = False
        super().__init__(lambda run: run.end())

    def run(self, owner: str, task: Task, *arguments: Any, address: str = "") -> Iterator[Any]:
        from distributed.client import ClosedClientError
        from distributed.protocol import deserialize_bytes

        run, topic = _Run(), f"explorer-{owner}-{uuid4().hex}"
        self._runs.begin(owner, task, run)
        client: Any = None
        try:
            client = self._connected()
            client.subscribe_topic(
                topic, lambda event: run.messages.put((event[1]["kind"], deserialize_bytes(event[1]["value"])))
            )
            shares_work = any(isinstance(one, PruneRequest) and one.workers > 1 for one in arguments)
            work = partial(run_on_worker, topic, task, arguments, self._memory, shares_work)
            run.future = client.submit(work, key=topic, pure=False, retries=0, **_placement(client, shares_work))
            if not run.stopped:
                yield from from_messages(partial(_receive, run, client))
        finally:
            self._runs.remove(run)
            if run.future is not None and client.status == "running":
                with suppress(ClosedClientError):  # `close` may come in between
                    run.future.cancel()
                    client.unsubscribe_topic(topic)

    def close(self) -> None:
        """Disconnect; the workers stay with the scheduler."""
        with self._lock:
            self._closed = True
            if self._client is not None:
                self._client.close()
            self._client = None

    def _connected(self) -> Any:
        from distributed import Client

        with self._lock:
            if self._closed:
                raise SchedulerUnreachableError("the connection to the scheduler was closed")
            if self._client is not None and self._client.status == "running":
                return self._client
            _configure_dask()
            try:
                self._client = Client(self.address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
            except OSError as error:
                raise SchedulerUnreachableError(f"{UNREACHABLE} ({error})") from error
            return self._client


def _receive(run: _Run, client: Any) -> Message:
    """Wait for the next message, or for the end of what could send one."""
    while True:
        try:
            return run.messages.get(timeout=CHECK_INTERVAL_S)
        except Empty:
            if client.status != "running":
                raise SchedulerUnreachableError(UNREACHABLE) from None
            if run.future.status == "error":
                return "worker_lost", f"the worker is lost ({run.future.exception()})"
            if run.future.status in ("cancelled", "lost"):
                return "worker_lost", f"the worker is lost ({run.future.status})"


def _placement(client: Any, shares_work: bool) -> dict[str, Any]:
    """Choose where a run is placed: on a GPU of its own, if there are any; near one, if workers share the run."""
    workers = client.scheduler_info(n_workers=-1).get("workers", {})
    gpus = [address for address, worker in workers.items() if worker["resources"].get("GPU")]
    if not gpus:
        return {}
    return {"workers": gpus} if shares_work else {"resources": {"GPU": 1}}


def run_worker(address: str, gpus: int) -> None:
    """Work for a scheduler until it is gone or the process is interrupted. Raises ValueError where it cannot be
    reached.

    A run has this machine for itself: one at a time.
    """
    from distributed import Nanny

    async def serve() -> None:
        resources = {"GPU": gpus} if gpus else {}
        own = {"dashboard_address": "127.0.0.1:0"}  # a worker's page is not encrypted, so it stays on this machine
        own |= {"host": "127.0.0.1"} if urlparse(address).hostname in LOOPBACK else {}
        nanny = Nanny(check_address(address), nthreads=1, resources=resources, memory_limit=0, **own)
        interrupted = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):  # not by cancelling, which gets lost while a nanny starts
            asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
        staying, leaving = asyncio.ensure_future(_stay(nanny)), asyncio.ensure_future(interrupted.wait())
        await asyncio.wait([staying, leaving], return_when=asyncio.FIRST_COMPLETED)
        if staying.done():
            staying.result()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(nanny.close(), CONNECT_TIMEOUT_S)

    _configure_dask()
    try:
        asyncio.run(serve())
    except (OSError, RuntimeError, asyncio.TimeoutError) as error:
        raise ValueError(f"{UNREACHABLE}: {error}") from error
    finally:
        for worker in multiprocessing.active_children():  # which Python would wait for
            worker.kill()


async def _stay(nanny: Any) -> None:
    await nanny
    await nanny.finished()


def _configure_dask() -> None:
    """Configure Dask as this project needs it, at both ends."""
    import dask

    dask.config.set(
        {
            "distributed.worker.daemon": False,  # or a worker may have no process of its own
            "distributed.scheduler.allowed-failures": 0,  # the job manager tries again, from the last checkpoint
            "distributed.admin.low-level-log-length": NUM_EVENTS,
            "distributed.comm.timeouts.connect": f"{CONNECT_TIMEOUT_S}s",
        }
    )


class _IdleProcess:
    """The process of a worker that keeps the model from one item of a search to the next."""

    def __init__(self) -> None:
        self.process, self._timer = ProcessExecutor(nice=settings().jobs_nice), Timer(0, lambda: None)

    def take(self) -> ProcessExecutor:
        """Return the process, which does not end while it is in use."""
        self._timer.cancel()
        return self.process

    def give_back(self) -> None:
        """End the process in a while, unless it is taken again."""
        self._timer = Timer(IDLE_TIMEOUT_S, self.process.close)
        self._timer.daemon = True
        self._timer.start()


IDLE_PROCESS = _IdleProcess()


def run_on_worker(topic: str, task: Task, arguments: tuple[Any, ...], memory: int | None, shares_work: bool) -> None:
    """Run a task in a process of its own, for as long as the scheduler wants it: what a worker of Dask does.

    A run that shares its work with other workers leaves this worker's turn to their items.
    """
    from distributed import get_worker, secede
    from distributed.protocol import serialize_bytes
    from distributed.worker import thread_state

    worker, key, over = get_worker(), thread_state.key, Event()
    if shares_work:
        address = worker.scheduler.address
        arguments = tuple(
            replace(one, scheduler=address) if isinstance(one, PruneRequest) else one for one in arguments
        )
        secede()
    limit = memory or run_memory()
    keeps_model = task.__name__ == "answer_item"
    process = IDLE_PROCESS.take() if keeps_model else ProcessExecutor(nice=settings().jobs_nice)

    def report(kind: str, value: Any = None) -> None:
        worker.log_event(topic, {"kind": kind, "value": serialize_bytes(value)})

    def watch() -> None:
        while not over.wait(CHECK_INTERVAL_S):
            task_state = worker.state.tasks.get(key)
            if task_state is None or task_state.state not in (
                "executing",
                "long-running",
            ):  # cancelled, or the client has disconnected
                process.close()
            elif process_memory(process.pid) > limit:
                report("user_error", memory_error(limit))
                process.close()

    Thread(target=watch, daemon=True).start()
    try:
        for kind, value in to_messages(process.run, (topic, task, *arguments)):
            if kind != "item":
                over.set()  # from here on the run is not wanted, and a process that stays must not be killed for that
            report(kind, value)
    finally:
        over.set()
        if keeps_model:
            IDLE_PROCESS.give_back()
        else:
            process.close()
