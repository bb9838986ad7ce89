"""Opening the page compared with opening an empty Gradio page, in turns: seconds until it can be used, and megabytes.

    python tests/bench/page_load.py [rounds]

Cold is a browser without a cache, warm the same browser again. Also prints what Chromium records: first and largest
paint, layout shift, and how long the page was blocked.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import BrowserContext, Request, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60
EMPTY_PAGE = "import gradio as gr\nwith gr.Blocks() as page:\n    gr.HTML('<p id=loaded>loaded</p>')\npage.launch()"
OBSERVE_READY_JS = """new MutationObserver(() => {
    if (!window.readyAt && document.querySelector(READY)) window.readyAt = performance.now();
}).observe(document, { subtree: true, childList: true, attributes: true })"""
TIMINGS_JS = """() => new Promise(resolve => {
    const entries = { paint: [], "largest-contentful-paint": [], "layout-shift": [], longtask: [] };
    for (const type of Object.keys(entries))
        new PerformanceObserver(list => entries[type].push(...list.getEntries())).observe({ type, buffered: true });
    const sum = (list, value) => list.reduce((total, entry) => total + value(entry), 0);
    setTimeout(() => resolve({
        "first paint, s": (entries.paint.find(one => one.name === "first-contentful-paint")?.startTime ?? NaN) / 1000,
        "largest paint, s": (entries["largest-contentful-paint"].at(-1)?.startTime ?? NaN) / 1000,
        "layout shift": sum(entries["layout-shift"].filter(one => !one.hadRecentInput), one => one.value),
        "blocked, s": sum(entries.longtask, one => Math.max(0, one.duration - 50)) / 1000,
    }), 500);
})"""
SERVERS = {7891: ["-c", EMPTY_PAGE], 7892: [str(ROOT / "app.py")]}  # by port: the arguments of Python
MOUNTED = "body:not(.mounting) #generate"
PAGES = {  # by name: the port, what is there once the page can be used, and once Gradio has mounted all of it
    "empty": (7891, "#loaded", "#loaded"),
    "explorer, until the slider works": (7892, ".card[data-role=pruned] .picture[width='64']", MOUNTED),
    "explorer, with its heatmap": (7892, "#heatmap .drawn", MOUNTED),
    "explorer, until Generate works": (7892, MOUNTED, MOUNTED),
}
Visit = tuple[float, float, dict[str, float]]


def serve(arguments: list[str], port: int, data: str) -> subprocess.Popen:
    """Start a page and wait until it answers."""
    settings = {"GRADIO_SERVER_PORT": str(port), "EXPLORER_DATA": data, "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stdout=subprocess.DEVNULL)
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until and process.poll() is None:
        try:
            urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            return process
        except (URLError, TimeoutError):
            time.sleep(0.2)
    process.kill()
    raise SystemExit(f"{' '.join(arguments)} did not answer within {START_TIMEOUT_S} s")


def open_page(context: BrowserContext, port: int, ready: str, mounted: str) -> Visit:
    """Open a page; returns seconds until the selector `ready` matches, megabytes received until `mounted` does, and
    Chromium's timings half a second later."""
    page = context.new_page()
    finished: list[Request] = []  # the stream of Gradio's heartbeat never finishes
    page.on("requestfinished", lambda request: finished.append(request))  # playwright takes no built-in method
    page.add_init_script(OBSERVE_READY_JS.replace("READY", json.dumps(ready)))
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector(ready)
    page.wait_for_selector(mounted)
    seconds = page.evaluate("window.readyAt") / 1000  # by the page's own clock, which no long task delays
    timings = page.evaluate(TIMINGS_JS)
    sizes = [request.sizes()["responseBodySize"] for request in finished]
    page.close()
    return seconds, sum(sizes) / 2**20, timings


def main(rounds: str = "5") -> None:
    visits: dict[tuple[str, str], list[Visit]] = {}
    servers: list[subprocess.Popen] = []
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        try:
            for port, arguments in SERVERS.items():
                servers.append(serve(arguments, port, data))
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for _ in range(int(rounds)):
                for name, (port, ready, mounted) in PAGES.items():
                    context = browser.new_context(viewport={"width": 1280, "height": 900})
                    for cache in ("cold", "warm"):
                        visits.setdefault((name, cache), []).append(open_page(context, port, ready, mounted))
                    context.close()
        finally:
            for server in servers:
                server.terminate()
                server.wait(20)
    for (name, cache), measured in visits.items():
        seconds, sizes, timings = zip(*measured, strict=True)
        medians = [f"{key} {statistics.median(one[key] for one in timings):.2f}" for key in timings[0]]
        print(
            f"{name:33} {cache}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} .. {max(seconds):.2f}), "
            f"{statistics.median(sizes):.2f} MB, n = {len(measured)}; {', '.join(medians)}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
