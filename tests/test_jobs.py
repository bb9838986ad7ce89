"""Jobs: each has the result of an uninterrupted run, whichever process is killed, and only its owner controls it."""

import os
import signal
import time
from dataclasses import replace
from threading import Event

import pytest
from safetensors.numpy import load_file

from explorer.jobs import manager, tasks
from explorer.jobs.executors import own_process
from explorer.jobs.executors.base import WorkerLostError
from explorer.jobs.executors.dask import DaskExecutor
from explorer.jobs.executors.inline import InlineExecutor
from explorer.jobs.executors.own_process import OwnProcessExecutor
from explorer.jobs.job import ENDED
from explorer.jobs.manager import Limits
from explorer.jobs.store import JobStore
from explorer.masks.schedule import ScheduleImportance
from tests.job_fixtures import PROMPTS, SMALL, all_exited, forks, has_result, reference_result, wait, workers_of

pytestmark = pytest.mark.slow

EXECUTORS = {"inline": InlineExecutor, "own process": OwnProcessExecutor}


@pytest.fixture(params=["own process", pytest.param("cluster", marks=pytest.mark.cluster)])
def killable(request):
    """Make an executor whose processes may be killed."""
    if request.param == "own process":
        return OwnProcessExecutor()
    return DaskExecutor(request.getfixturevalue("cluster").scheduler_address)


@pytest.mark.parametrize("kind", EXECUTORS)
def test_job_ends_with_the_result_of_the_method_and_records_every_step(kind, job_manager, tiny):
    job_manager = job_manager(EXECUTORS[kind]())
    job = wait(job_manager, job_manager.submit("me", "dipgo", tiny, SMALL, PROMPTS).id)
    assert job.state == "done" and job.error is None and job.seconds > 0, job.error
    assert [event.step for event in job_manager.store.events(job.id)] == [1, 2, 3, 4, 5]
    assert job_manager.store.checkpoint(job.id)[1].startswith(b"\x89PNG")
    assert has_result(job_manager, job, reference_result(tiny))


def test_a_job_with_a_ratio_ends_with_a_mask(job_manager, tiny):
    job_manager = job_manager(InlineExecutor())
    job = wait(job_manager, job_manager.submit("me", "uniform", tiny, {"steps": 6, "ratio": 0.5}).id)
    assert set(load_file(job_manager.store.results / job.result)) == {"schedule"}


def test_a_stopped_job_ends_at_once_and_resumes_to_the_same_result(job_manager, tiny, killable):
    job_manager = job_manager(killable)
    job = job_manager.submit("me", "dipgo", tiny, SMALL | {"iterations": 12}, PROMPTS)
    wait(job_manager, job.id, "running", until=lambda job: job.done >= 2)
    job_manager.stop(job.id, "me")
    stopped = wait(job_manager, job.id, "interrupted")
    assert 2 <= stopped.done < 12 and stopped.error is None
    assert job_manager.store.get(job.id).done == stopped.done and not killable.is_busy(job.id, tasks.prune)
    job_manager.resume(job.id, "me")
    ended = wait(job_manager, job.id)
    assert ended.state == "done", ended.error
    assert has_result(job_manager, ended, reference_result(tiny, iterations=12))
    assert [event.step for event in job_manager.store.events(job.id)] == list(range(1, 13))


def test_a_long_step_reports_how_many_calls_it_has_made(job_manager, tiny, monkeypatch):
    monkeypatch.setattr(tasks, "HEARTBEAT_S", 0.002)
    job_manager, seen = job_manager(InlineExecutor()), set()
    job = job_manager.submit("me", "dipgo", tiny, SMALL, PROMPTS)
    while job_manager.store.get(job.id).state not in ENDED:
        seen.add(job_manager.heartbeats.get(job.id, (0, 0)))
        time.sleep(0.001)
    first, later = {calls for calls, of in seen if not of}, {beat for beat in seen if beat[1]}
    assert max(first) > 5 and later and all(0 <= calls < 2 * of for calls, of in later)
    assert not job_manager.heartbeats and has_result(job_manager, job_manager.store.get(job.id), reference_result(tiny))


@pytest.mark.parametrize("when", ["running", "interrupted"])
def test_a_job_finished_early_ends_with_the_result_of_its_steps(when, job_manager, tiny):
    job_manager = job_manager(InlineExecutor())
    job = job_manager.submit("me", "dipgo", tiny, SMALL | {"iterations": 12}, PROMPTS)
    with pytest.raises(ValueError, match="another visitor"):
        job_manager.finish(job.id, "you")
    wait(job_manager, job.id, "running", until=lambda job: job.done >= 2)
    if when == "interrupted":
        job_manager.stop(job.id, "me")
        wait(job_manager, job.id, "interrupted")
    job_manager.finish(job.id, "me")
    ended = wait(job_manager, job.id, "done")
    assert 2 <= ended.done < 12
    assert has_result(job_manager, ended, reference_result(tiny, iterations=12, stop_after=ended.done))
    header = ScheduleImportance.load(job_manager.store.results / ended.result).header
    assert header.pruner.config["stop_after"] == ended.done
    with pytest.raises(ValueError, match="is done"):
        job_manager.finish(job.id, "me")


def test_a_job_without_a_result_cannot_be_finished(job_manager, tiny):
    job_manager = job_manager(InlineExecutor(), max_concurrent=0)
    for method, why in (("dipgo", "has made no step yet"), ("uniform", "has a result only when it is done")):
        job = job_manager.submit("me", method, tiny, {"steps": 6})
        with pytest.raises(ValueError, match=why):
            job_manager.finish(job.id, "me")
        assert job_manager.store.get(job.id).state == "queued"


@pytest.mark.parametrize("request_name", ["stop", "finish"])
def test_request_during_the_start_of_an_attempt_is_applied(request_name, job_manager, tiny):
    class SlowStartExecutor(InlineExecutor):
        """Begins a run only after it was requested to stop it, which has no effect before."""

        def __init__(self):
            super().__init__()
            self.may_begin = Event()
            self.may_begin.set()

        def run(self, *arguments):
            self.may_begin.wait(240)
            yield from super().run(*arguments)

        def stop(self, owner):
            super().stop(owner)
            self.may_begin.set()

    job_manager = job_manager(executor := SlowStartExecutor())
    job = job_manager.submit("me", "dipgo", tiny, SMALL | {"iterations": 4000}, PROMPTS)
    wait(job_manager, job.id, "running", until=lambda job: job.done >= 1)
    job_manager.stop(job.id)
    wait(job_manager, job.id, "interrupted")
    executor.may_begin.clear()
    job_manager.resume(job.id)
    wait(job_manager, job.id, "running")
    getattr(job_manager, request_name)(job.id)
    assert wait(job_manager, job.id).state == {"stop": "interrupted", "finish": "done"}[request_name]


def test_a_job_that_was_finishing_when_the_page_ended_finishes_with_the_next_page(job_manager, tiny):
    first = job_manager(InlineExecutor())
    job = first.submit("me", "dipgo", tiny, SMALL | {"iterations": 12}, PROMPTS)
    wait(first, job.id, "running", until=lambda job: job.done >= 2)
    first.close()
    first.store.update(job.id, state="finishing")  # as it was when the page was killed
    first.store.close()
    second = job_manager(InlineExecutor())
    ended = wait(second, job.id, "done")
    assert 2 <= ended.done < 12
    assert has_result(second, ended, reference_result(tiny, iterations=12, stop_after=ended.done))


def test_workers_share_a_job_and_end_with_it(job_manager, tiny):
    job_manager = job_manager(OwnProcessExecutor(), workers=2)
    shared = {"batch": 2, "micro_batch": 1, "iterations": 2}
    job = job_manager.submit("me", "dipgo", tiny, SMALL | shared, PROMPTS)
    wait(job_manager, job.id, "running", until=lambda job: job.done >= 1)
    (own,) = [one for one in forks() if len(workers_of(one)) == 2]
    workers = workers_of(own)
    assert {one.nice() for one in workers} == {own.nice()}
    ended = wait(job_manager, job.id)
    assert ended.state == "done", ended.error
    assert has_result(job_manager, ended, reference_result(tiny, **shared))
    assert all_exited([one.pid for one in (own, *workers)])


def test_a_job_whose_process_is_killed_continues_from_its_last_step(job_manager, tiny):
    before = set(forks())
    job_manager = job_manager(OwnProcessExecutor())
    job = job_manager.submit("me", "dipgo", tiny, SMALL | {"iterations": 12}, PROMPTS)
    for step in (2, 6):
        wait(job_manager, job.id, "running", until=lambda job, step=step: job.done >= step)
        (process,) = [one for one in forks() if one not in before]
        before.add(process)
        os.kill(process.pid, signal.SIGKILL)
    ended = wait(job_manager, job.id)
    assert ended.state == "done" and has_result(job_manager, ended, reference_result(tiny, iterations=12))


def test_a_job_that_needs_too_much_memory_fails_with_a_sentence(job_manager, tiny, monkeypatch):
    monkeypatch.setattr(own_process, "CHECK_INTERVAL_S", 0.01)
    job_manager = job_manager(OwnProcessExecutor(memory=2**20))
    job = wait(job_manager, job_manager.submit("me", "dipgo", tiny, SMALL, PROMPTS).id)
    assert job.state == "failed" and job.error == "it used more than 0.0 GB of memory; use a smaller batch"


def test_next_page_continues_the_jobs_of_the_last_one(job_manager, tiny):
    first = job_manager(InlineExecutor())
    job = first.submit("me", "dipgo", tiny, SMALL | {"iterations": 12}, PROMPTS)
    wait(first, job.id, "running", until=lambda job: job.done >= 2)
    first.close()
    first.store.close()
    second = job_manager(InlineExecutor())
    assert 2 <= second.store.get(job.id).done < 12
    ended = wait(second, job.id)
    assert ended.state == "done" and has_result(second, ended, reference_result(tiny, iterations=12))


def test_job_fails_after_three_crashes_without_a_step(job_manager, tiny, monkeypatch):
    def crash(*_):
        raise WorkerLostError("the worker is lost")
        yield

    monkeypatch.setattr(tasks, "prune", crash)
    job_manager = job_manager(InlineExecutor())
    job = wait(job_manager, job_manager.submit("me", "dipgo", tiny, SMALL).id)
    assert job.state == "failed" and job.error == "the worker is lost, 3 times" and job.crashes == 3


def test_a_job_with_an_error_is_not_tried_again(job_manager, tiny, monkeypatch):
    job_manager = job_manager(InlineExecutor())
    job = wait(job_manager, job_manager.submit("me", "deepcache", tiny, {"steps": 6, "ratio": 0.99}).id)
    assert job.state == "failed" and "ratio" in job.error and "\n" not in job.error

    def fault(*_):
        raise RuntimeError("Traceback: a fault of ours")
        yield

    monkeypatch.setattr(tasks, "prune", fault)
    job = wait(job_manager, job_manager.submit("me", "dipgo", tiny, SMALL).id)
    assert job.state == "failed" and "a fault of ours" in job.error


def test_full_disk_interrupts_a_job_that_resumes_later(job_manager, tiny, monkeypatch):
    job_manager = job_manager(InlineExecutor())
    record, full = job_manager.store.record_event, [True]

    def until_full(id, step, *rest):
        if step["done"] == 3 and full:
            raise ValueError("the job store cannot be written: database or disk is full")
        record(id, step, *rest)

    monkeypatch.setattr(job_manager.store, "record_event", until_full)
    job = wait(job_manager, job_manager.submit("me", "dipgo", tiny, SMALL, PROMPTS).id)
    assert job.state == "interrupted" and "make room, then resume it" in job.error and job.done == 2
    full.clear()
    job_manager.resume(job.id)
    ended = wait(job_manager, job.id, "done")
    assert has_result(job_manager, ended, reference_result(tiny)) and ended.error is None


def test_only_the_owner_controls_a_job(job_manager, tiny):
    job_manager = job_manager(InlineExecutor(), max_concurrent=0)
    job = job_manager.submit("me", "uniform", tiny, {})
    for action in (job_manager.stop, job_manager.resume, job_manager.delete):
        with pytest.raises(ValueError, match="another visitor"):
            action(job.id, "you")
    assert job_manager.stop(job.id, "me").state == "interrupted"
    job_manager.delete(job.id, "me")
    assert job_manager.store.jobs() == []


def test_limits_are_user_errors_and_queue_positions_are_counted(job_manager, tiny):
    job_manager = job_manager(InlineExecutor(), max_concurrent=0, max_per_user=2, max_total=3)
    first, second = (job_manager.submit("me", "uniform", tiny, {}) for _ in range(2))
    assert (job_manager.store.queue_position(first.id), job_manager.store.queue_position(second.id)) == (0, 1)
    with pytest.raises(ValueError, match="you have 2 jobs that are not finished"):
        job_manager.submit("me", "uniform", tiny, {})
    own = job_manager.submit("you", "uniform", tiny, {}, address="1.2.3.4")
    job_manager.limits = replace(job_manager.limits, max_per_address=1)
    with pytest.raises(ValueError, match="your address has 1 jobs that are not finished"):
        job_manager.submit("them", "uniform", tiny, {}, address="1.2.3.4")
    job_manager.stop(own.id)
    job_manager.submit("them", "uniform", tiny, {}, address="1.2.3.4")
    with pytest.raises(ValueError, match="your address has 1 jobs that are not finished"):
        job_manager.resume(own.id)
    with pytest.raises(ValueError, match="3 jobs are waiting, which is the limit"):
        job_manager.submit("them", "uniform", tiny, {})
    with pytest.raises(ValueError, match="batch"):
        job_manager.submit("them", "dipgo", tiny, {"batch": 0})
    with pytest.raises(ValueError, match="the job holds a prompt of more than 500 characters"):
        job_manager.submit("them", "dipgo", tiny, SMALL, ["a" * 501])
    with pytest.raises(ValueError, match="reads files of this machine"):
        files = {"attention": "/etc/passwd", "feedforward": "/etc/passwd"}
        job_manager.submit("them", "ecodiff-checkpoint", tiny, files)
    with pytest.raises(ValueError, match="weights of 'sd15' are not here"):
        job_manager.submit("them", "uniform", "sd15", {})


def test_job_is_stopped_at_the_time_limit(job_manager, tiny):
    job_manager = job_manager(InlineExecutor())
    job = job_manager.submit("me", "dipgo", tiny, SMALL | {"iterations": 4000}, PROMPTS)
    wait(job_manager, job.id, "running", until=lambda job: job.done > 0)
    job_manager.limits = Limits(max_minutes=0.01)
    job = wait(job_manager, job.id)
    assert job.state == "interrupted" and job.error.startswith("it was stopped after 0.01 minutes")


def test_requests_of_the_command_line_are_applied(job_manager, tiny, monkeypatch):
    monkeypatch.setattr(manager, "POLL_INTERVAL_S", 0.05)
    job_manager = job_manager(InlineExecutor())
    job = job_manager.submit("me", "dipgo", tiny, SMALL | {"iterations": 4000}, PROMPTS)
    wait(job_manager, job.id, "running", until=lambda job: job.done > 0)
    other = JobStore(job_manager.store.folder, owned=False)
    other.request("cancel", job.id)
    assert wait(job_manager, job.id).state == "interrupted"
    other.close()


def test_unreachable_scheduler_leaves_the_job_queued(job_manager, tiny, monkeypatch):
    monkeypatch.setattr("explorer.jobs.executors.dask.CONNECT_TIMEOUT_S", 0.5)
    job_manager = job_manager(DaskExecutor("tcp://127.0.0.1:9"))
    job = job_manager.submit("me", "uniform", tiny, {})
    wait(job_manager, job.id, "running")
    assert wait(job_manager, job.id, "queued").crashes == 0
