"""Executors: the same items from each, one run per visitor, stopped at once; a crash is one sentence;
which executor the jobs have."""

import os
import signal
import time
from functools import partial
from threading import Thread

import psutil
import pytest

from explorer import experiment
from explorer.experiment import ExperimentRequest
from explorer.jobs import tasks
from explorer.jobs.executors import make_job_executor
from explorer.jobs.executors.base import MAX_CONCURRENT
from explorer.jobs.executors.dask import DaskExecutor, check_address
from explorer.jobs.executors.inline import InlineExecutor
from explorer.jobs.executors.own_process import OwnProcessExecutor
from explorer.jobs.executors.process import CRASHED, ProcessExecutor
from tests.job_fixtures import runs

pytestmark = pytest.mark.slow

LONG = {"steps": 1000, "guidance": 1.0}


@pytest.fixture(scope="module")
def one_process():
    executor = ProcessExecutor()
    yield executor
    executor.close()


@pytest.fixture(params=["inline", "one process"])
def executor(request, one_process):
    return InlineExecutor() if request.param == "inline" else one_process


@pytest.fixture(params=["inline", "one process", "own process"])
def any_executor(request, one_process):
    return {"inline": InlineExecutor, "own process": OwnProcessExecutor}.get(request.param, lambda: one_process)()


@pytest.fixture
def new_request(sd_folder):
    return partial(ExperimentRequest, model=str(sd_folder), steps=6, guidance=3.0)


def test_items_are_those_of_the_task(executor, new_request):
    expected = list(experiment.compare(new_request()))
    found = list(executor.run("me", tasks.compare, new_request()))
    assert [(frame.role, frame.call, frame.picture) for frame in found] == [
        (frame.role, frame.call, frame.picture) for frame in expected
    ]
    (plan,) = executor.run("me", tasks.plan, new_request())
    assert plan.kept == experiment.plan(new_request()).kept


def test_features_are_measured_with_progress(executor, new_request):
    *progress, found = executor.run("me", tasks.measure, new_request())
    assert [step.done for step in progress] == [1] and found.header.calls == 6 and found.header.pictures == 1


def test_an_error_of_the_user_arrives_as_one_sentence_and_the_next_run_works(executor, new_request):
    with pytest.raises(ValueError, match="the ratio must be between 0 and"):
        list(executor.run("me", tasks.plan, new_request(ratio=1.0)))
    assert len(list(executor.run("me", tasks.plan, new_request()))) == 1


def test_a_second_run_of_a_visitor_ends_the_first_and_leaves_those_of_others(any_executor, new_request):
    executor = any_executor
    first, other = (executor.run(visitor, tasks.compare, new_request(**LONG)) for visitor in ("me", "you"))
    next(first), next(other)
    second = executor.run("me", tasks.compare, new_request())
    next(second)
    assert executor.is_busy("me", tasks.compare) and not executor.is_busy("me", tasks.plan)
    assert list(first) == []  # nor what it had sent before it was ended
    assert next(other).call >= 2 and len(list(second)) > 2
    assert not executor.is_busy("me", tasks.compare) and executor.is_busy("you", tasks.compare)
    other.close()
    assert not executor.is_busy("you", tasks.compare)


def test_a_stopped_run_ends_early(any_executor, new_request):
    executor = any_executor
    run, items = executor.run("me", tasks.compare, new_request(**LONG)), []
    reader = Thread(target=lambda: items.extend(run))
    reader.start()
    while len(items) < 2:
        time.sleep(0.01)
    executor.stop("me")
    reader.join(30)
    assert not reader.is_alive() and not any(frame.done for frame in items)


def test_crash_is_one_sentence_and_the_next_run_works(one_process, new_request):
    for _ in range(3):  # the next run is requested at once, while the dead process may not have been joined yet
        run = one_process.run("me", tasks.compare, new_request(**LONG))
        next(run)
        before = one_process.pid
        os.kill(before, signal.SIGKILL)
        with pytest.raises(ValueError, match="has stopped") as error:
            list(run)
        assert str(error.value) == CRASHED
        assert len(list(one_process.run("me", tasks.plan, new_request()))) == 1 and one_process.pid != before


def test_run_after_a_failed_start_of_its_process_works(new_request, monkeypatch):
    def fail(process):
        raise ConnectionRefusedError("the process that forks others has just ended")

    executor = ProcessExecutor()
    with monkeypatch.context() as failing, pytest.raises(ValueError, match="has stopped"):
        failing.setattr("multiprocessing.process.BaseProcess.start", fail)
        list(executor.run("me", tasks.plan, new_request()))
    assert not executor.is_busy("me", tasks.plan) and executor.pid is None
    for server in psutil.Process().children():  # it starts again as well
        if runs(server, "multiprocessing.forkserver"):
            server.kill()
            while server.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
    assert len(list(executor.run("me", tasks.plan, new_request()))) == 1
    executor.close()


def test_neither_plans_nor_other_addresses_wait_for_a_flood_of_generations(one_process, new_request):
    visitors = [f"visitor {number}" for number in range(MAX_CONCURRENT + 2)]
    long = new_request(**LONG)
    runs = [one_process.run(visitor, tasks.compare, long, address="flood") for visitor in visitors]
    threads = [Thread(target=list, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    while not all(one_process.is_busy(visitor, tasks.compare) for visitor in visitors):
        time.sleep(0.01)
    assert len(list(one_process.run("me", tasks.plan, new_request(), address="flood"))) == 1
    assert list(one_process.run("me", tasks.compare, new_request(), address="another"))[-1].done
    assert all(one_process.is_busy(visitor, tasks.compare) for visitor in visitors)
    for visitor in visitors:
        one_process.stop(visitor)
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("address", "reason"),
    [("tcp://192.0.2.1:8786", "must be; use tls"), ("cluster", "no address"), ("http://localhost:1", "no address")],
)
def test_remote_schedulers_must_be_encrypted(address, reason):
    with pytest.raises(ValueError, match=reason):
        check_address(address)
    assert check_address("tls://192.0.2.1:8786") and check_address("tcp://127.0.0.1:8786")


def test_scheduler_setting_selects_the_job_executor(monkeypatch):
    assert isinstance(make_job_executor(), OwnProcessExecutor)
    monkeypatch.setenv("EXPLORER_SCHEDULER", "tcp://127.0.0.1:9")
    assert isinstance(make_job_executor(), DaskExecutor)
    monkeypatch.setenv("EXPLORER_SCHEDULER", "tcp://192.0.2.1:8786")
    with pytest.raises(ValueError, match="must be; use tls"):
        make_job_executor()
