"""The real page in a process of its own, and a real browser before it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

ROOT = Path(__file__).parent.parent
expect.set_options(timeout=20_000)  # milliseconds; answers come late where other tests run beside
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page, started as a visitor's host starts it."""
    port, data = free_port(), tmp_path_factory.mktemp("data")
    settings = {"GRADIO_SERVER_PORT": str(port), "EXPLORER_DATA": str(data), "HF_HUB_OFFLINE": "1"}
    with open(data / "log", "w") as log:
        command = [sys.executable, str(ROOT / "app.py")]
        page = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}/"
        try:
            wait_until_served(url, page, data / "log")
            yield url
        finally:
            page.terminate()
            page.wait(20)


def wait_until_served(url: str, page: subprocess.Popen, log: Path, seconds: float = 180) -> None:
    """Return as soon as the page answers."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and page.poll() is None:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, TimeoutError):
            time.sleep(0.2)
    pytest.fail(f"the page did not come up:\n{log.read_text()}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("Chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()


class Visitor:
    """One visitor with a browser context of their own, and what their page asked of other hosts or complained about."""

    def __init__(self, browser: Browser, served: str, **options: object):
        self.served, self.foreign, self.complaints = served, [], []
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.route("**/*", self._stay_here)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _stay_here(self, route: Route) -> None:
        if route.request.url.startswith((self.served, "data:", "blob:")):
            route.continue_()
        else:
            self.foreign.append(route.request.url)
            route.abort()

    def open(self, query: str = "steps=4&prompt=dog&method=uniform&ratio=0.5") -> "Visitor":
        """Open the page and wait until the first map is drawn."""
        self.page.goto(f"{self.served}?{query}")
        self.page.wait_for_selector("#keep .drawn")
        return self

    def draw(self) -> None:
        """Press Draw and wait until all three pictures are finished."""
        self.page.click("#draw")
        self.finished()

    def finished(self) -> None:
        self.page.wait_for_selector("#verdict .verdict", timeout=120_000)
        self.page.wait_for_function(
            "document.querySelector('.view').dataset.source === 'drawn'"
            " && document.querySelectorAll('.card[data-done=true]').length === 3"
        )

    def pictures(self) -> list[str]:
        """What the three canvases show, as data URLs; an empty one is left out."""
        return self.page.eval_on_selector_all(
            "#pictures .card .own", "all => all.filter(one => one.width).map(one => one.toDataURL())"
        )

    def computed(self) -> int:
        """Computed cells that the heatmap shows."""
        return self.page.evaluate("Number(document.querySelector('#keep .plot').data[1].name.split(' ').at(-1))")

    def alert(self) -> str:
        return self.page.locator("#alert [role=alert]").inner_text()


@pytest.fixture
def visitors(browser: Browser, served: str) -> Iterator:
    """Makes visitors; they leave when the test ends."""
    came: list[Visitor] = []

    def come(**options: object) -> Visitor:
        came.append(Visitor(browser, served, **options))
        return came[-1]

    yield come
    for visitor in came:
        visitor.context.close()


@pytest.fixture
def visitor(visitors) -> Visitor:
    return visitors()


def ask(served: str, name: str, **question: object) -> tuple[str, object]:
    """One call of the API by plain HTTP: the kind of the last event and what it holds."""
    calls = f"{served}gradio_api/call"
    body = Request(f"{calls}/v2/{name}", json.dumps(question).encode(), {"Content-Type": "application/json"})
    with urlopen(body, timeout=60) as answer:
        event = json.load(answer)["event_id"]
    with urlopen(f"{calls}/{name}/{event}", timeout=120) as stream:
        lines = [line.decode().rstrip("\n") for line in stream if line.strip()]
    return lines[-2].removeprefix("event: "), json.loads(lines[-1].removeprefix("data: "))
