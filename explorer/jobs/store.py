"""The job store: every job, what happened to it, and from where it resumes. One SQLite file; loads no torch.

One process writes jobs, events and checkpoints: the page's. Others leave requests, which it applies. An event and the
checkpoint that belongs to it are one transaction, so a job resumes from exactly its last event.
"""

import fcntl
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any, Literal

from explorer.jobs.job import Event, Job, JobRow, State, read_job
from explorer.jobs.store_schema import SQLITE_FILES, DamagedError, move_if_there, open_database
from explorer.settings import settings

RETRY_S = 5.0  # between two tries to open a file that cannot be reached


def jobs_folder() -> Path:
    """Return the folder in which the page keeps its jobs."""
    return settings().data / "jobs"


class StoreUnavailableError(ValueError):
    """The file cannot be read or written now: the disk is full, say, or another process locks it."""


class JobStore:
    """Opens or makes the file `folder`/jobs.sqlite; `warning` holds a sentence if a damaged one was set aside.

    Results are beside it in `folder`/results. With `owned`, this process is the one that writes: raises ValueError
    while another one is. Where the disk is full or the file locked, every method raises StoreUnavailableError until it
    is no longer.
    """

    def __init__(self, folder: Path, owned: bool = True):
        self.folder, self.file, self.owned, self.warning = folder, folder / "jobs.sqlite", owned, ""
        self.results = folder / "results"
        try:
            self.results.mkdir(parents=True, exist_ok=True)
            self._lock, self._lock_held = RLock(), _lock_file(folder / "jobs.lock") if owned else None
        except OSError as error:
            raise ValueError(f"the folder {folder} cannot be used: {error.strerror}") from error
        self._opened: sqlite3.Connection | None = None
        self._retry_at, self._reason = 0.0, ""
        with suppress(StoreUnavailableError):
            self._connection  # noqa: B018 (opens it)

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None and time.monotonic() >= self._retry_at:
            try:
                self._opened = self._open()
            except sqlite3.Error as error:
                self._reason, self._retry_at = f"{error}", time.monotonic() + RETRY_S
        if self._opened is None:
            raise StoreUnavailableError(f"the jobs cannot be read now ({self._reason}); nothing is lost, try again")
        return self._opened

    def _open(self) -> sqlite3.Connection:
        """Connect; a damaged file is set aside first. Raises ValueError for one that another process owns."""
        try:
            return open_database(self.file)
        except DamagedError as error:
            if not self.owned:
                raise ValueError(f"{self.file} is damaged: {error}") from error
            aside = self.folder / f"jobs.damaged-{int(time.time())}.sqlite"
            for end in SQLITE_FILES:
                move_if_there(self.file.with_name(self.file.name + end), aside.with_name(aside.name + end))
            self.warning = f"the job store was damaged ({error}); it is kept as {aside.name}, and a new one was begun"
            return open_database(self.file)

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
        if self._lock_held:
            self._lock_held.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Make one transaction, whole or not at all. Raises StoreUnavailableError where it cannot be written."""
        with self._lock:
            connection = self._connection
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise StoreUnavailableError(f"the job store cannot be written: {error}") from error
                raise

    def _rows(self, query: str, *values: Any) -> list[tuple]:
        with self._lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise StoreUnavailableError(f"the job store cannot be read: {error}") from error

    # -- jobs

    def add(self, job: Job) -> None:
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (job.id, job.state, job.owner, job.created, job.model_dump_json(), *_listed(job)),
            )

    def get(self, id: str) -> Job:
        """Return a job. Raises ValueError for one that does not exist."""
        rows = self._rows("SELECT id, state, owner, created, document FROM jobs WHERE id = ?", id)
        if not rows:
            raise ValueError(f"there is no job {id[:40]!r}; see them all with the command jobs list")
        return read_job(*rows[0])

    def jobs(self, *states: State, owner: str | None = None) -> list[Job]:
        """List the jobs in these states (default: all) of this owner (default: of all), oldest first."""
        where, values = _condition(states, owner)
        query = f"SELECT id, state, owner, created, document FROM jobs {where} ORDER BY created, id"
        found = [read_job(*row) for row in self._rows(query, *values)]
        return [job for job in found if not states or job.state in states]  # an unreadable one is failed

    def list_rows(self, *states: State, owner: str | None = None, limit: int = -1) -> list[JobRow]:
        """List what a list shows of jobs, newest first; without reading their documents, which may be long."""
        where, values = _condition(states, owner)
        columns = ", ".join(JobRow._fields)
        query = f"SELECT {columns} FROM jobs {where} ORDER BY created DESC, id DESC LIMIT ?"
        return [JobRow(*row) for row in self._rows(query, *values, limit)]

    def update(self, id: str, **fields: Any) -> Job:
        """Change fields of a job; returns the job."""
        with self._transaction() as connection:
            return _write_job(connection, self.get(id), fields)

    def queue_position(self, id: str) -> int:
        """Count the jobs before it in the queue."""
        waiting = [row.id for row in reversed(self.list_rows("queued"))]
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
    values = (job.state, job.model_dump_json(), *_listed(job), job.id)
    connection.execute(
        "UPDATE jobs SET state = ?, document = ?, method = ?, model = ?, done = ?, total = ? WHERE id = ?", values
    )
    return job


def _listed(job: Job) -> tuple[str, str, int, int]:
    return job.method, job.model, job.done, job.total


def _condition(states: Sequence[State], owner: str | None) -> tuple[str, tuple[str, ...]]:
    """Make the WHERE clause of these states and this owner, and its values."""
    marks = ", ".join("?" * len(states))
    conditions = [f"state IN ({marks})"] * bool(states) + ["owner = ?"] * (owner is not None)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    return where, (*states, *([owner] if owner is not None else []))


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
