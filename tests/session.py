"""How tests are spread over processes, and what must not be left when all are over."""

import os
import time
from uuid import uuid4

import psutil
import pytest

BROWSER_FIXTURES = {"served", "browser", "visitor", "host"}
RUN_ID = os.environ.setdefault("EXPLORER_TEST_RUN", uuid4().hex)  # every process that a test starts inherits it
EXIT_TIMEOUT_S = 30.0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what needs a browser or a cluster, and have all of that in one process: one page, one browser, one cluster.

    Other files are groups of their own, because their fixtures are shared.
    """
    groups = {}
    for item in items:
        fixtures = set(item.fixturenames)
        if fixtures & BROWSER_FIXTURES:
            item.add_marker("browser")
        if "cluster" in fixtures:
            item.add_marker("cluster")
        for name in ("browser", "cluster"):
            if item.get_closest_marker(name):
                groups[item.path] = name
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups.get(item.path, item.path.stem)))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Fail where a process that a test started is still there, in the process that controls all others."""
    if hasattr(session.config, "workerinput"):
        return
    deadline = time.monotonic() + EXIT_TIMEOUT_S
    while (left := started_processes()) and time.monotonic() < deadline:
        time.sleep(0.5)
    if left:
        print("\nprocesses that tests left behind:", *left, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def started_processes():
    """List the processes of this test run, but for this one and those that started it."""
    family = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [line for process in psutil.process_iter() if process.pid not in family and (line := _describe(process))]


def _describe(process):
    try:
        if process.environ().get("EXPLORER_TEST_RUN") == RUN_ID and process.status() != psutil.STATUS_ZOMBIE:
            return f"{process.pid}: {' '.join(process.cmdline())[:150]}"
    except psutil.Error:
        pass
    return ""
