"""Jobs of a tiny pipeline, for tests: a job manager of a folder, the result of a job, and the expected result."""

import time
from functools import lru_cache
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from explorer.experiment import load_cached, prune
from explorer.jobs import manager
from explorer.jobs.job import ENDED
from explorer.jobs.manager import JobManager, Limits
from explorer.jobs.store import JobStore
from explorer.progress import run_to_completion
from explorer.pruners import method_config

SMALL = {"steps": 5, "validate_every": 0, "guidance": 3.0, "granularity": "stage", "iterations": 5, "batch": 1}
PROMPTS = ("dog", "cat")


@pytest.fixture
def tiny(sd_folder, monkeypatch):
    monkeypatch.setattr(manager, "available_models", lambda: [str(sd_folder)])
    return str(sd_folder)


@pytest.fixture(scope="session")
def cluster():
    """Start a scheduler with two workers, configured as by `jobs worker`."""
    from distributed import LocalCluster

    from explorer.jobs.executors.dask import _configure_dask

    _configure_dask()
    options = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None, "memory_limit": 0}
    with LocalCluster(2, **options) as cluster:
        yield cluster


@pytest.fixture
def job_manager(tmp_path):
    """Make job managers over one folder, as one page after another."""
    managers = []

    def new(executor, **limits):
        managers.append(JobManager(JobStore(tmp_path), executor, Limits(**limits)))
        return managers[-1].start()

    yield new
    for one in managers:
        one.close()
        one.store.close()


def wait(job_manager, id, *states, seconds=240.0, until=lambda job: True):
    """Wait until a job is in one of the states (by default: has ended) and `until` is true; returns it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job = job_manager.store.get(id)
        if job.state in (states or ENDED) and until(job):
            return job
        if job.state in ENDED:
            break
        time.sleep(0.02)
    pytest.fail(f"job {id} is {job_manager.store.get(id)}")


@lru_cache
def reference_result(model, **settings):
    """Compute the result of the method without interruptions."""
    config = method_config("dipgo", SMALL | settings)
    return run_to_completion(prune(load_cached(model), "dipgo", config, PROMPTS))


def has_result(job_manager, job, expected):
    found = load_file(job_manager.store.results / job.result)
    assert (found["rank/schedule"] == expected.rank).all() and (found["score/schedule"] == expected.score).all()
    return True


def workers_of(process):
    """List the processes that this one has spawned to run tasks."""
    return [one for one in process.children() if runs(one, "spawn_main")]


def forks(pid=None):
    """List the processes that were forked to run tasks of a process; default: of this one."""
    servers = [one for one in psutil.Process(pid).children() if runs(one, "multiprocessing.forkserver")]
    return [one for server in servers for one in server.children()]


def runs(process, name):
    """Say whether a process runs a function of this name."""
    try:
        return name in " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second where the process ends while it is read
        return False


def all_exited(pids, seconds=10.0):
    deadline = time.monotonic() + seconds
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(is_alive, pids))
