"""The ledger: every job there is, what happened to it, and from where it goes on. One SQLite file; loads no torch.

One process writes jobs, events and checkpoints: the page's. Others leave requests, which it applies. An event and the
checkpoint that belongs to it are one transaction, so a job goes on from exactly what was last told of it.
"""

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

State = Literal["queued", "running", "cancelling", "finishing", "done", "failed", "interrupted"]
ENDED = ("done", "failed", "interrupted")
VERSION = 2
SCHEMA = """
CREATE TABLE jobs (id TEXT PRIMARY KEY, state TEXT NOT NULL, owner TEXT NOT NULL, created REAL NOT NULL,
    document TEXT NOT NULL);
CREATE INDEX by_state ON jobs (state, created);
CREATE TABLE events (cursor INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    step INTEGER NOT NULL, at REAL NOT NULL, document TEXT NOT NULL, UNIQUE (job, step));
CREATE TABLE checkpoints (job TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE, state BLOB, picture BLOB);
CREATE TABLE requests (number INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT NOT NULL, job TEXT NOT NULL);
"""
MIGRATIONS = {1: ""}  # from a version to the next; 2 knows jobs that are finishing


def folder() -> Path:
    """Where the page keeps its jobs: EXPLORER_DATA or ./data, then jobs."""
    return Path(os.environ.get("EXPLORER_DATA") or "data") / "jobs"


class Job(BaseModel):
    """One run of a method: what was asked, how far it is, how it ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    owner: str
    method: str
    model: str
    settings: dict[str, Any]  # the method's config, all of it
    prompts: tuple[str, ...] = ()
    state: State = "queued"
    created: float
    started: float | None = None  # of the attempt of the moment
    ended: float | None = None
    told: float | None = None  # when it made its last step
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

    def ran(self, now: float) -> float:
        """Seconds that it has run until `now`, over all attempts."""
        return self.seconds + (max(0.0, now - self.started) if self.started else 0.0)


class Event(BaseModel):
    """One step of a job. The cursor grows over all jobs; told again, a step keeps its place."""

    model_config = ConfigDict(frozen=True)

    cursor: int
    job: str
    step: int
    at: float
    total: int
    message: str
    numbers: dict[str, float]


class Ledger:
    """Opens or makes the file `folder`/ledger.sqlite; `said` holds a sentence if a damaged one was set aside.

    Results lie beside it in `folder`/results. With `owned`, this process is the one that writes: raises ValueError
    while another one is.
    """

    def __init__(self, folder: Path, owned: bool = True):
        self.folder, self.file, self.said = folder, folder / "ledger.sqlite", ""
        self.results = folder / "results"
        self.results.mkdir(parents=True, exist_ok=True)
        self._lock, self._held = RLock(), _hold(folder / "ledger.lock") if owned else None
        try:
            self._connection = _opened(self.file)
        except sqlite3.DatabaseError as error:
            if not owned:
                raise ValueError(f"{self.file} is damaged: {error}") from error
            aside = folder / f"ledger.damaged-{int(time.time())}.sqlite"
            for end in ("", "-wal", "-shm"):
                part = self.file.with_name(self.file.name + end)
                if part.exists():
                    part.rename(aside.with_name(aside.name + end))
            self.said = f"the ledger of jobs was damaged ({error}); it lies in {aside.name}, and a new one was begun"
            self._connection = _opened(self.file)

    def close(self) -> None:
        with self._lock:
            self._connection.close()
        if self._held:
            self._held.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, whole or not at all. Raises ValueError where the disk is full."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.OperationalError as error:
                self._undo()
                raise ValueError(f"the ledger of jobs cannot be written: {error}") from error
            except BaseException:
                self._undo()
                raise

    def _undo(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _rows(self, query: str, *values: Any) -> list[tuple]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    # -- jobs

    def add(self, job: Job) -> None:
        with self._change() as there:
            there.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?)",
                (job.id, job.state, job.owner, job.created, job.model_dump_json()),
            )

    def get(self, id: str) -> Job:
        """Raises ValueError for a job that there is not."""
        rows = self._rows("SELECT document FROM jobs WHERE id = ?", id)
        if not rows:
            raise ValueError(f"there is no job {id!r}; see them all with the command jobs list")
        return Job.model_validate_json(rows[0][0])

    def jobs(self, *states: State, owner: str | None = None) -> list[Job]:
        """Oldest first: those in these states (default: all) of this owner (default: everybody's)."""
        marks = ", ".join("?" * len(states))
        wanted = [f"state IN ({marks})"] * bool(states) + ["owner = ?"] * (owner is not None)
        where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
        values = (*states, *([owner] if owner is not None else []))
        rows = self._rows(f"SELECT document FROM jobs {where} ORDER BY created, id", *values)
        return [Job.model_validate_json(document) for (document,) in rows]

    def change(self, id: str, **fields: Any) -> Job:
        """The job with these fields changed."""
        with self._change() as there:
            return _changed(there, self.get(id), fields)

    def place(self, id: str) -> int:
        """How many jobs are before it in the queue."""
        waiting = [job.id for job in self.jobs("queued")]
        return waiting.index(id) if id in waiting else 0

    def forget(self, id: str) -> None:
        """Delete a job, its events, its checkpoint and its result."""
        result = self.get(id).result
        with self._change() as there:
            there.execute("DELETE FROM jobs WHERE id = ?", (id,))
        if result:
            (self.results / result).unlink(missing_ok=True)

    # -- what it told

    def tell(self, id: str, step: Mapping[str, Any], state: bytes | None = None, picture: bytes | None = None) -> None:
        """Write down one step, {done, total, message, numbers}, with the state to go on from, if there is one.

        A step that was told before, by an attempt that got farther than its last checkpoint, is written over.
        """
        document = json.dumps({name: step[name] for name in ("total", "message", "numbers")})
        progress = {name: step[name] for name in ("done", "total", "message")} | {"crashes": 0, "told": time.time()}
        with self._change() as there:
            there.execute(
                "INSERT INTO events (job, step, at, document) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (job, step) DO UPDATE SET at = excluded.at, document = excluded.document",
                (id, step["done"], progress["told"], document),
            )
            there.execute("INSERT OR IGNORE INTO checkpoints (job) VALUES (?)", (id,))
            for name, value in (("state", state), ("picture", picture)):
                if value is not None:
                    there.execute(f"UPDATE checkpoints SET {name} = ? WHERE job = ?", (value, id))
            _changed(there, self.get(id), progress)

    def events(self, id: str, after: int = 0) -> list[Event]:
        """What a job told after a cursor."""
        query = "SELECT cursor, job, step, at, document FROM events WHERE job = ? AND cursor > ? ORDER BY cursor"
        return [
            Event(cursor=cursor, job=job, step=step, at=at, **json.loads(document))
            for cursor, job, step, at, document in self._rows(query, id, after)
        ]

    def checkpoint(self, id: str) -> tuple[bytes | None, bytes | None]:
        """The state to go on from, and the last picture (PNG)."""
        return next(iter(self._rows("SELECT state, picture FROM checkpoints WHERE job = ?", id)), (None, None))

    # -- requests of other processes

    def ask(self, what: Literal["cancel", "finish", "resume"], id: str) -> None:
        """Ask the process that owns the ledger for something. Raises ValueError for a job that there is not."""
        self.get(id)
        with self._change() as there:
            there.execute("INSERT INTO requests (what, job) VALUES (?, ?)", (what, id))

    def asked(self) -> list[tuple[str, str]]:
        """What others asked since the last time: (what, job)."""
        if not self._rows("SELECT 1 FROM requests LIMIT 1"):
            return []
        with self._change() as there:
            found = there.execute("SELECT what, job FROM requests ORDER BY number").fetchall()
            there.execute("DELETE FROM requests")
        return found


def _changed(there: sqlite3.Connection, job: Job, fields: Mapping[str, Any]) -> Job:
    job = Job.model_validate(job.model_dump() | dict(fields))
    there.execute("UPDATE jobs SET state = ?, document = ? WHERE id = ?", (job.state, job.model_dump_json(), job.id))
    return job


def _opened(file: Path) -> sqlite3.Connection:
    """A connection to a ledger of this version; an older one is brought up to it, a newer one refused."""
    connection = sqlite3.connect(file, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
        if (broken := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(broken)
        _migrate(connection, file)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, file: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise ValueError(f"{file} was written by a newer version of this project ({version}, known is {VERSION})")
    while version < VERSION:
        script = MIGRATIONS[version] if version else SCHEMA
        version = version + 1 if version else VERSION
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {version}; COMMIT;")


def _hold(file: Path) -> Any:
    """A lock for as long as this process lives."""
    held = file.open("w")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        held.close()
        raise ValueError(
            f"another process owns the jobs in {file.parent}; end it, or name another EXPLORER_DATA"
        ) from error
    return held
