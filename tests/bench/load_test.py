"""Load test of one page: how long it takes to answer many visitors at the same time, and how often it fails.

    python tests/bench/load_test.py [browsing] [minutes] [generating] [optimizing]

Browsing visitors open the page, look at gallery samples and now and then request the cost of a schedule. Generating
visitors request one picture after another. Optimizing visitors start a long DiP-GO search in a browser and watch it.
All requests come from this machine.
"""

import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import httpx
import psutil
from playwright.async_api import Browser, async_playwright
from playwright.async_api import Error as PlaywrightError

from explorer.bundled import gallery
from tests.page_fixtures import FLAGS, ROOT

PORT, MODEL = 7893, "emoji-unet"
PAUSE_S = (0.5, 3.0)  # between two requests of a browsing visitor, at least and at most
WARM_UP_S = 30  # until the page has loaded its model
SEARCH_START_S = 20  # in which searches begin before the other visitors
BROWSING = ("page", "table", "strip", "cost")  # kinds of requests


class LoadTest:
    """The visitors of one test: until when they stay, and what was measured of their requests."""

    def __init__(self, minutes: float):
        self.until = time.monotonic() + 60 * minutes
        self.seconds: dict[str, list[float]] = defaultdict(list)  # of each request, by kind
        self.failures: list[str] = []
        self.search_states: list[str] = []  # how far each search was at the end
        table = json.loads((gallery.GALLERIES / MODEL / gallery.TABLE).read_text())
        samples = range(len(table["samples"]))
        self.strips = [f"{sample:02}-{method}.webp" for sample in samples for method in table["methods"]]

    async def measure(self, kind: str, request: Awaitable[None]) -> None:
        started = time.monotonic()
        try:
            await request
            self.seconds[kind].append(time.monotonic() - started)
        except (httpx.HTTPError, RuntimeError) as error:
            self.failures.append(f"{kind}: {error!r}")

    async def browse(self, client: httpx.AsyncClient, seed: int) -> None:
        rng, files = random.Random(seed), f"/explorer/gallery/{MODEL}"
        await self.measure("page", fetch(client, "/"))
        await self.measure("table", fetch(client, f"{files}/{gallery.TABLE}"))
        while time.monotonic() < self.until:
            await asyncio.sleep(rng.uniform(*PAUSE_S))
            if rng.random() < 0.8:
                await self.measure("strip", fetch(client, f"{files}/{rng.choice(self.strips)}"))
            else:
                arguments = {"ratio": round(rng.uniform(0, 0.9), 2), "steps": rng.choice((25, 50))}
                await self.measure("cost", call_api(client, "cost", arguments))

    async def generate(self, client: httpx.AsyncClient, seed: int) -> None:
        arguments = {"prompt": "dog", "steps": 25, "seed": seed}
        while time.monotonic() < self.until:
            await self.measure("picture", call_api(client, "generate", arguments))

    async def optimize(self, browser: Browser) -> None:
        """Start a search, watch it until the end of the test, and record how far it is then."""
        page = await (await browser.new_context()).new_page()
        try:
            await page.goto(f"http://127.0.0.1:{PORT}/?tab=optimize")
            await page.click("#job-start", timeout=60_000)
            await page.wait_for_selector("#job .description h3", timeout=60_000)
            await asyncio.sleep(max(0.0, self.until - time.monotonic()))
            self.search_states.append(await page.inner_text("#job .description [role=status]"))
        except PlaywrightError as error:
            self.failures.append(f"optimize: {error!r}")

    def print_results(self) -> None:
        all_kinds = dict(self.seconds)
        all_kinds["browsing"] = [seconds for kind in BROWSING for seconds in self.seconds.get(kind, [])]
        for kind, seconds in all_kinds.items():
            if seconds:
                p95 = statistics.quantiles(seconds, n=20)[-1] if len(seconds) > 1 else seconds[0]
                print(f"{kind:8} n = {len(seconds):5}: median {statistics.median(seconds):.3f} s, p95 {p95:.3f} s")
        for line in self.search_states + self.failures[:5]:
            print(line)


async def fetch(client: httpx.AsyncClient, path: str) -> None:
    (await client.get(path)).raise_for_status()


async def call_api(client: httpx.AsyncClient, name: str, arguments: dict) -> None:
    """Call an endpoint of the API and wait for its last event. Raises RuntimeError where that is an error."""
    response = await client.post(f"/gradio_api/call/v2/{name}", json=arguments)
    response.raise_for_status()
    async with client.stream("GET", f"/gradio_api/call/{name}/{response.json()['event_id']}") as stream:
        events = [line async for line in stream.aiter_lines() if line.startswith("event: ")]
    if not events or events[-1] != "event: complete":
        raise RuntimeError(f"{name} ended with {events[-1:]}")


async def run_test(browsing: int, minutes: float, generating: int, optimizing: int) -> LoadTest:
    """Run all visitors at the same time; searches start SEARCH_START_S before the others."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        test = LoadTest(minutes + SEARCH_START_S / 60)
        searches = asyncio.gather(*(test.optimize(browser) for _ in range(optimizing)))
        await asyncio.sleep(SEARCH_START_S)
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=120, limits=limits) as client:
            await asyncio.gather(
                *(test.browse(client, seed) for seed in range(browsing)),
                *(test.generate(client, 1000 + seed) for seed in range(generating)),
            )
        await searches
        await browser.close()
    return test


def memory_mb(page: subprocess.Popen) -> str:
    """Describe the memory of the page's process, and of all processes that it started."""
    process = psutil.Process(page.pid)
    children = sum(child.memory_info().rss for child in process.children(recursive=True))
    return f"{process.memory_info().rss / 2**20:.0f} + {children / 2**20:.0f} MB"


def main(browsing: str = "40", minutes: str = "5", generating: str = "8", optimizing: str = "2") -> None:
    with tempfile.TemporaryDirectory() as data:
        settings = {"GRADIO_SERVER_PORT": str(PORT), "EXPLORER_DATA": data, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(ROOT / "app.py")]
        page = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stdout=subprocess.DEVNULL)
        try:
            time.sleep(WARM_UP_S)
            before = memory_mb(page)
            test = asyncio.run(run_test(int(browsing), float(minutes), int(generating), int(optimizing)))
            print(f"memory {before} before, {memory_mb(page)} after; {len(test.failures)} failed requests")
        finally:
            page.terminate()
            page.wait(20)
    test.print_results()


if __name__ == "__main__":
    main(*sys.argv[1:])
