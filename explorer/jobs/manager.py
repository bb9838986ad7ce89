"""The job manager: takes jobs from the store to an executor, records what they report, and loses none.

    manager = JobManager(JobStore(folder), make_job_executor())
    job = manager.submit("me", "dipgo", "emoji-unet", {"steps": 10})
    manager.stop(job.id, "me")         # and manager.resume(job.id, "me") continues from the last step
    manager.finish(job.id, "me")       # takes the result of its steps so far

Whatever ends a job too early, it resumes from the last step in the store: by itself where a process or the page was
lost, and on request where it was stopped.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Event, RLock, Thread
from typing import Any
from uuid import uuid4

from explorer.errors import format_error
from explorer.jobs import tasks
from explorer.jobs.executors.base import Executor, SchedulerUnreachableError, WorkerLostError
from explorer.jobs.job import ENDED, Job, State, as_requested, paused, reason_not_to_run, result_name, to_finish
from explorer.jobs.limits import Limits
from explorer.jobs.prune_request import PruneRequest
from explorer.jobs.store import JobStore
from explorer.masks.file_format import replace_atomically
from explorer.models.catalogue import available_models, own_run
from explorer.models.prompts import check_prompts, has_names
from explorer.pruners import PRUNERS, method_config

JOB_METHODS = tuple(name for name, method in PRUNERS.items() if not method.reads_files)  # no visitor names a file
ACTIVE: tuple[State, ...] = ("running", "cancelling", "finishing")
POLL_INTERVAL_S = 0.5  # between two checks for requests
MAX_CRASHES = 3  # in a row, without a step in between: then a job has failed
EXPIRE_INTERVAL_S = 3600.0
MAX_PROMPTS = 1_000
RECONNECT_WAIT_S = 5.0  # before a lost scheduler is tried again


def can_finish_early(method: str) -> bool:
    """Say whether a method has a result after each of its steps; one that is not known has none."""
    return method in PRUNERS and PRUNERS[method].learns


def check_can_finish(job: Job) -> None:
    """Raise ValueError for a job that has no result before its end."""
    if not can_finish_early(job.method):
        raise ValueError(f"{job.method} has a result only when it is done")
    if not job.done or job.state == "done":
        raise ValueError(f"job {job.id} {'is done' if job.done else 'has made no step yet'}")


class JobManager:
    """Owns a job store. `start()` begins to run jobs; until then they only queue."""

    def __init__(self, store: JobStore, executor: Executor, limits: Limits | None = None):
        self.store, self.executor, self.limits = store, executor, limits or Limits()
        self._lock, self._wake, self._over = RLock(), Event(), Event()
        self._running: dict[str, Thread] = {}
        self._addresses: dict[str, str] = {}  # job -> where it was started, for as long as the page runs
        self._began: dict[str, float] = {}  # job -> when its attempt began, by a clock that is never set
        self._expire_at = 0.0
        self.heartbeats: dict[str, tuple[int, int]] = {}  # job -> calls that its next step has made, of about so many
        self._stop_reasons: dict[str, str | None] = {}  # of jobs that this manager stops by itself
        self._not_before = 0.0
        self._thread = Thread(target=self._loop, name="explorer job manager", daemon=True)

    def start(self) -> "JobManager":
        """Resume the jobs that were running when the page ended, and run new ones: as soon as the store can be read."""
        self._thread.start()
        return self

    def _take_up(self) -> None:
        for job in self.store.jobs(*ACTIVE):
            then = job.last_event_at or job.created
            self.store.update(job.id, **paused(job, then) | as_requested(job, {"state": "queued"}, then))

    def close(self) -> None:
        """Stop; what is running continues with the next start."""
        self._over.set()
        self._wake.set()
        for id in list(self._running):
            self.executor.stop(id)
        for thread in (self._thread, *self._running.values()):
            thread.join()

    # -- requests

    def submit(
        self,
        owner: str,
        method: str,
        model: str,
        settings: Mapping[str, Any],
        prompts: Sequence[str] = (),
        address: str = "",
    ) -> Job:
        """Queue a job. Raises ValueError for what cannot be run, and where a limit is reached."""
        config = method_config(method, settings, own_run(model))
        if method not in JOB_METHODS:
            raise ValueError(f"{method} reads files of this machine, which no visitor may; use the command prune")
        check_prompts(prompts, "the job")
        if len(prompts) > MAX_PROMPTS:
            raise ValueError(f"a job may have {MAX_PROMPTS:,} prompts here, and this one has {len(prompts):,}")
        if model not in available_models():
            raise ValueError(f"the weights of {model!r} are not here; see the command models")
        if not prompts and PRUNERS[method].cost is not None and not has_names(model):
            raise ValueError(f"{model} has no list of names of its own; write prompts for it, one per line")
        with self._lock:
            self._check_limits(owner, address)
            job = Job(
                id=uuid4().hex[:12],
                owner=owner,
                method=method,
                model=model,
                settings=config.model_dump(mode="json"),
                prompts=tuple(prompts),
                created=time.time(),
            )
            self.store.add(job)
            self._addresses[job.id] = address
        self._wake.set()
        return job

    def _check_limits(self, owner: str, address: str) -> None:
        self.limits.check(self.store.list_rows("queued", *ACTIVE), owner, self._addresses, address)

    def stop(self, id: str, owner: str | None = None) -> Job:
        """Pause a job at its last step. Raises ValueError for a job of another owner (None: the operator's request)."""
        with self._lock:
            job = self._owned(id, owner)
            if job.state == "queued":
                return self.store.update(id, state="interrupted", ended=time.time(), error=None)
            if job.state == "running":
                job = self.store.update(id, state="cancelling")
        self.executor.stop(id)
        return job

    def resume(self, id: str, owner: str | None = None) -> Job:
        """Queue a job again that was paused or failed; it continues from its last step."""
        with self._lock:
            job = self._owned(id, owner)
            if job.state not in ("interrupted", "failed"):
                raise ValueError(f"job {id} is {job.state}; only what was interrupted or failed can be resumed")
            if job.method not in PRUNERS:
                raise ValueError(reason_not_to_run(job))
            self._check_limits(job.owner, self._addresses.get(id, ""))
            job = self.store.update(id, state="queued", ended=None, error=None, crashes=0)
        self._wake.set()
        return job

    def finish(self, id: str, owner: str | None = None) -> Job:
        """End a learning job with the result of its steps so far. Raises ValueError where there is none yet."""
        with self._lock:
            job = self._owned(id, owner)
            check_can_finish(job)
            if job.state not in ACTIVE:
                job = self.store.update(id, **to_finish(job))
                self._wake.set()
                return job
            job = self.store.update(id, state="finishing")
        self.executor.stop(id)
        return job

    def delete(self, id: str, owner: str | None = None) -> None:
        """Delete a job with all that it found."""
        if self._owned(id, owner).state in ACTIVE:
            raise ValueError(f"job {id} is running; pause it first")
        self.store.delete(id)
        self._addresses.pop(id, None)

    def _owned(self, id: str, owner: str | None) -> Job:
        job = self.store.get(id)
        if owner is not None and job.owner != owner:
            raise ValueError("this job belongs to another visitor; duplicate it to have one of your own")
        return job

    # -- running jobs

    def _loop(self) -> None:
        taken_up = False
        while not self._over.is_set():
            with suppress(ValueError):  # a full disk, say: the next poll may find room
                if not taken_up:
                    self._take_up()
                    taken_up = True
                self._poll()
            self._wake.wait(POLL_INTERVAL_S)
            self._wake.clear()

    def _poll(self) -> None:
        for what, id in self.store.pop_requests():
            with suppress(ValueError):  # it ended meanwhile
                {"cancel": self.stop, "finish": self.finish, "resume": self.resume}[what](id)
        for row in self.store.list_rows("cancelling", "finishing"):  # the attempt may have begun just after the request
            self.executor.stop(row.id)
        for id, began in list(self._began.items()):
            if time.monotonic() - began > self.limits.max_minutes * 60:
                limit = f"it was stopped after {self.limits.max_minutes:g} minutes, the limit of one attempt; resume it"
                self._stop_reasons[id] = limit
                self.executor.stop(id)
        self._expire()
        with self._lock:
            for row in reversed(self.store.list_rows("queued")):
                full = len(self._running) >= self.limits.max_concurrent
                if full or time.monotonic() < self._not_before or self._over.is_set():
                    return
                if row.id not in self._running:  # or its last attempt has not ended yet
                    self._begin(self.store.get(row.id))

    def _begin(self, job: Job) -> None:
        if job.method not in PRUNERS:
            self.store.update(job.id, state="failed", ended=time.time(), error=reason_not_to_run(job))
            return
        job = self.store.update(job.id, state="running", started=time.time())
        self._began[job.id] = time.monotonic()
        self._running[job.id] = Thread(target=self._run, args=(job,), daemon=True)
        self._running[job.id].start()

    def _expire(self) -> None:
        """Delete what ended too long ago, once an hour."""
        if time.monotonic() < self._expire_at:
            return
        self._expire_at = time.monotonic() + EXPIRE_INTERVAL_S
        oldest = time.time() - self.limits.keep_days * 86_400
        for row in self.store.list_rows(*ENDED):
            if row.created < oldest and (self.store.get(row.id).ended or row.created) < oldest:
                self.store.delete(row.id)
                self._addresses.pop(row.id, None)

    def _run(self, job: Job) -> None:
        """Make one attempt at a job, and record how it ended."""
        try:
            outcome = self._attempt(job)
        except SchedulerUnreachableError:
            self._not_before = time.monotonic() + RECONNECT_WAIT_S
            outcome = {"state": "queued"}
        except WorkerLostError as error:
            crashes = self.store.get(job.id).crashes + 1
            failed = {"state": "failed", "error": f"{error}, {crashes} times"}
            outcome = ({"state": "queued"} if crashes < MAX_CRASHES else failed) | {"crashes": crashes}
        except ValueError as error:
            outcome = {"state": "failed", "error": format_error(error)}
        except OSError as error:  # the result cannot be written
            outcome = {"state": "interrupted", "error": f"{error}; make room, then resume it"}
        except RuntimeError as error:  # an error of ours: its traceback
            outcome = {"state": "failed", "error": f"{error}"}
        self.heartbeats.pop(job.id, None)
        self._began.pop(job.id, None)
        self._record(job.id, outcome)
        del self._running[job.id]
        self._wake.set()

    def _attempt(self, job: Job) -> dict[str, Any]:
        state, _ = self.store.checkpoint(job.id)
        scheduler = getattr(self.executor, "address", "")
        request = PruneRequest(job.method, job.model, job.settings, job.prompts, state, self.limits.workers, scheduler)
        for item in self.executor.run(job.id, tasks.prune, request):
            if "file" in item:
                return {"state": "done", "result": self._save(job.id, item["file"])}
            if "calls" in item:
                self.heartbeats[job.id] = item["calls"], item["of"]
                continue
            self.heartbeats.pop(job.id, None)
            try:
                self.store.record_event(job.id, item, item["state"], item["picture"])
            except ValueError as error:  # a full disk: the step before it is the last
                self.executor.stop(job.id)
                return {"state": "interrupted", "error": f"{error}; make room, then resume it"}
        if self._over.is_set() and job.id not in self._stop_reasons and self.store.get(job.id).state == "running":
            return {}  # it continues with the next start
        return {"state": "interrupted", "error": self._stop_reasons.pop(job.id, None)}

    def _save(self, id: str, content: bytes) -> str:
        """Write a result, whole or not at all; returns its name."""
        file = self.store.results / result_name(id)
        with replace_atomically(file) as temporary:
            temporary.write_bytes(content)
        return file.name

    def _record(self, id: str, outcome: Mapping[str, Any]) -> None:
        """Record how an attempt ended; where the disk is full, again until there is room."""
        while outcome:
            with suppress(ValueError):
                with self._lock:
                    job = self.store.get(id)
                    now = time.time()
                    self.store.update(id, **paused(job, now) | as_requested(job, outcome, now))
                return
            if self._over.wait(1):
                return
