"""Searches on the workers of a scheduler: the same result as in one process, even where one is killed, and all end."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from explorer.experiment import load_cached, prune
from explorer.jobs.executors import dask
from explorer.jobs.executors.base import WorkerLostError
from explorer.jobs.executors.pools import DaskPool, ProcessPool, worker_pool
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from tests.job_fixtures import PROMPTS, SMALL, all_exited, forks, has_result, reference_result, wait

pytestmark = pytest.mark.cluster

SHARED = {"batch": 2, "micro_batch": 1, "iterations": 4}


def task_processes(cluster):
    """List per worker of Dask the processes that it has started for tasks."""
    return [forks(one.process.pid) for one in cluster.workers.values()]


def all_idle(pids, seconds=60.0):
    """Wait until no process computes; some may keep the model for a while."""
    deadline, before = time.monotonic() + seconds, None
    while (now := [cpu_seconds(pid) for pid in pids]) != before and time.monotonic() < deadline:
        before = now
        time.sleep(0.5)
    return now == before


def cpu_seconds(pid):
    try:
        return psutil.Process(pid).cpu_times()[:2]
    except psutil.NoSuchProcess:
        return 0, 0


def process_ids(model):
    return lambda seconds: (time.sleep(seconds), psutil.Process(os.getppid()).ppid(), os.getpid())[1:]


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


def test_shared_job_has_the_same_result_after_a_worker_is_killed(job_manager, tiny, cluster):
    job_manager = job_manager(dask.DaskExecutor(cluster.scheduler_address), workers=2)
    job = job_manager.submit("me", "dipgo", tiny, SMALL | SHARED, PROMPTS)
    wait(job_manager, job.id, "running", until=lambda job: job.done >= 1)
    started = task_processes(cluster)
    assert sorted(map(len, started)) == [1, 2]  # one for items each, and one of them that of the job
    (alone,) = min(started, key=len)
    alone.send_signal(signal.SIGKILL)
    ended = wait(job_manager, job.id)
    assert ended.state == "done" and ended.crashes == 0, ended.error
    assert has_result(job_manager, ended, reference_result(tiny, **SHARED))
    assert [event.step for event in job_manager.store.events(job.id)] == [1, 2, 3, 4]


def test_stopping_a_shared_job_stops_its_workers(job_manager, tiny, cluster):
    job_manager = job_manager(dask.DaskExecutor(cluster.scheduler_address), workers=2)
    job = job_manager.submit("me", "dipgo", tiny, SMALL | SHARED | {"iterations": 400}, PROMPTS)
    wait(job_manager, job.id, "running", until=lambda job: job.done >= 1)
    working = [one.pid for some in task_processes(cluster) for one in some]
    job_manager.stop(job.id, "me")
    assert wait(job_manager, job.id).state == "interrupted"
    assert len(working) == 3 and all_idle(working)


def test_a_worker_keeps_the_model_from_item_to_item(tiny, cluster):
    with DaskPool(2, cluster.scheduler_address, tiny) as pool:
        bind = pool.bind(process_ids)
        first, second = (dict(bind([(0.5,)] * 4)) for _ in range(2))
        assert set(first) == {one.process.pid for one in cluster.workers.values()} and first == second
        failing = pool.bind(refusing)
        assert list(failing([(0,), (1,)])) == [0, 1]
        with pytest.raises(ValueError, match=r"^2 is too many$"):
            list(failing([(0,), (2,), (1,)]))


def test_a_closed_pool_ends_its_workers(tiny, cluster, tmp_path):
    pool = DaskPool(2, cluster.scheduler_address, tiny)
    bind = pool.bind(sleeping, str(tmp_path))
    answers = ThreadPoolExecutor(1).submit(lambda: list(bind([(), (), ()])))
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
    pool.close()
    assert isinstance(answers.exception(60), WorkerLostError)
    assert all_exited([int(file.name) for file in tmp_path.iterdir()], 20)


def test_scheduler_address_selects_the_kind_of_pool(tiny, cluster):
    with worker_pool(2, "", tiny) as pool:
        assert isinstance(pool, ProcessPool)
    assert worker_pool(1, "", tiny).__enter__() is None
    with worker_pool(2, cluster.scheduler_address, tiny) as pool:
        assert isinstance(pool, DaskPool)
        settings = {"steps": 6, "ratio": 0.6, "num_images": 2, "population": 4, "budget": 6, "candidates_per_round": 2}
        config, model = method_config("genetic", settings), load_cached(tiny)
        shared, alone = (
            run_to_completion(prune(model, "genetic", config, PROMPTS, pool=workers)) for workers in (pool, None)
        )
        assert (shared.keep == alone.keep).all()
    with pytest.raises(ValueError, match="must be; use tls"):
        worker_pool(2, "tcp://192.0.2.1:8786", tiny)


def test_idle_process_ends_after_its_timeout(monkeypatch):
    monkeypatch.setattr(dask, "IDLE_TIMEOUT_S", 0.2)
    idle = dask._IdleProcess()
    process = idle.take()
    with pytest.raises(RuntimeError, match="not a model"):
        list(process.run("me", failing_task))
    pid = process.pid
    idle.give_back()
    assert pid and all_exited([pid])


def failing_task():
    raise RuntimeError("not a model")
    yield


def start_worker(cluster):
    command = [sys.executable, "-m", "explorer", "jobs", "worker", cluster.scheduler_address]
    return subprocess.Popen(command)


def test_worker_of_a_loopback_scheduler_listens_on_loopback_only(cluster):
    """Run last: from here on the cluster has one more worker."""
    with start_worker(cluster) as command:
        deadline = time.monotonic() + 120
        while len(cluster.scheduler.workers) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        family = [started := psutil.Process(command.pid), *started.children(recursive=True)]
        open_to = {one.laddr.ip for process in family for one in process.net_connections() if one.status == "LISTEN"}
        command.send_signal(signal.SIGINT)
    assert open_to == {"127.0.0.1"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_is_interrupted_while_it_starts_ends(cluster, number):
    with start_worker(cluster) as command:
        starting = psutil.Process(command.pid)
        while not starting.children():
            time.sleep(0.01)
        family = starting.children(recursive=True)
        command.send_signal(number)
        assert command.wait(60) == 0
    assert all_exited([one.pid for one in family])
