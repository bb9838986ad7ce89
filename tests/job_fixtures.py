"""Jobs of a tiny pipeline, for tests: a foreman over a folder, what a job ends with, and what it should."""

import time
from functools import lru_cache
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from explorer import catalogue
from explorer.experiment import config_of, prune
from explorer.jobs.foreman import Foreman, Limits
from explorer.jobs.ledger import ENDED, Ledger
from explorer.work import finished

SMALL = {"steps": 5, "checks": 0, "guidance": 3.0, "granularity": "stage", "iterations": 5, "batch": 1}
PROMPTS = ("dog", "cat")


@pytest.fixture
def tiny(sd_folder, monkeypatch):
    monkeypatch.setattr(catalogue, "listing", lambda: [{"id": str(sd_folder), "available": True}])
    return str(sd_folder)


@pytest.fixture
def hire(tmp_path):
    """Foremen over one folder, as one page after another."""
    hired = []

    def new(executor, **limits):
        found = Foreman(Ledger(tmp_path), executor, Limits(**limits))
        hired.append(found)
        return found.start()

    yield new
    for one in hired:
        one.close()
        one.ledger.close()


def wait(foreman, id, *states, seconds=240.0, until=lambda job: True):
    """The job, once it is in one of the states (default: over) and so far."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job = foreman.ledger.get(id)
        if job.state in (states or ENDED) and until(job):
            return job
        if job.state in ENDED:
            break
        time.sleep(0.02)
    pytest.fail(f"job {id} is {foreman.ledger.get(id)}")


@lru_cache
def undisturbed(model, **settings):
    """What the method finds when nothing comes between."""
    config = config_of("dipgo", SMALL | settings)
    return finished(prune(catalogue.load(model), "dipgo", config, PROMPTS))


def same(foreman, job, expected):
    found = load_file(foreman.ledger.results / job.result)
    assert (found["rank/schedule"] == expected.rank).all() and (found["score/schedule"] == expected.score).all()
    return True


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second where it goes while it is read
        return False


def gone(pids, seconds=10.0):
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))
