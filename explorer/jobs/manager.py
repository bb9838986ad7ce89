"""The foreman: takes jobs from the ledger to an executor, writes down what they say, and loses none.

    foreman = Foreman(Ledger(folder), Cluster())
    job = foreman.submit("me", "dipgo", "emoji-unet", {"steps": 10})
    foreman.stop(job.id, "me")         # and foreman.resume(job.id, "me") goes on from the last step
    foreman.finish(job.id, "me")       # takes what its steps have found so far

Whatever ends a job too early, it goes on from the last step that the ledger holds: by itself where a process or the
page was lost, and when somebody says so where it was stopped.
"""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, RLock, Thread
from typing import Any
from uuid import uuid4

from explorer import catalogue, experiment
from explorer.jobs.cluster import UnreachableError
from explorer.jobs.executors import Executor, LostError
from explorer.jobs.ledger import Job, Ledger
from explorer.prompts import refuse_too_many
from explorer.pruners.configs import CONFIGS, WIDTHS

METHODS = tuple(method for method in CONFIGS | WIDTHS if method != "ecodiff-released")  # no visitor names a file
AT_WORK = ("running", "cancelling", "finishing")
LOOK_EVERY = 0.5  # seconds between two looks at what others ask for
CRASHES = 3  # in a row, without a step in between: then a job has failed
WAIT = 5.0  # seconds before a lost scheduler is tried again


def learns(method: str) -> bool:
    """Whether a method has an answer after each of its steps."""
    return (CONFIGS | WIDTHS)[method].LEARNS


def refuse_to_finish(job: Job) -> None:
    """Raises ValueError for a job that has nothing to take before its end."""
    if not learns(job.method):
        raise ValueError(f"{job.method} has an answer only when it is done")
    if not job.done or job.state == "done":
        raise ValueError(f"job {job.id} {'is done' if job.done else 'has made no step yet'}")


@dataclass(frozen=True)
class Limits:
    """What an operator allows; EXPLORER_JOBS_AT_ONCE, _A_VISITOR, _IN_ALL, _MINUTES and _WORKERS change it."""

    at_once: int = field(default_factory=lambda: _number("AT_ONCE", 1))
    a_visitor: int = field(default_factory=lambda: _number("A_VISITOR", 3))
    in_all: int = field(default_factory=lambda: _number("IN_ALL", 30))
    minutes: float = field(default_factory=lambda: _number("MINUTES", 120))  # of one attempt
    workers: int = field(default_factory=lambda: _number("WORKERS", 1))  # processes that share one job


def _number(name: str, default: int) -> int:
    return int(os.environ.get(f"EXPLORER_JOBS_{name}") or default)


class Foreman:
    """Owns a ledger. `start()` begins to work; until then jobs only queue."""

    def __init__(self, ledger: Ledger, executor: Executor, limits: Limits | None = None):
        self.ledger, self.executor, self.limits = ledger, executor, limits or Limits()
        self._lock, self._wake, self._over = RLock(), Event(), Event()
        self._running: dict[str, Thread] = {}
        self.beats: dict[str, tuple[int, int]] = {}  # job -> calls that its next step has made, of about so many
        self._ending: dict[str, str | None] = {}  # why a job is being stopped, if it is for a reason of ours
        self._not_before = 0.0
        self._looking = Thread(target=self._loop, name="explorer foreman", daemon=True)

    def start(self) -> "Foreman":
        """Take up what was running when the page ended, and whatever comes."""
        for job in self.ledger.jobs(*AT_WORK):
            then = job.told or job.created
            self.ledger.change(job.id, **_paused(job, then) | _as_asked(job, {"state": "queued"}, then))
        self._looking.start()
        return self

    def close(self) -> None:
        """Stop working; what runs goes on when somebody starts again."""
        self._over.set()
        self._wake.set()
        for id in list(self._running):
            self.executor.stop(id)
        for thread in (self._looking, *self._running.values()):
            thread.join()

    # -- what is asked of it

    def submit(
        self, owner: str, method: str, model: str, settings: Mapping[str, Any], prompts: Sequence[str] = ()
    ) -> Job:
        """Queue a job. Raises ValueError for what cannot be run, and where a limit is reached."""
        config = experiment.config_of(method, settings)
        if method not in METHODS:
            raise ValueError(f"{method} reads files by name, which is not for others; use the command prune")
        refuse_too_many(prompts, "the job")
        if not any(row["id"] == model and row["available"] for row in catalogue.listing()):
            raise ValueError(f"the weights of {model!r} are not here; see the command models")
        with self._lock:
            self._refuse_beyond_limits(owner)
            job = Job(
                id=uuid4().hex[:12],
                owner=owner,
                method=method,
                model=model,
                settings=config.model_dump(mode="json"),
                prompts=tuple(prompts),
                created=time.time(),
            )
            self.ledger.add(job)
        self._wake.set()
        return job

    def _refuse_beyond_limits(self, owner: str) -> None:
        open_jobs = self.ledger.jobs("queued", *AT_WORK)
        own = sum(job.owner == owner for job in open_jobs)
        if own >= self.limits.a_visitor:
            raise ValueError(f"you have {own} jobs that are not finished, which is the most; pause one, or wait")
        if len(open_jobs) >= self.limits.in_all:
            raise ValueError(f"{len(open_jobs)} jobs are waiting, which is the most; please come back later")

    def stop(self, id: str, owner: str | None = None) -> Job:
        """End a job at its last step. Raises ValueError for a job of somebody else (None: whoever runs the page)."""
        with self._lock:
            job = self._own(id, owner)
            if job.state == "queued":
                return self.ledger.change(id, state="interrupted", ended=time.time(), error=None)
            if job.state == "running":
                job = self.ledger.change(id, state="cancelling")
        self.executor.stop(id)
        return job

    def resume(self, id: str, owner: str | None = None) -> Job:
        """Queue a job that was stopped or failed again; it goes on from its last step."""
        with self._lock:
            job = self._own(id, owner)
            if job.state not in ("interrupted", "failed"):
                raise ValueError(f"job {id} is {job.state}; only what was interrupted or failed goes on")
            self._refuse_beyond_limits(job.owner)
            job = self.ledger.change(id, state="queued", ended=None, error=None, crashes=0)
        self._wake.set()
        return job

    def finish(self, id: str, owner: str | None = None) -> Job:
        """End a learning job with what its steps have found so far. Raises ValueError where there is nothing yet."""
        with self._lock:
            job = self._own(id, owner)
            refuse_to_finish(job)
            if job.state not in AT_WORK:
                job = self.ledger.change(id, **_to_take(job))
                self._wake.set()
                return job
            job = self.ledger.change(id, state="finishing")
        self.executor.stop(id)
        return job

    def forget(self, id: str, owner: str | None = None) -> None:
        """Delete a job with all that it found."""
        if self._own(id, owner).state in AT_WORK:
            raise ValueError(f"job {id} is at work; pause it first")
        self.ledger.forget(id)

    def _own(self, id: str, owner: str | None) -> Job:
        job = self.ledger.get(id)
        if owner is not None and job.owner != owner:
            raise ValueError("this job is somebody else's; duplicate it to have one of your own")
        return job

    # -- working

    def _loop(self) -> None:
        while not self._over.is_set():
            self._wake.wait(LOOK_EVERY)
            self._wake.clear()
            with suppress(ValueError):  # a full disk, say: the next look may find room
                self._look()

    def _look(self) -> None:
        for what, id in self.ledger.asked():
            with suppress(ValueError):  # it ended meanwhile
                {"cancel": self.stop, "finish": self.finish, "resume": self.resume}[what](id)
        for job in self.ledger.jobs("cancelling", "finishing"):  # the attempt may just have begun when it was asked
            self.executor.stop(job.id)
        for job in self.ledger.jobs("running"):
            if job.started and time.time() - job.started > self.limits.minutes * 60:
                limit = f"it was stopped after {self.limits.minutes:g} minutes, the most at a time here; resume it"
                self._ending[job.id] = limit
                self.executor.stop(job.id)
        with self._lock:
            for job in self.ledger.jobs("queued"):
                if len(self._running) >= self.limits.at_once or time.time() < self._not_before or self._over.is_set():
                    return
                if job.id in self._running:  # its last attempt has still to go
                    continue
                job = self.ledger.change(job.id, state="running", started=time.time())
                self._running[job.id] = Thread(target=self._work, args=(job,), daemon=True)
                self._running[job.id].start()

    def _work(self, job: Job) -> None:
        """One attempt at a job, and how it ended."""
        try:
            ended = self._attempted(job)
        except UnreachableError:
            self._not_before = time.time() + WAIT
            ended = {"state": "queued"}
        except LostError as error:
            crashes = self.ledger.get(job.id).crashes + 1
            said = (
                {"state": "queued"} if crashes < CRASHES else {"state": "failed", "error": f"{error}, {crashes} times"}
            )
            ended = said | {"crashes": crashes}
        except ValueError as error:
            ended = {"state": "failed", "error": experiment.sentence(error)}
        except OSError as error:  # the result cannot be written
            ended = {"state": "interrupted", "error": f"{error}; make room, then resume it"}
        except RuntimeError as error:  # a fault of ours: its log
            ended = {"state": "failed", "error": f"{error}"}
        self.beats.pop(job.id, None)
        self._write_down(job.id, ended)
        del self._running[job.id]
        self._wake.set()

    def _attempted(self, job: Job) -> dict[str, Any]:
        state, _ = self.ledger.checkpoint(job.id)
        asked = (job.method, job.model, job.settings, job.prompts, state, self.limits.workers)
        for item in self.executor.run(job.id, "prune", *asked):
            if "file" in item:
                return {"state": "done", "result": self._kept(job.id, item["file"])}
            if "calls" in item:
                self.beats[job.id] = item["calls"], item["of"]
                continue
            self.beats.pop(job.id, None)
            try:
                self.ledger.tell(job.id, item, item["state"], item["picture"])
            except ValueError as error:  # a full disk: the step before it is the last
                self.executor.stop(job.id)
                return {"state": "interrupted", "error": f"{error}; make room, then resume it"}
        if self._over.is_set() and job.id not in self._ending and self.ledger.get(job.id).state == "running":
            return {}  # it goes on with the next start
        return {"state": "interrupted", "error": self._ending.pop(job.id, None)}

    def _kept(self, id: str, content: bytes) -> str:
        """Write a result, whole or not at all; its name."""
        file = self.ledger.results / f"{id}.safetensors"
        part = file.with_suffix(".part")
        part.write_bytes(content)
        part.replace(file)
        return file.name

    def _write_down(self, id: str, ended: Mapping[str, Any]) -> None:
        """How an attempt ended; where the disk is full, again until there is room."""
        while ended:
            with suppress(ValueError):
                with self._lock:
                    job = self.ledger.get(id)
                    now = time.time()
                    self.ledger.change(id, **_paused(job, now) | _as_asked(job, ended, now))
                return
            if self._over.wait(1):
                return


def _paused(job: Job, now: float) -> dict[str, Any]:
    """An attempt is over: its seconds belong to the earlier ones."""
    return {"seconds": job.ran(now), "started": None}


def _as_asked(job: Job, ended: Mapping[str, Any], now: float) -> dict[str, Any]:
    """How an attempt ended for whoever asked meanwhile to pause the job, or to take what it has found."""
    if job.state == "finishing" and ended["state"] in ("queued", "interrupted"):
        return _to_take(job)
    if job.state == "cancelling" and ended["state"] == "queued":
        ended = dict(ended) | {"state": "interrupted"}
    return dict(ended) | ({} if ended["state"] == "queued" else {"ended": now})


def _to_take(job: Job) -> dict[str, Any]:
    """Queued for its end alone."""
    settings = job.settings | {"end": job.done}
    return {"state": "queued", "settings": settings, "ended": None, "error": None, "crashes": 0}
