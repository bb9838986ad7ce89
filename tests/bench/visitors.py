"""Many visitors at once on one page: how long it takes to answer them, and how often it fails.

Run by hand: python tests/bench/visitors.py [browsing] [minutes] [drawing]. Who browses opens the page, moves through
scenes of the gallery and asks now and then what a schedule costs; who draws asks for one picture after another. All of
it comes from this machine.
"""

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from explorer import gallery  # noqa: E402 -- found beside this file's folder

PORT = 7893
PAUSE = (0.5, 3.0)  # seconds between two things a visitor does


class Crowd:
    """What everybody shares: until when, and what was measured."""

    def __init__(self, minutes: float):
        self.until = time.monotonic() + 60 * minutes
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.failed: list[str] = []
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

    async def draw(self, client: httpx.AsyncClient, seed: int) -> None:
        while time.monotonic() < self.until:
            asked = {"prompt": "dog", "steps": 25, "seed": seed}
            await self.timed("picture", ask(client, "generate", asked))


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


async def come(browsing: int, minutes: float, drawing: int) -> Crowd:
    crowd = Crowd(minutes)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{PORT}", timeout=120, limits=httpx.Limits(max_connections=200)
    ) as client:
        await asyncio.gather(
            *(crowd.browse(client, seed) for seed in range(browsing)),
            *(crowd.draw(client, 1000 + seed) for seed in range(drawing)),
        )
    return crowd


def memory_mb(process: subprocess.Popen) -> float:
    """Of the page and of the process that draws."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (process.pid, *children)]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(browsing: str = "40", minutes: str = "3", drawing: str = "0") -> None:
    with tempfile.TemporaryDirectory() as data:
        settings = {"GRADIO_SERVER_PORT": str(PORT), "EXPLORER_DATA": data, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(ROOT / "app.py")]
        page = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stdout=subprocess.DEVNULL)
        try:
            time.sleep(30)  # until the model is loaded
            before = memory_mb(page)
            crowd = asyncio.run(come(int(browsing), float(minutes), int(drawing)))
            print(f"memory {before:.0f} MB before, {memory_mb(page):.0f} MB after; {len(crowd.failed)} failed")
        finally:
            page.kill()
    for kind, seconds in crowd.seconds.items():
        p95 = statistics.quantiles(seconds, n=20)[-1] if len(seconds) > 1 else seconds[0]
        print(f"{kind:8} n = {len(seconds):5}: median {statistics.median(seconds):.3f} s, p95 {p95:.3f} s")
    for said in crowd.failed[:5]:
        print(said)


if __name__ == "__main__":
    main(*sys.argv[1:])
