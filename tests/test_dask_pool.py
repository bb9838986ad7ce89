"""Searches over the workers of a scheduler: what one process finds, whoever is killed; nobody stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import psutil
import pytest

from explorer import catalogue
from explorer.experiment import config_of, prune
from explorer.jobs import cluster as module
from explorer.jobs.executors import LostError
from explorer.jobs.processes import Machines, Processes, hired
from explorer.work import finished
from tests.job_fixtures import PROMPTS, SMALL, gone, same, undisturbed, wait

SHARED = {"batch": 2, "share": 1, "iterations": 4}


@pytest.fixture(scope="module")
def scheduler():
    """Two workers, as `jobs work` would bring them."""
    from distributed import LocalCluster

    module._settle()
    with LocalCluster(2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=0) as found:
        yield found


def works(process):
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False


def pieces_of(scheduler):
    """Per worker of Dask the processes that it has started to work."""
    workers = [psutil.Process(one.process.pid) for one in scheduler.workers.values()]
    return [[one for one in worker.children() if works(one)] for worker in workers]


def at_rest(pids, seconds=20.0):
    """Nobody computes any more; some may keep the model for a while."""
    deadline, before = time.monotonic() + seconds, None
    while (now := [spent(pid) for pid in pids]) != before and time.monotonic() < deadline:
        before = now
        time.sleep(0.5)
    return now == before


def spent(pid):
    try:
        return psutil.Process(pid).cpu_times()[:2]
    except psutil.NoSuchProcess:
        return 0, 0


def parents(model):
    return lambda seconds: (time.sleep(seconds), os.getppid(), os.getpid())[1:]


def refusing(model):
    def answer(number):
        if number > 1:
            raise ValueError(f"{number} is too many")
        return number

    return answer


def sleeping(model, folder):
    def answer():
        (Path(folder) / f"{os.getpid()}").touch()
        time.sleep(600)

    return answer


def test_a_job_is_shared_by_the_workers_and_ends_the_same_though_one_is_killed(hire, tiny, scheduler):
    foreman = hire(module.Cluster(scheduler.scheduler_address), workers=2)
    job = foreman.submit("me", "dipgo", tiny, SMALL | SHARED, PROMPTS)
    wait(foreman, job.id, "running", until=lambda job: job.done >= 1)
    started = pieces_of(scheduler)
    assert sorted(map(len, started)) == [1, 2]  # a piece's each, and on one of them the run that asks
    (alone,) = min(started, key=len)
    alone.send_signal(signal.SIGKILL)
    ended = wait(foreman, job.id)
    assert ended.state == "done" and ended.crashes == 0, ended.error
    assert same(foreman, ended, undisturbed(tiny, **SHARED))
    assert [event.step for event in foreman.ledger.events(job.id)] == [1, 2, 3, 4]


def test_who_stops_a_shared_job_stops_its_pieces(hire, tiny, scheduler):
    foreman = hire(module.Cluster(scheduler.scheduler_address), workers=2)
    job = foreman.submit("me", "dipgo", tiny, SMALL | SHARED | {"iterations": 400}, PROMPTS)
    wait(foreman, job.id, "running", until=lambda job: job.done >= 1)
    working, started = [one.pid for some in pieces_of(scheduler) for one in some], time.monotonic()
    foreman.stop(job.id, "me")
    assert wait(foreman, job.id).state == "interrupted" and time.monotonic() - started < 2
    assert len(working) == 3 and at_rest(working)


def test_the_model_stays_with_a_worker_from_piece_to_piece(tiny, scheduler):
    with Machines(2, scheduler.scheduler_address, tiny) as team:
        crew = team.crew(parents)
        first, second = (dict(crew([(0.5,)] * 4)) for _ in range(2))
        assert set(first) == {one.process.pid for one in scheduler.workers.values()} and first == second
        mistaken = team.crew(refusing)
        assert list(mistaken([(0,), (1,)])) == [0, 1]
        with pytest.raises(ValueError, match=r"^2 is too many$"):
            list(mistaken([(0,), (2,), (1,)]))


def test_nobody_works_for_a_team_that_is_closed(tiny, scheduler, tmp_path):
    team = Machines(2, scheduler.scheduler_address, tiny)
    crew = team.crew(sleeping, str(tmp_path))
    asker = Thread(target=lambda: pytest.raises(LostError, list, crew([(), (), ()])))
    asker.start()
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
    team.close()
    asker.join(10)
    assert not asker.is_alive() and gone([int(file.name) for file in tmp_path.iterdir()], 20)


def test_the_address_of_a_scheduler_decides_who_is_hired(tiny, scheduler, monkeypatch):
    with hired(2, tiny) as team:
        assert isinstance(team, Processes)
    assert hired(1, tiny).__enter__() is None
    monkeypatch.setenv("EXPLORER_SCHEDULER", scheduler.scheduler_address)
    with hired(2, tiny) as team:
        assert isinstance(team, Machines)
        bred = config_of("genetic", {"steps": 6, "ratio": 0.6, "pictures": 2, "population": 4, "budget": 6, "brood": 2})
        subject = catalogue.load(tiny)
        shared, alone = (finished(prune(subject, "genetic", bred, PROMPTS, team=one)) for one in (team, None))
        assert (shared.keep == alone.keep).all()
    monkeypatch.setenv("EXPLORER_SCHEDULER", "tcp://192.0.2.1:8786")
    with pytest.raises(ValueError, match="must be; use tls"):
        hired(2, tiny)


def test_a_process_that_nobody_needs_goes(monkeypatch):
    monkeypatch.setattr(module, "IDLE", 0.2)
    kept = module._Kept()
    with kept.lent() as process, pytest.raises(RuntimeError):
        list(process.run("me", "no such work"))
    assert process.pid and gone([process.pid], 20)


def test_a_worker_of_this_machine_listens_to_nobody_else(scheduler):
    """Last, for it is one more worker."""
    with subprocess.Popen([sys.executable, "-m", "explorer", "jobs", "work", scheduler.scheduler_address]) as command:
        deadline = time.monotonic() + 60
        while len(scheduler.scheduler.workers) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        family = [started := psutil.Process(command.pid), *started.children(recursive=True)]
        open_to = {one.laddr.ip for process in family for one in process.net_connections() if one.status == "LISTEN"}
        command.send_signal(signal.SIGINT)
    assert open_to == {"127.0.0.1"}


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_is_interrupted_while_it_starts_ends(scheduler, told):
    with subprocess.Popen([sys.executable, "-m", "explorer", "jobs", "work", scheduler.scheduler_address]) as command:
        starting = psutil.Process(command.pid)
        while not starting.children():
            time.sleep(0.01)
        family = starting.children(recursive=True)
        command.send_signal(told)
        assert command.wait(30) == 0
    assert gone([one.pid for one in family])
