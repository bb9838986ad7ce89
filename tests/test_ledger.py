"""The ledger of jobs: what is written stays, together or not at all; older, newer, damaged and foreign files."""

import sqlite3
import subprocess
import sys
import time

import pytest

from explorer.jobs import ledger as module
from explorer.jobs.ledger import Job, Ledger

STEP = {"done": 1, "total": 3, "message": "distance 0.5", "numbers": {"distance": 0.5}}


@pytest.fixture
def ledger(tmp_path):
    found = Ledger(tmp_path)
    yield found
    found.close()


def job(id="a", owner="me", **fields):
    return Job(
        id=id, owner=owner, method="dipgo", model="emoji-unet", settings={"seed": 7}, created=time.time(), **fields
    )


def test_a_job_is_found_again_with_what_it_told(ledger, tmp_path):
    ledger.add(job())
    ledger.tell("a", STEP, b"state", b"picture")
    ledger.tell("a", STEP | {"done": 2, "message": "distance 0.4"})
    ledger.close()
    again = Ledger(tmp_path)
    found = again.get("a")
    assert (found.done, found.total, found.message, found.seed) == (2, 3, "distance 0.4", 7)
    assert again.checkpoint("a") == (b"state", b"picture")
    assert [event.step for event in again.events("a")] == [1, 2]
    assert again.events("a", after=again.events("a")[0].cursor)[0].message == "distance 0.4"
    again.close()


def test_a_step_told_again_keeps_its_place(ledger):
    ledger.add(job())
    for message in ("first", "again"):
        ledger.tell("a", STEP | {"message": message})
    (event,) = ledger.events("a")
    assert event.message == "again" and event.numbers == {"distance": 0.5}


def test_step_and_checkpoint_are_written_together_or_not_at_all(ledger, monkeypatch):
    ledger.add(job())
    ledger.tell("a", STEP, b"one")

    def fail(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(module, "_changed", fail)
    with pytest.raises(ValueError, match="disk is full"):
        ledger.tell("a", STEP | {"done": 2}, b"two")
    assert ledger.checkpoint("a")[0] == b"one" and len(ledger.events("a")) == 1


def test_a_disk_that_is_really_full_is_a_sentence_and_nothing_is_lost(ledger):
    ledger.add(job())
    ledger.tell("a", STEP, b"one")
    (pages,) = ledger._connection.execute("PRAGMA page_count").fetchone()
    ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ValueError, match="cannot be written: database or disk is full"):
        ledger.tell("a", STEP | {"done": 2}, b"x" * 10**6)
    assert ledger.checkpoint("a")[0] == b"one" and ledger.get("a").done == 1
    ledger._connection.execute("PRAGMA max_page_count = 100000")
    ledger.tell("a", STEP | {"done": 2}, b"x" * 10**6)
    assert ledger.get("a").done == 2


def test_jobs_are_found_by_state_and_owner_and_know_their_place(ledger):
    for id, owner in (("a", "me"), ("b", "you"), ("c", "me")):
        ledger.add(job(id, owner))
    ledger.change("a", state="running")
    assert [one.id for one in ledger.jobs("queued")] == ["b", "c"]
    assert [one.id for one in ledger.jobs(owner="me")] == ["a", "c"]
    assert [one.id for one in ledger.jobs("queued", "running", owner="me")] == ["a", "c"]
    assert (ledger.place("a"), ledger.place("b"), ledger.place("c")) == (0, 0, 1)


def test_what_is_forgotten_leaves_nothing(ledger, tmp_path):
    ledger.add(job())
    ledger.tell("a", STEP, b"state")
    (ledger.results / "a.safetensors").write_bytes(b"result")
    ledger.change("a", state="done", result="a.safetensors")
    ledger.forget("a")
    assert not list(ledger.results.iterdir()) and not ledger.events("a") and ledger.checkpoint("a") == (None, None)
    with pytest.raises(ValueError, match="there is no job 'a'"):
        ledger.get("a")


def test_another_process_reads_and_asks_but_does_not_own(ledger, tmp_path):
    ledger.add(job())
    code = f"""
from pathlib import Path
from explorer.jobs.ledger import Ledger
there = Ledger(Path({str(tmp_path)!r}), owned=False)
print(there.get("a").state)
there.ask("cancel", "a")
try:
    Ledger(Path({str(tmp_path)!r}))
except ValueError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("queued") and "another process owns the jobs" in said
    assert ledger.asked() == [("cancel", "a")] and ledger.asked() == []


@pytest.mark.parametrize("damage", [b"", b"not a database at all" * 500])
def test_a_damaged_ledger_is_set_aside_and_never_deleted(tmp_path, damage):
    first = Ledger(tmp_path)
    first.add(job())
    first.close()
    content = (tmp_path / "ledger.sqlite").read_bytes()
    (tmp_path / "ledger.sqlite").write_bytes(content[:5000] + damage + content[5000 + len(damage) :][:3000])
    spoilt = (tmp_path / "ledger.sqlite").read_bytes()
    again = Ledger(tmp_path)
    (aside,) = tmp_path.glob("ledger.damaged-*.sqlite")
    assert aside.name in again.said and aside.read_bytes() == spoilt and again.jobs() == []
    again.add(job("b"))
    again.close()


def test_an_older_ledger_is_brought_up_and_a_newer_one_is_refused(tmp_path, monkeypatch):
    first = Ledger(tmp_path)
    first.add(job())
    first.close()
    now = module.VERSION
    monkeypatch.setattr(module, "VERSION", now + 1)
    monkeypatch.setattr(module, "MIGRATIONS", module.MIGRATIONS | {now: "ALTER TABLE requests ADD COLUMN why TEXT;"})
    second = Ledger(tmp_path)
    assert second.get("a").id == "a" and second._rows("SELECT why FROM requests") == []
    second.close()
    monkeypatch.setattr(module, "VERSION", now)
    with pytest.raises(ValueError, match="written by a newer version"):
        Ledger(tmp_path)
