"""The tables of the job store, and how files of older versions become files of this one."""

import sqlite3
from pathlib import Path

VERSION = 2
TIMEOUT_S = 5  # to wait for another process that writes
DAMAGED = (11, 26)  # SQLITE_CORRUPT and SQLITE_NOTADB: what the file holds, not whether it can be reached now
SQLITE_FILES = ("", "-wal", "-shm")  # the ends of what belongs to one database
SCHEMA = """
CREATE TABLE jobs (id TEXT PRIMARY KEY, state TEXT NOT NULL, owner TEXT NOT NULL, created REAL NOT NULL,
    document TEXT NOT NULL, method TEXT, model TEXT, done INTEGER, total INTEGER);
CREATE INDEX by_state ON jobs (state, created);
CREATE TABLE events (cursor INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    step INTEGER NOT NULL, at REAL NOT NULL, document TEXT NOT NULL, UNIQUE (job, step));
CREATE TABLE checkpoints (job TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE, state BLOB, picture BLOB);
CREATE TABLE requests (number INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT NOT NULL, job TEXT NOT NULL);
"""
MIGRATIONS: dict[int, str] = {  # version -> the script that makes the next version of it
    1: """
ALTER TABLE jobs ADD COLUMN method TEXT;
ALTER TABLE jobs ADD COLUMN model TEXT;
ALTER TABLE jobs ADD COLUMN done INTEGER;
ALTER TABLE jobs ADD COLUMN total INTEGER;
UPDATE jobs SET method = json_extract(document, '$.method'), model = json_extract(document, '$.model'),
    done = json_extract(document, '$.done'), total = json_extract(document, '$.total') WHERE json_valid(document);
""",
}


class DamagedError(sqlite3.DatabaseError):
    """A file that is no store, or no whole one."""


def open_database(file: Path) -> sqlite3.Connection:
    """Connect to a store of this version; an older one is migrated, a newer one refused with a ValueError.

    Raises DamagedError where SQLite says so, and for an empty file; other errors of SQLite (a full disk, a lock) say
    nothing about what the file holds.
    """
    if file.is_file() and not file.stat().st_size:
        raise DamagedError("the file is empty")
    connection = sqlite3.connect(file, timeout=TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
        if (broken := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise DamagedError(broken)
        _migrate(connection, file)
    except BaseException as error:
        connection.close()
        if is_damage(error):
            raise DamagedError(str(error)) from error
        raise
    return connection


def is_damage(error: BaseException) -> bool:
    """Tell whether an error says that the file itself is damaged."""
    code = getattr(error, "sqlite_errorcode", None)  # since Python 3.11
    if code is None:
        return isinstance(error, sqlite3.DatabaseError) and (
            "malformed" in str(error) or "not a database" in str(error)
        )
    return code & 0xFF in DAMAGED


def _migrate(connection: sqlite3.Connection, file: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise ValueError(f"{file} was written by a newer version of this project ({version}, known is {VERSION})")
    if not version:
        connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        return
    for old in range(version, VERSION):
        script = f"{MIGRATIONS[old]} PRAGMA user_version = {old + 1};"
        connection.executescript(f"BEGIN IMMEDIATE; {script} COMMIT;")


def move_if_there(file: Path, target: Path) -> None:
    """Rename a file, if it exists."""
    if file.exists():
        file.rename(target)
