"""The tables of the job store, and how files of older versions become files of this one."""

import sqlite3
from pathlib import Path

VERSION = 1
SQLITE_FILES = ("", "-wal", "-shm")  # the ends of what belongs to one database
SCHEMA = """
CREATE TABLE jobs (id TEXT PRIMARY KEY, state TEXT NOT NULL, owner TEXT NOT NULL, created REAL NOT NULL,
    document TEXT NOT NULL);
CREATE INDEX by_state ON jobs (state, created);
CREATE TABLE events (cursor INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    step INTEGER NOT NULL, at REAL NOT NULL, document TEXT NOT NULL, UNIQUE (job, step));
CREATE TABLE checkpoints (job TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE, state BLOB, picture BLOB);
CREATE TABLE requests (number INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT NOT NULL, job TEXT NOT NULL);
"""
MIGRATIONS: dict[int, str] = {}  # version -> the script that makes the next version of it


def open_database(file: Path) -> sqlite3.Connection:
    """Connect to a store of this version; an older one is migrated, a newer one refused."""
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
