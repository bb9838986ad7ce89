"""Executors: the same items from each, one run a visitor, stopped at once, and a crash is a sentence."""

import os
import signal
import time
from threading import Thread

import pytest

from explorer import experiment
from explorer.experiment import Question
from explorer.jobs.executors import CRASHED, PLACES, InProcess, OneProcess

LONG = {"steps": 400, "guidance": 1.0, "ratio": 0.5}


@pytest.fixture(scope="module")
def one_process():
    executor = OneProcess()
    yield executor
    executor.close()


@pytest.fixture(params=["in process", "one process"])
def executor(request, one_process):
    return InProcess() if request.param == "in process" else one_process


@pytest.fixture
def ask(sd_folder):
    def question(**fields):
        return Question(**{"model": str(sd_folder), "steps": 6, "guidance": 3.0} | fields)

    return question


def test_items_are_those_of_the_work(executor, ask):
    expected = list(experiment.compare(ask()))
    found = list(executor.run("me", "compare", ask()))
    assert [(frame.role, frame.call, frame.picture) for frame in found] == [
        (frame.role, frame.call, frame.picture) for frame in expected
    ]
    (plan,) = executor.run("me", "plan", ask())
    assert plan.kept == experiment.plan(ask()).kept


def test_features_are_measured_with_progress(executor, ask):
    *progress, found = executor.run("me", "measure", ask())
    assert [step.done for step in progress] == [1] and found.header.calls == 6 and found.header.pictures == 1


def test_a_mistake_arrives_as_one_sentence_and_the_next_run_works(executor, ask):
    with pytest.raises(ValueError, match="the ratio must be between 0 and"):
        list(executor.run("me", "plan", ask(ratio=1.0)))
    assert len(list(executor.run("me", "plan", ask()))) == 1


def test_a_second_run_of_a_visitor_ends_the_first_and_leaves_others_alone(executor, ask):
    first, other = executor.run("me", "compare", ask(**LONG)), executor.run("you", "compare", ask(**LONG))
    next(first), next(other)
    second = executor.run("me", "compare", ask())
    next(second)
    assert executor.busy("me", "compare") and not executor.busy("me", "plan")
    rest = list(first)
    assert len(rest) < 400 and not any(frame.done for frame in rest)
    assert next(other).call >= 2 and len(list(second)) > 2
    assert not executor.busy("me", "compare") and executor.busy("you", "compare")
    other.close()
    assert not executor.busy("you", "compare")


def test_a_run_is_stopped_within_a_second(executor, ask):
    run, came = executor.run("me", "compare", ask(**LONG | {"steps": 1000})), []
    reader = Thread(target=lambda: came.extend(run))
    reader.start()
    while len(came) < 2:
        time.sleep(0.01)
    started = time.monotonic()
    executor.stop("me")
    reader.join(5)
    assert time.monotonic() - started < 1 and not any(frame.done for frame in came)


def test_a_crash_is_a_sentence_and_the_next_run_works(one_process, ask):
    for _ in range(3):  # the next run is asked for at once, while the dead process may not have been buried yet
        run = one_process.run("me", "compare", ask(**LONG))
        next(run)
        before = one_process.pid
        os.kill(before, signal.SIGKILL)
        with pytest.raises(ValueError, match="has stopped") as said:
            list(run)
        assert str(said.value) == CRASHED
        assert len(list(one_process.run("me", "plan", ask()))) == 1 and one_process.pid != before


def test_a_plan_does_not_wait_for_those_who_draw(one_process, ask):
    drawing = [one_process.run(f"visitor {number}", "compare", ask(**LONG)) for number in range(PLACES + 2)]
    threads = [Thread(target=list, args=(run,)) for run in drawing]
    for thread in threads:
        thread.start()
    while not all(one_process.busy(f"visitor {number}", "compare") for number in range(PLACES + 2)):
        time.sleep(0.01)
    assert len(list(one_process.run("me", "plan", ask()))) == 1
    assert all(one_process.busy(f"visitor {number}", "compare") for number in range(PLACES + 2))
    for number in range(PLACES + 2):
        one_process.stop(f"visitor {number}")
    for thread in threads:
        thread.join()
