"""Jobs: what was asked is learned, whoever is killed in between; stopped at once, resumed exactly, nobody else's."""

import os
import signal
import time

import psutil
import pytest
from safetensors.numpy import load_file

from explorer.jobs import foreman as module
from explorer.jobs import works
from explorer.jobs.cluster import Cluster, checked
from explorer.jobs.executors import InProcess, LostError
from explorer.jobs.foreman import Limits
from explorer.jobs.ledger import ENDED, Ledger
from explorer.masks import Importance
from tests.job_fixtures import PROMPTS, SMALL, same, undisturbed, wait


@pytest.fixture(scope="module")
def cluster():
    found = Cluster()
    yield found
    found.close()


@pytest.mark.parametrize("kind", ["in process", "cluster"])
def test_a_job_ends_with_what_the_method_finds_and_every_step_is_told(kind, hire, tiny, request):
    foreman = hire(InProcess() if kind == "in process" else request.getfixturevalue("cluster"))
    job = foreman.submit("me", "dipgo", tiny, SMALL, PROMPTS)
    job = wait(foreman, job.id)
    assert job.state == "done" and job.error is None and job.seconds > 0, job.error
    assert [event.step for event in foreman.ledger.events(job.id)] == [1, 2, 3, 4, 5]
    assert foreman.ledger.checkpoint(job.id)[1].startswith(b"\x89PNG")
    assert same(foreman, job, undisturbed(tiny))


def test_a_mask_is_made_where_a_ratio_is_asked(hire, tiny):
    foreman = hire(InProcess())
    job = foreman.submit("me", "uniform", tiny, {"steps": 6, "ratio": 0.5})
    job = wait(foreman, job.id)
    assert set(load_file(foreman.ledger.results / job.result)) == {"schedule"}


def test_stopped_within_two_seconds_and_resumed_to_the_same_end(hire, tiny, cluster):
    foreman = hire(cluster)
    job = foreman.submit("me", "dipgo", tiny, SMALL | {"iterations": 12}, PROMPTS)
    wait(foreman, job.id, "running", until=lambda job: job.done >= 2)
    started = time.monotonic()
    foreman.stop(job.id, "me")
    stopped = wait(foreman, job.id, "interrupted")
    assert time.monotonic() - started < 2 and 2 <= stopped.done < 12 and stopped.error is None
    time.sleep(1)
    assert foreman.ledger.get(job.id).done == stopped.done and not cluster.busy(job.id, "prune")
    foreman.resume(job.id, "me")
    ended = wait(foreman, job.id)
    assert ended.state == "done", ended.error
    assert same(foreman, ended, undisturbed(tiny, iterations=12))
    assert [event.step for event in foreman.ledger.events(job.id)] == list(range(1, 13))


def test_a_long_step_says_how_far_it_is(hire, tiny, monkeypatch):
    monkeypatch.setattr(works, "BEAT", 0.002)
    foreman, seen = hire(InProcess()), set()
    job = foreman.submit("me", "dipgo", tiny, SMALL, PROMPTS)
    while foreman.ledger.get(job.id).state not in ENDED:
        seen.add(foreman.beats.get(job.id, (0, 0)))
    first, later = {calls for calls, of in seen if not of}, {beat for beat in seen if beat[1]}
    assert max(first) > 5 and later and all(0 <= calls < 2 * of for calls, of in later)
    assert not foreman.beats and same(foreman, foreman.ledger.get(job.id), undisturbed(tiny))


@pytest.mark.parametrize("when", ["running", "interrupted"])
def test_finished_early_it_is_what_its_steps_have_found(when, hire, tiny):
    foreman = hire(InProcess())
    job = foreman.submit("me", "dipgo", tiny, SMALL | {"iterations": 12}, PROMPTS)
    with pytest.raises(ValueError, match="somebody else's"):
        foreman.finish(job.id, "you")
    wait(foreman, job.id, "running", until=lambda job: job.done >= 2)
    if when == "interrupted":
        foreman.stop(job.id, "me")
        wait(foreman, job.id, "interrupted")
    foreman.finish(job.id, "me")
    ended = wait(foreman, job.id, "done")
    assert 2 <= ended.done < 12 and same(foreman, ended, undisturbed(tiny, iterations=12, end=ended.done))
    assert Importance.load(foreman.ledger.results / ended.result).header.pruner.config["end"] == ended.done
    with pytest.raises(ValueError, match="is done"):
        foreman.finish(job.id, "me")


def test_what_has_found_nothing_yet_cannot_be_finished(hire, tiny):
    foreman = hire(InProcess(), at_once=0)
    for method, why in (("dipgo", "has made no step yet"), ("uniform", "has an answer only when it is done")):
        job = foreman.submit("me", method, tiny, {"steps": 6})
        with pytest.raises(ValueError, match=why):
            foreman.finish(job.id, "me")
        assert foreman.ledger.get(job.id).state == "queued"


@pytest.mark.parametrize("act", ["stop", "finish"])
def test_whoever_asks_while_an_attempt_begins_is_heard(act, hire, tiny):
    class Late(InProcess):
        """Begins a while after it was told to."""

        def run(self, *asked):
            time.sleep(1)
            yield from super().run(*asked)

    foreman = hire(Late())
    job = foreman.submit("me", "dipgo", tiny, SMALL | {"iterations": 4000}, PROMPTS)
    wait(foreman, job.id, "running", until=lambda job: job.done >= 1)
    foreman.stop(job.id)
    wait(foreman, job.id, "interrupted")
    foreman.resume(job.id)
    wait(foreman, job.id, "running")
    getattr(foreman, act)(job.id)
    assert wait(foreman, job.id).state == {"stop": "interrupted", "finish": "done"}[act]


def test_a_page_that_ends_amid_a_finish_finishes_when_it_starts_again(hire, tiny):
    first = hire(InProcess())
    job = first.submit("me", "dipgo", tiny, SMALL | {"iterations": 12}, PROMPTS)
    wait(first, job.id, "running", until=lambda job: job.done >= 2)
    first.close()
    first.ledger.change(job.id, state="finishing")  # as it was when the page was killed
    first.ledger.close()
    second = hire(InProcess())
    ended = wait(second, job.id, "done")
    assert 2 <= ended.done < 12 and same(second, ended, undisturbed(tiny, iterations=12, end=ended.done))


def test_workers_share_a_job_and_end_with_it(hire, tiny, cluster):
    foreman = hire(cluster, workers=2)
    shared = {"batch": 2, "share": 1, "iterations": 2}
    job = foreman.submit("me", "dipgo", tiny, SMALL | shared, PROMPTS)
    wait(foreman, job.id, "running", until=lambda job: job.done >= 1)
    ((dask, _),) = [(one.process.pid, one) for one in cluster._local.workers.values()]
    (hirer,) = [one for one in psutil.Process(dask).children() if len(one.children()) >= 2]
    workers = [one for one in hirer.children() if "spawn_main" in " ".join(one.cmdline())]
    assert len(workers) == 2 and {one.nice() for one in workers} == {hirer.nice()}
    ended = wait(foreman, job.id)
    assert ended.state == "done", ended.error
    assert same(foreman, ended, undisturbed(tiny, **shared))
    assert psutil.wait_procs(workers, timeout=10)[1] == []


def test_a_killed_worker_is_made_good_for(hire, tiny, cluster):
    foreman = hire(cluster)
    job = foreman.submit("me", "dipgo", tiny, SMALL | {"iterations": 12}, PROMPTS)
    for step in (2, 6):
        wait(foreman, job.id, "running", until=lambda job, step=step: job.done >= step)
        ((worker, _),) = [(one.process.pid, one) for one in cluster._local.workers.values()]
        os.kill(worker, signal.SIGKILL)
    ended = wait(foreman, job.id)
    assert ended.state == "done" and same(foreman, ended, undisturbed(tiny, iterations=12))


def test_the_next_page_goes_on_where_the_last_one_ended(hire, tiny):
    first = hire(InProcess())
    job = first.submit("me", "dipgo", tiny, SMALL | {"iterations": 12}, PROMPTS)
    wait(first, job.id, "running", until=lambda job: job.done >= 2)
    first.close()
    first.ledger.close()
    second = hire(InProcess())
    assert 2 <= second.ledger.get(job.id).done < 12
    ended = wait(second, job.id)
    assert ended.state == "done" and same(second, ended, undisturbed(tiny, iterations=12))


def test_a_job_that_crashes_three_times_without_a_step_has_failed(hire, tiny, monkeypatch):
    def crash(*_):
        raise LostError("the worker is gone")
        yield

    monkeypatch.setattr("explorer.jobs.executors.WORKS", works.WORKS | {"prune": crash})
    foreman = hire(InProcess())
    job = wait(foreman, foreman.submit("me", "dipgo", tiny, SMALL).id)
    assert job.state == "failed" and job.error == "the worker is gone, 3 times" and job.crashes == 3


def test_mistakes_and_faults_are_told_and_not_tried_again(hire, tiny, monkeypatch):
    foreman = hire(InProcess())
    job = wait(foreman, foreman.submit("me", "deepcache", tiny, {"steps": 6, "ratio": 0.99}).id)
    assert job.state == "failed" and "ratio" in job.error and "\n" not in job.error

    def fault(*_):
        raise RuntimeError("Traceback: a fault of ours")
        yield

    monkeypatch.setattr("explorer.jobs.executors.WORKS", works.WORKS | {"prune": fault})
    job = wait(foreman, foreman.submit("me", "dipgo", tiny, SMALL).id)
    assert job.state == "failed" and "a fault of ours" in job.error


def test_a_full_disk_interrupts_and_room_resumes(hire, tiny, monkeypatch):
    foreman = hire(InProcess())
    tell, full = foreman.ledger.tell, [True]

    def until_full(id, step, *rest):
        if step["done"] == 3 and full:
            raise ValueError("the ledger of jobs cannot be written: database or disk is full")
        tell(id, step, *rest)

    monkeypatch.setattr(foreman.ledger, "tell", until_full)
    job = wait(foreman, foreman.submit("me", "dipgo", tiny, SMALL, PROMPTS).id)
    assert job.state == "interrupted" and "make room, then resume it" in job.error and job.done == 2
    full.clear()
    foreman.resume(job.id)
    ended = wait(foreman, job.id, "done")
    assert same(foreman, ended, undisturbed(tiny)) and ended.error is None


def test_nobody_touches_the_job_of_another(hire, tiny):
    foreman = hire(InProcess(), at_once=0)
    job = foreman.submit("me", "uniform", tiny, {})
    for touch in (foreman.stop, foreman.resume, foreman.forget):
        with pytest.raises(ValueError, match="somebody else's"):
            touch(job.id, "you")
    assert foreman.stop(job.id, "me").state == "interrupted"
    foreman.forget(job.id, "me")
    assert foreman.ledger.jobs() == []


def test_limits_are_sentences_and_the_queue_has_places(hire, tiny):
    foreman = hire(InProcess(), at_once=0, a_visitor=2, in_all=3)
    first, second = (foreman.submit("me", "uniform", tiny, {}) for _ in range(2))
    assert (foreman.ledger.place(first.id), foreman.ledger.place(second.id)) == (0, 1)
    with pytest.raises(ValueError, match="you have 2 jobs that are not finished"):
        foreman.submit("me", "uniform", tiny, {})
    foreman.submit("you", "uniform", tiny, {})
    with pytest.raises(ValueError, match="3 jobs are waiting, which is the most"):
        foreman.submit("them", "uniform", tiny, {})
    with pytest.raises(ValueError, match="batch"):
        foreman.submit("them", "dipgo", tiny, {"batch": 0})
    with pytest.raises(ValueError, match="the job holds a prompt of more than 500 characters"):
        foreman.submit("them", "dipgo", tiny, SMALL, ["a" * 501])
    with pytest.raises(ValueError, match="reads files by name"):
        foreman.submit("them", "ecodiff-released", tiny, {"attention": "/etc/passwd", "feedforward": "/etc/passwd"})
    with pytest.raises(ValueError, match="weights of 'sd15' are not here"):
        foreman.submit("them", "uniform", "sd15", {})


def test_what_takes_too_long_is_stopped_with_a_sentence(hire, tiny):
    foreman = hire(InProcess())
    job = foreman.submit("me", "dipgo", tiny, SMALL | {"iterations": 4000}, PROMPTS)
    wait(foreman, job.id, "running", until=lambda job: job.done > 0)
    foreman.limits = Limits(minutes=0.01)
    job = wait(foreman, job.id)
    assert job.state == "interrupted" and job.error.startswith("it was stopped after 0.01 minutes")


def test_requests_of_the_command_line_are_applied(hire, tiny, monkeypatch):
    monkeypatch.setattr(module, "LOOK_EVERY", 0.05)
    foreman = hire(InProcess())
    job = foreman.submit("me", "dipgo", tiny, SMALL | {"iterations": 4000}, PROMPTS)
    wait(foreman, job.id, "running", until=lambda job: job.done > 0)
    other = Ledger(foreman.ledger.folder, owned=False)
    other.ask("cancel", job.id)
    assert wait(foreman, job.id).state == "interrupted"
    other.close()


@pytest.mark.parametrize(
    ("address", "said"),
    [("tcp://192.0.2.1:8786", "must be; use tls"), ("cluster", "no address"), ("http://localhost:1", "no address")],
)
def test_only_encrypted_schedulers_beyond_this_machine(address, said):
    with pytest.raises(ValueError, match=said):
        checked(address)
    assert checked("tls://192.0.2.1:8786") and checked("tcp://127.0.0.1:8786")


def test_a_scheduler_that_is_not_there_leaves_the_job_queued(hire, tiny, monkeypatch):
    monkeypatch.setattr("explorer.jobs.cluster.PATIENCE", 0.5)
    foreman = hire(Cluster("tcp://127.0.0.1:9"))
    job = foreman.submit("me", "uniform", tiny, {})
    wait(foreman, job.id, "running")
    assert wait(foreman, job.id, "queued").crashes == 0
