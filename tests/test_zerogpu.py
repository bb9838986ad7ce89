"""The page on ZeroGPU: the real package `spaces`, a fake host, and the real page."""

import json
import os
import signal
import subprocess
import sys
import time
from base64 import b64encode
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

from explorer import experiment
from explorer.experiment import ExperimentRequest
from explorer.jobs.executors import zerogpu
from tests.page_fixtures import ROOT, call_api, free_port, wait_until_served

pytestmark = pytest.mark.browser

REQUEST = {"prompt": "dog", "method": "uniform", "steps": 4, "ratio": 0.5}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """Serve the page on a fake host; also the log of its requests to the host, and the file that exhausts the quota."""
    folder = tmp_path_factory.mktemp("zerogpu")
    port, log = free_port(), folder / "requests.log"
    settings = {"GRADIO_SERVER_PORT": str(port), "EXPLORER_DATA": str(folder / "data"), "HF_HUB_OFFLINE": "1"}
    with open(folder / "page.log", "w") as page_log:
        command = [sys.executable, str(ROOT / "tests" / "fake_zerogpu_host.py"), str(log)]
        options = {"stdout": page_log, "stderr": page_log, "start_new_session": True}
        page = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, **options)
        url = f"http://127.0.0.1:{port}/"
        try:
            wait_until_served(url, page, folder / "page.log")
            yield SimpleNamespace(url=url, log=log, spent=log.with_suffix(".spent"), pid=page.pid)
        finally:
            os.killpg(page.pid, signal.SIGTERM)  # with the forks that have the GPU, which a real host ends
            page.wait(60)


def requests_of(host):
    return [json.loads(line) for line in host.log.read_text().splitlines()]


def test_the_page_reports_its_start_and_needs_no_gpu_for_a_cost(host):
    kind, cost = call_api(host.url, "cost", **{name: value for name, value in REQUEST.items() if name != "prompt"})
    assert kind == "complete" and cost[0]["reached"] == pytest.approx(0.5, abs=0.05)
    assert requests_of(host) == [["/startup-report", {}]]


def test_pictures_are_generated_with_the_gpu_which_is_released(host):
    kind, (runs, *_) = call_api(host.url, "generate", **REQUEST)
    schedule, allow, release = requests_of(host)[-3:]
    assert schedule[0] == "/schedule" and schedule[1]["durationSeconds"] == str(zerogpu.GPU_SECONDS)
    assert allow[0] == "/allow" and int(allow[1]["pid"]) != host.pid
    assert release == ["/release", {"allowToken": "token", "fail": "false"}]
    frames = [frame for frame in experiment.compare(ExperimentRequest(**REQUEST)) if frame.done]
    assert kind == "complete" and len(frames) == 3
    for frame in frames:
        assert runs[frame.role]["picture"] == b64encode(frame.picture).decode()


def test_error_is_one_sentence_and_releases_the_gpu(host):
    before = len(requests_of(host))
    kind, message = call_api(host.url, "generate", **REQUEST | {"ratio": 1.0})
    assert kind == "error" and "the ratio must be between" in str(message)
    deadline = time.monotonic() + 20
    while len(requests_of(host)) < before + 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [what for what, _ in requests_of(host)[before:]] == ["/schedule", "/allow", "/release"]


def test_exhausted_quota_is_one_sentence_and_loses_nothing(host, visitors):
    visitor = visitors(host.url)
    visitor.open()
    host.spent.touch()
    visitor.page.click("#generate")
    expect(visitor.page.locator("#alert")).to_contain_text("the GPU that this host lends: Space app has reached")
    host.spent.unlink()
    visitor.generate()
    assert len(visitor.pictures()) == 3 and not visitor.errors


def test_stop_ends_a_run_on_zerogpu(host, visitors):
    visitor = visitors(host.url)
    page = visitor.open("steps=300&prompt=dog&method=uniform&ratio=0.5").page
    page.click("#generate")
    expect(page.locator("#pictures")).to_contain_text("of 300 calls")
    page.click("#stop")
    expect(page.locator("#stop")).to_be_disabled()
    visitor.open()
    visitor.generate()
    for _ in range(100):
        requests = [what for what, _ in requests_of(host)]
        if requests.count("/allow") == requests.count("/release"):
            break
        page.wait_for_timeout(100)
    assert requests.count("/allow") == requests.count("/release") > 0


@pytest.mark.parametrize(("value", "available"), [("true", True), ("1", True), ("", False), ("false", False)])
def test_environment_tells_whether_zerogpu_is_available(monkeypatch, value, available):
    monkeypatch.setenv("SPACES_ZERO_GPU", value)
    assert zerogpu.on_zerogpu() is available
