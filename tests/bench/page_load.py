"""Opening the page against opening an empty page of Gradio's, in turns: seconds until it can be used, and bytes.

Run by hand: python tests/bench/opening.py [rounds]. Cold is a browser without a cache, warm the same browser again.
Besides, what Chromium itself notes: first and largest paint, how much the page shifts, and how long it does not answer.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
EMPTY = "import gradio as gr\nwith gr.Blocks() as page:\n    gr.HTML('<p id=there>there</p>')\npage.launch()"
SEEN = """new MutationObserver(() => {
    if (!window.readyAt && document.querySelector(READY)) window.readyAt = performance.now();
}).observe(document, { subtree: true, childList: true, attributes: true })"""
NOTED = """() => new Promise(resolve => {
    const noted = { paint: [], "largest-contentful-paint": [], "layout-shift": [], longtask: [] };
    for (const type of Object.keys(noted))
        new PerformanceObserver(list => noted[type].push(...list.getEntries())).observe({ type, buffered: true });
    const sum = (entries, of) => entries.reduce((all, entry) => all + of(entry), 0);
    setTimeout(() => resolve({
        "first paint, s": (noted.paint.find(one => one.name === "first-contentful-paint")?.startTime ?? NaN) / 1000,
        "largest paint, s": (noted["largest-contentful-paint"].at(-1)?.startTime ?? NaN) / 1000,
        "shift": sum(noted["layout-shift"].filter(one => !one.hadRecentInput), one => one.value),
        "blocked, s": sum(noted.longtask, one => Math.max(0, one.duration - 50)) / 1000,
    }), 500);
})"""
SERVED = {7891: ["-c", EMPTY], 7892: [str(ROOT / "app.py")]}
PAGES = {
    "empty": (7891, "#there"),
    "explorer, pictures follow the slider": (7892, ".card[data-role=pruned] .picture[width='64']"),
    "explorer, map drawn as well": (7892, "#heatmap .drawn"),
}


def serve(arguments: list[str], port: int, data: str) -> subprocess.Popen:
    settings = {"GRADIO_SERVER_PORT": str(port), "EXPLORER_DATA": data, "GRADIO_ANALYTICS_ENABLED": "False"}
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=os.environ | settings, stdout=subprocess.DEVNULL
    )
    for _ in range(300):
        try:
            urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            return process
        except (URLError, TimeoutError):
            time.sleep(0.2)
    raise SystemExit(f"{arguments} did not come up")


def opened(context, port: int, ready: str) -> tuple[float, float, dict[str, float]]:
    """Seconds until `ready` is there, megabytes that came, and what the browser noted."""
    page, came = context.new_page(), []
    page.on(
        "requestfinished", lambda request: came.append(request)
    )  # which the stream of Gradio's heartbeat never does
    page.add_init_script(SEEN.replace("READY", json.dumps(ready)))
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector(ready)
    seconds = page.evaluate("window.readyAt") / 1000  # by the page's own clock, which no long task delays
    noted = page.evaluate(NOTED)
    sizes = [request.sizes()["responseBodySize"] for request in came]
    page.close()
    return seconds, sum(sizes) / 2**20, noted


def main(rounds: str = "5") -> None:
    found: dict[tuple[str, str], list[tuple[float, float, dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        servers = [serve(arguments, port, data) for port, arguments in SERVED.items()]
        try:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            for _ in range(int(rounds)):
                for name, (port, ready) in PAGES.items():
                    context = browser.new_context(viewport={"width": 1280, "height": 900})
                    for state in ("cold", "warm"):
                        found.setdefault((name, state), []).append(opened(context, port, ready))
                    context.close()
        finally:
            for server in servers:
                server.kill()
    for (name, state), runs in found.items():
        seconds, sizes, noted = zip(*runs, strict=True)
        print(
            f"{name:36} {state}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} .. {max(seconds):.2f}), "
            f"{statistics.median(sizes):.2f} MB, n = {len(runs)}; "
            + ", ".join(f"{what} {statistics.median(each[what] for each in noted):.2f}" for what in noted[0])
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
