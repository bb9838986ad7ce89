"""A host that lends a GPU (ZeroGPU): the real package `spaces`, a host that makes believe, and the real page."""

import json
import os
import subprocess
import sys
import time
from base64 import b64encode
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

from explorer import experiment
from explorer.experiment import Question
from explorer.ui import lent
from tests.page_fixtures import ROOT, Visitor, ask, free_port, wait_until_served

ASKED = {"prompt": "dog", "method": "uniform", "steps": 4, "ratio": 0.5}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """The page there, what it asked of the host, and the file that spends the quota."""
    folder = tmp_path_factory.mktemp("lending")
    port, log = free_port(), folder / "asked.log"
    settings = {"GRADIO_SERVER_PORT": str(port), "EXPLORER_DATA": str(folder / "data"), "HF_HUB_OFFLINE": "1"}
    with open(folder / "page.log", "w") as said:
        command = [sys.executable, str(ROOT / "tests" / "lending_host.py"), str(log)]
        page = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stdout=said, stderr=said)
        url = f"http://127.0.0.1:{port}/"
        try:
            wait_until_served(url, page, folder / "page.log")
            yield SimpleNamespace(url=url, log=log, spent=log.with_suffix(".spent"), pid=page.pid)
        finally:
            page.terminate()
            page.wait(20)


def asked_of(host):
    return [json.loads(line) for line in host.log.read_text().splitlines()]


def test_the_page_says_at_its_start_that_it_borrows_and_a_cost_borrows_nothing(host):
    kind, cost = ask(host.url, "cost", **{name: value for name, value in ASKED.items() if name != "prompt"})
    assert kind == "complete" and cost[0]["reached"] == pytest.approx(0.5, abs=0.05)
    assert asked_of(host) == [["/startup-report", {}]]


def test_a_drawing_is_made_in_the_process_that_has_the_gpu_and_gives_it_back(host):
    kind, (runs, *_) = ask(host.url, "generate", **ASKED)
    schedule, allow, release = asked_of(host)[-3:]
    assert schedule[0] == "/schedule" and schedule[1]["durationSeconds"] == str(lent.LEASE)
    assert allow[0] == "/allow" and int(allow[1]["pid"]) != host.pid
    assert release == ["/release", {"allowToken": "token", "fail": "false"}]
    frames = [frame for frame in experiment.compare(Question(**ASKED)) if frame.done]
    assert kind == "complete" and len(frames) == 3
    for frame in frames:
        assert runs[frame.role]["picture"] == b64encode(frame.picture).decode()


def test_a_mistake_is_a_sentence_and_gives_it_back_as_well(host):
    before = len(asked_of(host))
    kind, said = ask(host.url, "generate", **ASKED | {"ratio": 1.0})
    assert kind == "error" and "the ratio must be between" in str(said)
    deadline = time.monotonic() + 20
    while len(asked_of(host)) < before + 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [what for what, _ in asked_of(host)[before:]] == ["/schedule", "/allow", "/release"]


def test_a_spent_quota_is_a_sentence_and_nothing_is_lost(host, browser):
    visitor = Visitor(browser, host.url)
    visitor.open()
    host.spent.touch()
    visitor.page.click("#draw")
    expect(visitor.page.locator("#alert")).to_contain_text("the GPU that this host lends: Space app has reached")
    host.spent.unlink()
    visitor.draw()
    assert len(visitor.pictures()) == 3 and not visitor.complaints
    visitor.context.close()


def test_stop_ends_what_is_drawn_there(host, browser):
    visitor = Visitor(browser, host.url)
    page = visitor.open("steps=300&prompt=dog&method=uniform&ratio=0.5").page
    page.click("#draw")
    expect(page.locator("#pictures")).to_contain_text("of 300 calls")
    page.click("#stop")
    expect(page.locator("#stop")).to_be_disabled()
    visitor.open()
    visitor.draw()
    for _ in range(100):
        asked = [what for what, _ in asked_of(host)]
        if asked.count("/allow") == asked.count("/release"):
            break
        page.wait_for_timeout(100)
    assert asked.count("/allow") == asked.count("/release") > 0
    visitor.context.close()


@pytest.mark.parametrize(("said", "lends"), [("true", True), ("1", True), ("", False), ("false", False)])
def test_the_host_says_whether_it_lends(monkeypatch, said, lends):
    monkeypatch.setenv("SPACES_ZERO_GPU", said)
    assert lent.lends() is lends
