"""Jobs where something is wrong with what is stored: a damaged row, a method that is gone, a full disk, old results."""

import json
import sqlite3
import time

import pytest

from explorer.jobs import manager, store
from explorer.jobs.executors.inline import InlineExecutor
from explorer.jobs.job import Job, result_name
from explorer.jobs.manager import MAX_PROMPTS
from explorer.jobs.mask_library import MaskLibrary
from explorer.jobs.store import JobStore
from explorer.ui.views.optimize import JobView
from tests.job_fixtures import PROMPTS, SMALL, wait

pytestmark = pytest.mark.slow

UNIFORM = {"steps": 4, "ratio": 0.5}


def add_job(folder, id, state="queued", **fields):
    about = {"method": "uniform", "model": "emoji-unet", "settings": {}, "created": time.time()} | fields
    jobs = JobStore(folder)
    jobs.add(Job(id=id, owner="me", state=state, **about))
    jobs.close()


def set_document(folder, id, document):
    with sqlite3.connect(folder / "jobs.sqlite") as connection:
        connection.execute("UPDATE jobs SET document = ? WHERE id = ?", (document, id))
    connection.close()


@pytest.mark.parametrize("state", ["queued", "running", "done"])
def test_page_starts_with_an_unreadable_row_and_runs_other_jobs(tmp_path, job_manager, tiny, state):
    add_job(tmp_path, "broken", state)
    set_document(tmp_path, "broken", '{"id": 1')
    manager = job_manager(InlineExecutor())
    assert wait(manager, manager.submit("me", "uniform", tiny, UNIFORM).id).state == "done"
    rows = JobView(manager, InlineExecutor()).rows("me", "all")
    assert {row["id"] for row in rows} >= {"broken"} and len(rows) == 2
    with pytest.raises(ValueError, match="damaged; it can only be deleted"):
        manager.resume("broken", "me")
    with pytest.raises(ValueError, match="another visitor"):
        manager.delete("broken", "you")
    manager.delete("broken", "me")


def test_job_of_a_method_that_is_gone_fails_with_a_sentence(tmp_path, job_manager, tiny):
    add_job(tmp_path, "old", method="oldmethod")
    manager = job_manager(InlineExecutor())
    old = wait(manager, "old")
    assert old.state == "failed" and "no method 'oldmethod'" in old.error
    with pytest.raises(ValueError, match="no method 'oldmethod'"):
        manager.resume("old", "me")
    assert JobView(manager, InlineExecutor()).update(old, [], fresh=True)


def test_jobs_are_taken_up_when_the_store_can_be_read(tmp_path, job_manager, tiny, monkeypatch):
    add_job(tmp_path, "waiting", model=tiny, settings=UNIFORM)

    def fail(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(store, "RETRY_S", 0)
    with monkeypatch.context() as patch:
        patch.setattr(store, "open_database", fail)
        page = job_manager(InlineExecutor())
        rows = JobView(page, InlineExecutor()).rows("me", "all")
        assert "disk is full" in rows[0]["cells"][0]
        assert MaskLibrary(tmp_path / "masks", page.store).owned_by("me") == []
        with pytest.raises(ValueError, match="disk is full"):
            page.submit("me", "uniform", tiny, UNIFORM)
    assert wait(page, "waiting").state == "done"


def test_ended_jobs_and_uploads_are_deleted_after_the_days_that_the_operator_allows(tmp_path, job_manager, tiny):
    add_job(tmp_path, "old", "done", created=1.0, ended=time.time() - 8 * 86_400)
    add_job(tmp_path, "new", "done", created=1.0, ended=time.time() - 6 * 86_400)
    manager = job_manager(InlineExecutor(), keep_days=7)
    (manager.store.results / result_name("old")).touch()
    done = wait(manager, manager.submit("me", "uniform", tiny, UNIFORM).id)
    assert {row.id for row in manager.store.list_rows()} == {"new", done.id}

    folder = tmp_path / "masks"
    first = MaskLibrary(folder).add(manager.store.results / done.result, "mine", "me")
    info = folder / f"{first.id}.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"created": time.time() - 8 * 86_400}))
    second = MaskLibrary(folder, keep_days=7).add(manager.store.results / done.result, "mine", "me")
    assert {file.stem for file in folder.iterdir()} == {second.id}


def test_a_job_has_a_thousand_prompts_at_most(job_manager, tiny):
    page = job_manager(InlineExecutor())
    with pytest.raises(ValueError, match="1,000 prompts here, and this one has 1,001"):
        page.submit("me", "uniform", tiny, UNIFORM, ["dog"] * (MAX_PROMPTS + 1))
    assert page.store.list_rows() == []


def test_limit_of_an_attempt_holds_when_the_clock_is_set(job_manager, tiny, monkeypatch):
    page = job_manager(InlineExecutor(), max_minutes=1000)
    id = page.submit("me", "dipgo", tiny, SMALL | {"iterations": 100_000}, PROMPTS).id
    wait(page, id, "running", until=lambda job: job.done >= 1)
    hour_later = time.time() + 1_000_000
    monkeypatch.setattr(manager.time, "time", lambda: hour_later)
    done = page.store.get(id).done
    assert wait(page, id, "running", until=lambda job: job.done >= done + 2).state == "running"
    page.stop(id)
    stopped = wait(page, id, "interrupted")
    assert stopped.error is None and stopped.done >= done + 2
