"""Many visitors at once on one page: how long it takes to answer them, and how often it fails.

Run by hand: python tests/bench/visitors.py [browsing] [minutes] [drawing] [optimizing]. Who browses opens the page,
moves through scenes of the gallery and asks now and then what a schedule costs; who draws asks for one picture after
another; who optimizes starts a long DiP-GO search in a browser and watches it. All of it comes from this machine.
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
from pathlib import Path

import httpx
import psutil
from playwright.async_api import Browser, async_playwright
from playwright.async_api import Error as PlaywrightError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from explorer.bundled import gallery  # noqa: E402 -- found beside this file's folder
from tests.page_fixtures import FLAGS  # noqa: E402

PORT = 7893
PAUSE = (0.5, 3.0)  # seconds between two things a visitor does


class Crowd:
    """What everybody shares: until when, and what was measured."""

    def __init__(self, minutes: float):
        self.until = time.monotonic() + 60 * minutes
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.failed: list[str] = []
        self.watched: list[str] = []  # how far the searches came
        table = json.loads((gallery.FOLDER / gallery.TABLE).read_text())
        self.strips = [f"{scene:02}-{name}.webp" for scene in range(len(table["scenes"])) for name in table["methods"]]

    async def timed(self, kind: str, work) -> None:
        started = time.monotonic()
        try:
            await work
            self.seconds[kind].append(time.monotonic() - started)
        except (httpx.HTTPError, RuntimeError) as error:
            self.failed.append(f"{kind}: {error!r}")

    async def browse(self, client: httpx.AsyncClient, seed: int) -> None:
        lot = random.Random(seed)
        await self.timed("page", fetch(client, "/"))
        await self.timed("table", fetch(client, f"/gradio_api/file={gallery.FOLDER}/{gallery.TABLE}"))
        while time.monotonic() < self.until:
            await asyncio.sleep(lot.uniform(*PAUSE))
            if lot.random() < 0.8:
                await self.timed("strip", fetch(client, f"/gradio_api/file={gallery.FOLDER}/{lot.choice(self.strips)}"))
            else:
                asked = {"ratio": round(lot.uniform(0, 0.9), 2), "steps": lot.choice((25, 50))}
                await self.timed("cost", ask(client, "cost", asked))

    async def generate(self, client: httpx.AsyncClient, seed: int) -> None:
        while time.monotonic() < self.until:
            asked = {"prompt": "dog", "steps": 25, "seed": seed}
            await self.timed("picture", ask(client, "generate", asked))

    async def optimize(self, browser: Browser) -> None:
        """Start a search, and watch until the time is over; how many steps were seen is what it says in the end."""
        page = await (await browser.new_context()).new_page()
        try:
            await page.goto(f"http://127.0.0.1:{PORT}/?tab=optimize")
            await page.click("#job-start", timeout=60_000)
            await page.wait_for_selector("#job .description h3", timeout=60_000)
            await asyncio.sleep(max(0.0, self.until - time.monotonic()))
            self.watched.append(await page.inner_text("#job .description [role=status]"))
        except PlaywrightError as error:
            self.failed.append(f"optimize: {error!r}")


async def fetch(client: httpx.AsyncClient, path: str) -> None:
    (await client.get(path)).raise_for_status()


async def ask(client: httpx.AsyncClient, name: str, asked: dict) -> None:
    """One call of the API, to its end. Raises RuntimeError where it ends in an error."""
    answer = await client.post(f"/gradio_api/call/v2/{name}", json=asked)
    answer.raise_for_status()
    async with client.stream("GET", f"/gradio_api/call/{name}/{answer.json()['event_id']}") as stream:
        events = [line async for line in stream.aiter_lines() if line.startswith("event: ")]
    if events[-1] != "event: complete":
        raise RuntimeError(f"{name} ended with {events[-1]}")


async def come(browsing: int, minutes: float, drawing: int, optimizing: int) -> Crowd:
    """Everybody at once; searches get 20 seconds to begin."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        crowd = Crowd(minutes + 1 / 3)
        searching = asyncio.gather(*(crowd.optimize(browser) for _ in range(optimizing)))
        await asyncio.sleep(20)
        await visits(crowd, browsing, drawing)
        await searching
        await browser.close()
    return crowd


async def visits(crowd: Crowd, browsing: int, drawing: int) -> None:
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{PORT}", timeout=120, limits=httpx.Limits(max_connections=200)
    ) as client:
        await asyncio.gather(
            *(crowd.browse(client, seed) for seed in range(browsing)),
            *(crowd.generate(client, 1000 + seed) for seed in range(drawing)),
        )


def memory_mb(process: subprocess.Popen) -> str:
    """Of the page itself, and of all processes that it started."""
    page = psutil.Process(process.pid)
    children = sum(child.memory_info().rss for child in page.children(recursive=True))
    return f"{page.memory_info().rss / 2**20:.0f} + {children / 2**20:.0f} MB"


def main(browsing: str = "40", minutes: str = "5", drawing: str = "8", optimizing: str = "2") -> None:
    with tempfile.TemporaryDirectory() as data:
        settings = {"GRADIO_SERVER_PORT": str(PORT), "EXPLORER_DATA": data, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(ROOT / "app.py")]
        page = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stdout=subprocess.DEVNULL)
        try:
            time.sleep(30)  # until the model is loaded
            before = memory_mb(page)
            crowd = asyncio.run(come(int(browsing), float(minutes), int(drawing), int(optimizing)))
            print(f"memory {before} before, {memory_mb(page)} after; {len(crowd.failed)} failed")
        finally:
            page.kill()
    crowd.seconds["browsing"] = [one for kind in ("page", "table", "strip", "cost") for one in crowd.seconds[kind]]
    for kind, seconds in crowd.seconds.items():
        p95 = statistics.quantiles(seconds, n=20)[-1] if len(seconds) > 1 else seconds[0]
        print(f"{kind:8} n = {len(seconds):5}: median {statistics.median(seconds):.3f} s, p95 {p95:.3f} s")
    for said in crowd.watched + crowd.failed[:5]:
        print(said)


if __name__ == "__main__":
    main(*sys.argv[1:])
