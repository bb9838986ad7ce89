"""Who may change something, and how often; the page behind a word, in a real browser."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

from explorer.ui import visitors as visiting
from explorer.ui.visitors import Guard, address_of
from tests.page_fixtures import ROOT, Visitor, free_port, wait_until_served


def request(host="1.2.3.4", **headers):
    return SimpleNamespace(client=SimpleNamespace(host=host), headers=headers)


def test_without_a_word_everybody_may():
    guard = Guard()
    guard.refuse_unless_allowed("me", request())
    assert not guard.closed_to("me")


def test_with_a_word_only_who_gave_it():
    guard = Guard("open sesame")
    assert guard.closed_to("me")
    with pytest.raises(ValueError, match="needs the word"):
        guard.refuse_unless_allowed("me", request())
    for wrong in ("", "open", "ößé"):
        with pytest.raises(ValueError, match="that is not the word"):
            guard.enter("me", wrong, request())
    guard.enter("me", "open sesame", request())
    guard.refuse_unless_allowed("me", request())
    assert guard.closed_to("you") and not guard.closed_to("me")


def test_who_comes_too_often_waits_and_others_do_not(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(visiting.time, "monotonic", lambda: now[0])
    guard = Guard("word", a_minute=3)
    for _ in range(3):
        with pytest.raises(ValueError, match="not the word"):
            guard.enter("me", "guess", request())
    with pytest.raises(ValueError, match="3 times within a minute; wait 61 s"):
        guard.enter("me", "word", request())
    guard.enter("you", "word", request("5.6.7.8"))
    now[0] += 61
    guard.enter("me", "word", request())
    now[0] += 61
    guard.refuse_unless_allowed("you", request("9.9.9.9"))
    assert list(guard._times) == ["9.9.9.9"]  # nothing is remembered for longer


def test_the_address_behind_the_proxy_counts_on_a_space_alone(monkeypatch):
    forged = request("10.0.0.1", **{"x-forwarded-for": "6.6.6.6, 8.8.8.8"})
    assert address_of(forged) == "10.0.0.1"
    monkeypatch.setenv("SPACE_ID", "me/space")
    assert address_of(forged) == "8.8.8.8" and address_of(request("10.0.0.1")) == "10.0.0.1"


@pytest.fixture
def closed(tmp_path):
    """A page that asks for a word."""
    port = free_port()
    settings = {"GRADIO_SERVER_PORT": str(port), "EXPLORER_DATA": str(tmp_path), "EXPLORER_AUTH": "open sesame"}
    with open(tmp_path / "log", "w") as log:
        page = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log)
        try:
            wait_until_served(f"http://127.0.0.1:{port}/", page, tmp_path / "log")
            yield f"http://127.0.0.1:{port}/"
        finally:
            page.terminate()
            page.wait(20)


def test_a_page_behind_a_word_shows_all_and_changes_nothing_before_it(browser, closed):
    visitor = Visitor(browser, closed)
    page = visitor.open("steps=4&method=uniform&ratio=0.5&prompt=dog&mask=emoji-unet/dipgo-ddim-25").page
    page.get_by_role("tab", name="Masks").click()
    page.wait_for_selector("#mask .heatmaplayer")
    page.fill("#mask-name input, #mask-name textarea", "mine")
    page.click("#mask-keep")
    expect(page.locator("#mask-alert [role=alert]")).to_contain_text("needs the word")
    page.get_by_role("tab", name="Optimize").click()
    page.click("#job-start")
    expect(page.locator("#job-alert [role=alert]")).to_contain_text("needs the word")
    page.fill("#word input", "friend")
    page.click("#let-in")
    expect(page.locator("#enter-alert [role=alert]")).to_contain_text("that is not the word")
    page.fill("#word input", "open sesame")
    page.press("#word input", "Enter")
    expect(page.locator("#enter")).to_be_hidden()
    page.get_by_role("tab", name="Masks").click()
    page.click("#mask-keep")
    expect(page.locator("#mask-head h2")).to_have_text("mine")
    assert not visitor.complaints
    visitor.context.close()
