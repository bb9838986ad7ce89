"""The job store: atomic writes; older, newer, damaged and locked files."""

import sqlite3
import subprocess
import sys
import time

import pytest

from explorer.jobs import store as module
from explorer.jobs import store_schema
from explorer.jobs.job import UNREADABLE, Job
from explorer.jobs.store import JobStore, StoreUnavailableError

STEP = {"done": 1, "total": 3, "message": "distance 0.5", "metrics": {"distance": 0.5}}


@pytest.fixture
def store(tmp_path):
    found = JobStore(tmp_path)
    yield found
    found.close()


def job(id="a", owner="me", **fields):
    fields = {"settings": {"seed": 7}} | fields
    return Job(id=id, owner=owner, method="dipgo", model="emoji-unet", created=time.time(), **fields)


def test_a_job_is_found_again_with_its_events(store, tmp_path):
    store.add(job())
    store.record_event("a", STEP, b"state", b"picture")
    store.record_event("a", STEP | {"done": 2, "message": "distance 0.4"})
    store.close()
    again = JobStore(tmp_path)
    found = again.get("a")
    assert (found.done, found.total, found.message, found.seed) == (2, 3, "distance 0.4", 7)
    assert again.checkpoint("a") == (b"state", b"picture")
    assert [event.step for event in again.events("a")] == [1, 2]
    assert again.events("a", after=again.events("a")[0].cursor)[0].message == "distance 0.4"
    again.close()


def test_a_step_recorded_again_keeps_its_place(store):
    store.add(job())
    for message in ("first", "again"):
        store.record_event("a", STEP | {"message": message})
    (event,) = store.events("a")
    assert event.message == "again" and event.metrics == {"distance": 0.5}


def test_step_and_checkpoint_are_written_together_or_not_at_all(store, monkeypatch):
    store.add(job())
    store.record_event("a", STEP, b"one")

    def fail(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(module, "_write_job", fail)
    with pytest.raises(ValueError, match="disk is full"):
        store.record_event("a", STEP | {"done": 2}, b"two")
    assert store.checkpoint("a")[0] == b"one" and len(store.events("a")) == 1


def test_full_disk_is_one_sentence_and_loses_nothing(store):
    store.add(job())
    store.record_event("a", STEP, b"one")
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ValueError, match="cannot be written: database or disk is full"):
        store.record_event("a", STEP | {"done": 2}, b"x" * 10**6)
    assert store.checkpoint("a")[0] == b"one" and store.get("a").done == 1
    store._connection.execute("PRAGMA max_page_count = 100000")
    store.record_event("a", STEP | {"done": 2}, b"x" * 10**6)
    assert store.get("a").done == 2


def test_jobs_are_found_by_state_and_owner_with_queue_positions(store):
    for id, owner in (("a", "me"), ("b", "you"), ("c", "me")):
        store.add(job(id, owner))
    store.update("a", state="running")
    assert [one.id for one in store.jobs("queued")] == ["b", "c"]
    assert [one.id for one in store.jobs(owner="me")] == ["a", "c"]
    assert [one.id for one in store.jobs("queued", "running", owner="me")] == ["a", "c"]
    assert (store.queue_position("a"), store.queue_position("b"), store.queue_position("c")) == (0, 0, 1)


def test_a_deleted_job_leaves_nothing(store, tmp_path):
    store.add(job())
    store.record_event("a", STEP, b"state")
    (store.results / "a.safetensors").write_bytes(b"result")
    store.update("a", state="done", result="a.safetensors")
    store.delete("a")
    assert not list(store.results.iterdir()) and not store.events("a") and store.checkpoint("a") == (None, None)
    with pytest.raises(ValueError, match="there is no job 'a'"):
        store.get("a")


def test_another_process_reads_and_requests_but_does_not_own(store, tmp_path):
    store.add(job())
    code = f"""
from pathlib import Path
from explorer.jobs.store import JobStore
store = JobStore(Path({str(tmp_path)!r}), owned=False)
print(store.get("a").state)
store.request("cancel", "a")
try:
    JobStore(Path({str(tmp_path)!r}))
except ValueError as error:
    print(error)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.startswith("queued") and "another process owns the jobs" in output
    assert store.pop_requests() == [("cancel", "a")] and store.pop_requests() == []


@pytest.mark.parametrize("damage", [b"", b"not a database at all" * 500])
def test_a_damaged_store_is_set_aside_and_never_deleted(tmp_path, damage):
    first = JobStore(tmp_path)
    first.add(job())
    first.close()
    content = (tmp_path / "jobs.sqlite").read_bytes()
    (tmp_path / "jobs.sqlite").write_bytes(content[:5000] + damage + content[5000 + len(damage) :][:3000])
    damaged = (tmp_path / "jobs.sqlite").read_bytes()
    again = JobStore(tmp_path)
    (aside,) = tmp_path.glob("jobs.damaged-*.sqlite")
    assert aside.name in again.warning and aside.read_bytes() == damaged and again.jobs() == []
    again.add(job("b"))
    again.close()


def test_an_empty_file_is_set_aside_and_said(tmp_path):
    (tmp_path / "jobs.sqlite").touch()
    store = JobStore(tmp_path)
    assert "empty" in store.warning and len(list(tmp_path.glob("jobs.damaged-*.sqlite"))) == 1
    store.close()


@pytest.mark.parametrize("reason", ["database or disk is full", "disk I/O error", "unable to open database file"])
def test_healthy_store_that_cannot_be_opened_now_is_kept_and_taken_up_later(tmp_path, monkeypatch, reason):
    first = JobStore(tmp_path)
    first.add(job())
    first.close()

    def fail(*_):
        raise sqlite3.OperationalError(reason)

    with monkeypatch.context() as patch:
        patch.setattr(module, "open_database", fail)
        patch.setattr(module, "RETRY_S", 0)
        store = JobStore(tmp_path)
        for use in (store.jobs, store.list_rows, lambda: store.get("a"), lambda: store.add(job("b"))):
            with pytest.raises(StoreUnavailableError, match=f"cannot be read now .{reason}"):
                use()
    assert not store.warning and not list(tmp_path.glob("jobs.damaged-*"))
    assert [one.id for one in store.jobs()] == ["a"]
    store.close()


def test_locked_store_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    monkeypatch.setattr(store_schema, "TIMEOUT_S", 0.1)
    first = JobStore(tmp_path)
    first.add(job())
    first.close()
    other = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(module, "RETRY_S", 0)
    store = JobStore(tmp_path)
    with pytest.raises(StoreUnavailableError, match="locked"):
        store.jobs()
    other.close()
    assert [one.id for one in store.jobs()] == ["a"] and not store.warning
    store.close()


@pytest.mark.parametrize("document", ["{", '{"id": "a"}', "", "null"])
@pytest.mark.parametrize("state", ["done", "running", "queued"])
def test_one_unreadable_row_is_shown_as_such_and_breaks_nothing(store, document, state):
    store.add(job())
    store.add(job("b"))
    store._connection.execute("UPDATE jobs SET document = ?, state = ? WHERE id = 'a'", (document, state))
    broken = store.get("a")
    assert (broken.method, broken.state, broken.owner) == (UNREADABLE, "failed", "me") and "damaged" in broken.error
    assert [one.id for one in store.jobs()] == ["a", "b"] and [one.id for one in store.jobs("queued")] == ["b"]
    assert {row.id for row in store.list_rows()} == {"a", "b"}
    store.delete("a")
    assert [one.id for one in store.jobs()] == ["b"]


def test_a_list_reads_no_documents_and_has_a_limit(store):
    for number in range(5):
        store.add(job(f"{number}", prompts=("x" * 400,) * 1000))
    rows = store.list_rows("queued", owner="me", limit=2)
    assert [row.id for row in rows] == ["4", "3"] and rows[0].method == "dipgo" and rows[0].total == 0
    store.record_event("4", STEP)
    assert (store.list_rows(limit=1)[0].done, store.list_rows(limit=1)[0].total) == (1, 3)


def test_store_of_version_1_gets_the_columns_of_its_list(tmp_path):
    store = JobStore(tmp_path)
    store.add(job())
    for column in ("method", "model", "done", "total"):
        store._connection.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
    store._connection.execute("PRAGMA user_version = 1")
    store.close()
    again = JobStore(tmp_path)
    assert again.list_rows()[0][4:] == ("dipgo", "emoji-unet", 0, 0) and again.get("a").id == "a"
    again.close()


def test_an_older_store_is_migrated_and_a_newer_one_is_refused(tmp_path, monkeypatch):
    first = JobStore(tmp_path)
    first.add(job())
    first.close()
    now = store_schema.VERSION
    script = "ALTER TABLE requests ADD COLUMN why TEXT;"
    monkeypatch.setattr(store_schema, "VERSION", now + 1)
    monkeypatch.setattr(store_schema, "MIGRATIONS", store_schema.MIGRATIONS | {now: script})
    second = JobStore(tmp_path)
    assert second.get("a").id == "a" and second._rows("SELECT why FROM requests") == []
    second.close()
    monkeypatch.setattr(store_schema, "VERSION", now)
    with pytest.raises(ValueError, match="written by a newer version"):
        JobStore(tmp_path)
