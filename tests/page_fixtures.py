"""The real page in a process of its own, and a real browser that opens it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib import request as http
from urllib.error import URLError
from urllib.parse import parse_qs

import pytest
from playwright.sync_api import BrowserContext, Page, Request, ViewportSize, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError

ROOT = Path(__file__).parent.parent
VIEWPORT: ViewportSize = {"width": 1280, "height": 900}
expect.set_options(timeout=60_000)  # milliseconds; generous, because other tests may run at the same time
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no request leaves this machine
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the page as an operator does; yields its address."""
    port, data = free_port(), tmp_path_factory.mktemp("data")
    settings = {"GRADIO_SERVER_PORT": str(port), "EXPLORER_DATA": str(data), "HF_HUB_OFFLINE": "1"}
    with serve(data, **settings) as url:
        yield url


@contextmanager
def serve(data: Path, **settings: str) -> Iterator[str]:
    """Run the page with these environment variables; yields its address."""
    url = f"http://127.0.0.1:{settings['GRADIO_SERVER_PORT']}/"
    with open(data / "log", "w") as log:
        command = [sys.executable, str(ROOT / "app.py")]
        page = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log)
        try:
            wait_until_served(url, page, data / "log")
            yield url
        finally:
            page.terminate()
            page.wait(60)


def wait_until_served(url: str, page: subprocess.Popen, log: Path, seconds: float = 180) -> None:
    """Return as soon as the page answers."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and page.poll() is None:
        try:
            with http.urlopen(url, timeout=5):
                return
        except (URLError, TimeoutError):
            time.sleep(0.2)
    pytest.fail(f"the page did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """Start Chromium with a profile, whose caches make a page open in half the time."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.fail("Chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        running = playwright.chromium.launch_persistent_context(profile, executable_path=executable, args=FLAGS)
        yield running
        running.close()


SETTLED = """async source => {
    const read = eval(source);
    for (let last = read(), since = performance.now(); ; ) {
        await new Promise((resolve) => setTimeout(resolve, 50));
        const value = read();
        if (value !== last) [last, since] = [value, performance.now()];
        if (performance.now() - since > 1000) return value;
    }
}"""


NO_TRANSITIONS = "* { transition: none !important; }"  # colours are those of the new theme at once
OPENED = """() => !document.querySelector("#first-screen") && document.querySelector("#heatmap .drawn") ||
    (window.explorerReady && document.querySelector("#heatmap")?.clientWidth === 0)"""
NUM_REQUESTS = "performance.getEntriesByType('resource').length"  # that were answered


def settled(page: Page, expression: str) -> object:
    """Wait until a JavaScript expression has had the same value for a second; returns that value."""
    return page.evaluate(SETTLED, f"() => {expression}")


def query_of(page: Page) -> dict[str, list[str]]:
    """Read the page's address in the page itself: `page.url` follows it a moment later."""
    return parse_qs(page.evaluate("location.search.slice(1)"))


def cell_center(page: Page, where: str, call: int, unit: int) -> tuple[float, float]:
    """Find the middle of a cell of the map in `where` on the screen."""
    return page.evaluate(
        """([where, call, unit]) => {
            const { places } = document.querySelector(`${where} .plot`);
            const { left, top } = document.querySelector(`${where} .cells > canvas`).getBoundingClientRect();
            return [left + places.left + (call + 0.5) * places.cell, top + places.tops[unit] + places.rowHeight / 2];
        }""",
        [where, call, unit],
    )


OPEN: list["Visitor"] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator:
    """Print with a failure what the open pages show, which is all that is known of one on another machine."""
    report = yield
    if report.failed and call.when == "call":
        report.sections += [("page of a visitor", visitor.describe()) for visitor in OPEN]
    return report


class Visitor:
    """One visitor: a page, its requests to other hosts, and the errors of its scripts."""

    def __init__(self, context: BrowserContext, served: str):
        self.served, self.context, self.foreign, self.errors = served, context, [], []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(120_000)
        OPEN.append(self)
        self.page.on("request", self._note_foreign)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _note_foreign(self, request: Request) -> None:
        if not request.url.startswith((self.served, "data:", "blob:")):
            self.foreign.append(request.url)

    def leave(self) -> None:
        """Close the page, and have the browser forget who this was."""
        forgotten = {"origin": self.served.rstrip("/"), "storageTypes": "cookies,local_storage,indexeddb"}
        self.context.new_cdp_session(self.page).send("Storage.clearDataForOrigin", forgotten)
        self.page.close()
        OPEN.remove(self)

    def describe(self) -> str:
        """Write what a failed test leaves on the screen."""
        try:
            text = self.page.locator("body").inner_text(timeout=5000)
        except PlaywrightError as error:
            text = f"cannot be read: {error}"
        return "\n".join([self.page.url, *self.errors, text[:3000]])

    def open(self, query: str = "steps=4&prompt=dog&method=uniform&ratio=0.5") -> "Visitor":
        """Open the page and wait until the first heatmap is drawn, or the tab that the address names hides it."""
        self.page.goto(f"{self.served}?{query}")
        self.page.wait_for_function(OPENED)
        return self

    def generate(self) -> None:
        """Press Generate and wait until all three pictures are finished."""
        self.page.click("#generate")
        self.wait_until_generated()

    def wait_until_generated(self) -> None:
        self.page.wait_for_selector("#verdict .verdict", timeout=300_000)
        self.page.wait_for_function(
            "document.querySelector('.view').dataset.source === 'generated'"
            " && document.querySelectorAll('.card[data-done=true]').length === 3"
        )

    def settled(self, expression: str) -> object:
        """Wait until a JavaScript expression has had the same value for a second; returns that value."""
        return settled(self.page, expression)

    def pictures(self) -> list[str]:
        """Read what the three canvases show, as data URLs; an empty one is left out."""
        return self.page.eval_on_selector_all(
            "#pictures .card .picture", "all => all.filter(one => one.width).map(one => one.toDataURL())"
        )

    def computed(self) -> int:
        """Count the computed cells that the heatmap shows."""
        return self.page.evaluate("document.querySelector('#heatmap .plot').map.legend[0].count")

    def alert(self) -> str:
        return self.page.locator("#alert [role=alert]").inner_text()


@pytest.fixture(scope="module")
def shared_visitor(chromium: BrowserContext, served: str) -> Iterator[Visitor]:
    """Make one visitor for the tests of a file that leave the page as they found it, or begin by setting it up."""
    visitor = Visitor(chromium, served)
    visitor.page.set_viewport_size(VIEWPORT)
    yield visitor
    visitor.leave()


@pytest.fixture
def visitors(chromium: BrowserContext, request: pytest.FixtureRequest) -> Iterator:
    """Make visitors, of the shared page or of another address. The first has the profile, as the shared visitor has,
    unless it is to be a `stranger`; others have a new context each."""
    made: list[Visitor] = []

    def make(served: str = "", viewport: ViewportSize = VIEWPORT, stranger: bool = False, **media: str) -> Visitor:
        context = chromium.browser.new_context() if made or stranger else chromium
        made.append(Visitor(context, served or request.getfixturevalue("served")))
        made[-1].page.set_viewport_size(viewport)
        made[-1].page.emulate_media(**media)
        return made[-1]

    yield make
    for visitor in made:
        visitor.leave()
        if visitor.context is not chromium:
            visitor.context.close()


@pytest.fixture
def visitor(visitors) -> Visitor:
    return visitors()


def call_api(served: str, name: str, **arguments: object) -> tuple[str, object]:
    """Call the API by plain HTTP; returns the kind of the last event and its data."""
    calls = f"{served}gradio_api/call"
    body = http.Request(f"{calls}/v2/{name}", json.dumps(arguments).encode(), {"Content-Type": "application/json"})
    with http.urlopen(body, timeout=120) as answer:
        event = json.load(answer)["event_id"]
    with http.urlopen(f"{calls}/{name}/{event}", timeout=300) as stream:
        lines = [line.decode().rstrip("\n") for line in stream if line.strip()]
    return lines[-2].removeprefix("event: "), json.loads(lines[-1].removeprefix("data: "))
