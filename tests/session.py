"""The distribution of tests over processes, and the check that no process is left when all have ended."""

import os
import re
import time
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

SHARED = {  # what is started once per process: the mark of the files that use it -> its fixtures
    "browser": {"served", "chromium", "visitors", "shared_visitor", "host"},
    "cluster": {"cluster"},
}
RUN_ID = os.environ.setdefault("EXPLORER_TEST_RUN", uuid4().hex)  # every process that a test starts inherits it
EXIT_TIMEOUT_S = 30.0


def group_of(file: Path) -> str:
    """Name the group of a file, whose tests run in one process: there is one cluster in all, a page per process."""
    return "cluster" if re.search(r"pytest\.mark\.cluster\b", file.read_text(encoding="utf-8")) else file.name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Send the files of a group to one process."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group_of(config.rootpath / nodeid.split("::")[0])

    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items):
    """Refuse a test that uses a shared fixture in a file without its mark; the slowest files, which have one, go first,
    so that both processes end at about the same time."""
    for item in items:
        for mark, fixtures in SHARED.items():
            if fixtures & set(item.fixturenames) and not item.get_closest_marker(mark):
                raise pytest.UsageError(f"{item.nodeid} needs the mark {mark}: pytestmark = pytest.mark.{mark}")
    marked = {item.path for item in items if any(item.get_closest_marker(mark) for mark in SHARED)}
    items.sort(key=lambda item: item.path not in marked)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Fail where a process that a test started is still running, in the process that controls all others."""
    if hasattr(session.config, "workerinput"):
        return
    deadline = time.monotonic() + EXIT_TIMEOUT_S
    while (left := started_processes()) and time.monotonic() < deadline:
        time.sleep(0.5)
    if left:
        print("\nprocesses that tests left behind:", *left, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def started_processes():
    """List the processes of this test run except this one and its parents."""
    family = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [line for process in psutil.process_iter() if process.pid not in family and (line := _describe(process))]


def _describe(process):
    try:
        command = " ".join(process.cmdline())
        if re.search(r"multiprocessing\.(resource_tracker|forkserver)", command) and process.ppid() == os.getpid():
            return ""  # it ends with this process
        if process.environ().get("EXPLORER_TEST_RUN") == RUN_ID and process.status() != psutil.STATUS_ZOMBIE:
            return f"{process.pid}: {command[:150]}"
    except psutil.Error:
        pass
    return ""
