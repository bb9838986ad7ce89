"""The job store: every job, what happened to it, and from where it resumes. One SQLite file; loads no torch.

One process writes jobs, events and checkpoints: the page's. Others leave requests, which it applies. An event and the
checkpoint that belongs to it are one transaction, so a job resumes from exactly its last event.
"""

import fcntl
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from explorer.jobs.store_schema import SQLITE_FILES, move_if_there, open_database
from explorer.settings import settings

State = Literal["queued", "running", "cancelling", "finishing", "done", "failed", "interrupted"]
ENDED = ("done", "failed", "interrupted")


def jobs_folder() -> Path:
    """Return the folder in which the page keeps its jobs."""
    return settings().data / "jobs"


class Job(BaseModel):
    """One job: what was requested, how far it is, how it ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    owner: str
    method: str
    model: str
    settings: dict[str, Any]  # the method's config, all of it
    prompts: tuple[str, ...] = ()
    state: State = "queued"
    created: float
    started: float | None = None  # of the current attempt
    ended: float | None = None
    last_event_at: float | None = None  # when it made its last step
    seconds: float = 0.0  # of earlier attempts
    crashes: int = 0  # since the last step
    done: int = 0
    total: int = 0
    message: str = ""
    error: str | None = None
    result: str | None = None  # name of the file in the folder of results

    @property
    def seed(self) -> int:
        return self.settings.get("seed", 0)

    def running_seconds(self, now: float) -> float:
        """Count the seconds that it has run until `now`, over all attempts."""
        return self.seconds + (max(0.0, now - self.started) if self.started else 0.0)


class Event(BaseModel):
    """One step of a job. The cursor grows over all jobs; a repeated step keeps its cursor."""

    model_config = ConfigDict(frozen=True)

    cursor: int
    job: str
    step: int
    at: float
    total: int
    message: str
    metrics: dict[str, float]


class JobStore:
    """Opens or makes the file `folder`/jobs.sqlite; `warning` holds a sentence if a damaged one was set aside.

    Results are beside it in `folder`/results. With `owned`, this process is the one that writes: raises ValueError
    while another one is.
    """

    def __init__(self, folder: Path, owned: bool = True):
        self.folder, self.file, self.warning = folder, folder / "jobs.sqlite", ""
        self.results = folder / "results"
        self.results.mkdir(parents=True, exist_ok=True)
        self._lock, self._lock_held = RLock(), _lock_file(folder / "jobs.lock") if owned else None
        try:
            self._connection = open_database(self.file)
        except sqlite3.DatabaseError as error:
            if not owned:
                raise ValueError(f"{self.file} is damaged: {error}") from error
            aside = folder / f"jobs.damaged-{int(time.time())}.sqlite"
            for end in SQLITE_FILES:
                move_if_there(self.file.with_name(self.file.name + end), aside.with_name(aside.name + end))
            self.warning = f"the job store was damaged ({error}); it is kept as {aside.name}, and a new one was begun"
            self._connection = open_database(self.file)

    def close(self) -> None:
        with self._lock:
            self._connection.close()
        if self._lock_held:
            self._lock_held.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Make one transaction, whole or not at all. Raises ValueError where the disk is full."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.OperationalError as error:
                self._roll_back()
                raise ValueError(f"the job store cannot be written: {error}") from error
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _rows(self, query: str, *values: Any) -> list[tuple]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    # -- jobs

    def add(self, job: Job) -> None:
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?)",
                (job.id, job.state, job.owner, job.created, job.model_dump_json()),
            )

    def get(self, id: str) -> Job:
        """Return a job. Raises ValueError for one that does not exist."""
        rows = self._rows("SELECT document FROM jobs WHERE id = ?", id)
        if not rows:
            raise ValueError(f"there is no job {id!r}; see them all with the command jobs list")
        return Job.model_validate_json(rows[0][0])

    def jobs(self, *states: State, owner: str | None = None) -> list[Job]:
        """List the jobs in these states (default: all) of this owner (default: of all), oldest first."""
        marks = ", ".join("?" * len(states))
        conditions = [f"state IN ({marks})"] * bool(states) + ["owner = ?"] * (owner is not None)
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        values = (*states, *([owner] if owner is not None else []))
        rows = self._rows(f"SELECT document FROM jobs {where} ORDER BY created, id", *values)
        return [Job.model_validate_json(document) for (document,) in rows]

    def update(self, id: str, **fields: Any) -> Job:
        """Change fields of a job; returns the job."""
        with self._transaction() as connection:
            return _write_job(connection, self.get(id), fields)

    def queue_position(self, id: str) -> int:
        """Count the jobs before it in the queue."""
        waiting = [job.id for job in self.jobs("queued")]
        return waiting.index(id) if id in waiting else 0

    def delete(self, id: str) -> None:
        """Delete a job, its events, its checkpoint and its result."""
        result = self.get(id).result
        with self._transaction() as connection:
            connection.execute("DELETE FROM jobs WHERE id = ?", (id,))
        if result:
            (self.results / result).unlink(missing_ok=True)

    # -- events

    def record_event(
        self, id: str, step: Mapping[str, Any], state: bytes | None = None, picture: bytes | None = None
    ) -> None:
        """Record one step, {done, total, message, metrics}, with the state to resume from, if there is one.

        A step that was recorded before, by an attempt that got farther than its last checkpoint, is replaced.
        """
        document = json.dumps({name: step[name] for name in ("total", "message", "metrics")})
        progress = {name: step[name] for name in ("done", "total", "message")} | {
            "crashes": 0,
            "last_event_at": time.time(),
        }
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO events (job, step, at, document) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (job, step) DO UPDATE SET at = excluded.at, document = excluded.document",
                (id, step["done"], progress["last_event_at"], document),
            )
            connection.execute("INSERT OR IGNORE INTO checkpoints (job) VALUES (?)", (id,))
            for name, value in (("state", state), ("picture", picture)):
                if value is not None:
                    connection.execute(f"UPDATE checkpoints SET {name} = ? WHERE job = ?", (value, id))
            _write_job(connection, self.get(id), progress)

    def events(self, id: str, after: int = 0) -> list[Event]:
        """List the events of a job after a cursor."""
        query = "SELECT cursor, job, step, at, document FROM events WHERE job = ? AND cursor > ? ORDER BY cursor"
        return [
            Event(cursor=cursor, job=job, step=step, at=at, **json.loads(document))
            for cursor, job, step, at, document in self._rows(query, id, after)
        ]

    def checkpoint(self, id: str) -> tuple[bytes | None, bytes | None]:
        """Return the state to resume from, and the last picture (PNG)."""
        return next(iter(self._rows("SELECT state, picture FROM checkpoints WHERE job = ?", id)), (None, None))

    # -- requests of other processes

    def request(self, what: Literal["cancel", "finish", "resume"], id: str) -> None:
        """Ask the process that owns the store for something. Raises ValueError for a job that does not exist."""
        self.get(id)
        with self._transaction() as connection:
            connection.execute("INSERT INTO requests (what, job) VALUES (?, ?)", (what, id))

    def pop_requests(self) -> list[tuple[str, str]]:
        """Remove and return what other processes requested: (what, job)."""
        if not self._rows("SELECT 1 FROM requests LIMIT 1"):
            return []
        with self._transaction() as connection:
            requests = connection.execute("SELECT what, job FROM requests ORDER BY number").fetchall()
            connection.execute("DELETE FROM requests")
        return requests


def _write_job(connection: sqlite3.Connection, job: Job, fields: Mapping[str, Any]) -> Job:
    job = Job.model_validate(job.model_dump() | dict(fields))
    connection.execute(
        "UPDATE jobs SET state = ?, document = ? WHERE id = ?", (job.state, job.model_dump_json(), job.id)
    )
    return job


def _lock_file(file: Path) -> Any:
    """Lock a file for as long as this process lives."""
    handle = file.open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise ValueError(
            f"another process owns the jobs in {file.parent}; end it, or name another EXPLORER_DATA"
        ) from error
    return handle
