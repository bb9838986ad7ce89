"""The SuperNet tab: how much it weighs, when it can be used, and how smoothly it moves.

    python tests/bench/lesson.py [rounds]

Frames are counted by the browser's own animation callbacks while the data are followed, and while blocks of a call
stop one after another, of the lesson's 5 calls and of 8; the longest pause between two of them says how far a frame was
late.
"""

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, Route, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent))
from page_load import serve

PORT = 7894
READY = ".lesson:not([hidden])"
READY_JS = """new MutationObserver(() => {
    if (!window.readyAt && document.querySelector(".lesson:not([hidden])")) window.readyAt = performance.now();
}).observe(document, { subtree: true, childList: true, attributes: true })"""
FRAMES_JS = """([act, milliseconds]) => new Promise((resolve) => {
    const times = [];
    const count = (now) => {
        times.push(now);
        if (now - times[0] < milliseconds) return requestAnimationFrame(count);
        const gaps = times.slice(1).map((time, index) => time - times[index]);
        resolve([(1000 * gaps.length) / (times.at(-1) - times[0]), Math.max(...gaps)]);
    };
    requestAnimationFrame(count);
    document.querySelector(act).dispatchEvent(new MouseEvent("click", { bubbles: true }));
})"""
BYTES_JS = """() => performance.getEntriesByType("resource")
    .filter(({ name }) => /lesson|supernet/.test(name)).reduce((sum, one) => sum + one.encodedBodySize, 0)"""
ACTS = {  # by name: what is clicked, for how many milliseconds frames are counted
    "following the data": (".lesson .play", 4000),
    "a cascade of nine blocks": ('.lesson .block[data-call="2"][data-unit="8"]', 1500),
    "unfolding to layers": (".lesson .layers", 1000),
    "following the data through layers": (".lesson .play", 4000),
    "a cascade of 28 layers": ('.lesson .block[data-call="3"][data-unit="27"]', 3000),
}
WIDER = {f"{name}, of 8 calls": act for name, act in ACTS.items() if "layers" in name}


def draw_eight_calls(page: Page) -> None:
    """Have the lesson draw 8 calls instead of its 5; pictures of the calls that it lacks stay empty."""

    def widen(route: Route) -> None:
        data = route.fetch().json()
        scenes = [scene | {"psnr": [30] * len(data["levels"]) ** 7} for scene in data["scenes"]]
        route.fulfill(json=data | {"steps": 8, "scenes": scenes})

    page.route("**/lesson.json*", widen)


def visit(page: Page, scene: str) -> tuple[float, float]:
    """Open the tab by its address; returns seconds until it can be used, and megabytes of the lesson's own."""
    page.goto(f"http://127.0.0.1:{PORT}/?tab=supernet&scene={scene}")
    page.wait_for_selector(READY)
    page.wait_for_function("performance.getEntriesByType('resource').some(({ name }) => name.includes('subnets'))")
    page.wait_for_timeout(500)  # for the last file
    return page.evaluate("window.readyAt") / 1000, page.evaluate(BYTES_JS) / 2**20


def main(rounds: str = "5") -> None:
    opened, moved = [], {name: [] for name in [*ACTS, *WIDER]}
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        server = serve([str(Path(__file__).resolve().parents[2] / "app.py")], PORT, data)
        try:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for _ in range(int(rounds)):
                page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
                page.add_init_script(READY_JS)
                opened.append(visit(page, "subnet"))
                for name, act in ACTS.items():
                    moved[name].append(page.evaluate(FRAMES_JS, list(act)))
                page.context.close()
                page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
                page.add_init_script(READY_JS)
                draw_eight_calls(page)
                visit(page, "subnet")
                for name, act in WIDER.items():
                    moved[name].append(page.evaluate(FRAMES_JS, list(act)))
                page.context.close()
        finally:
            server.terminate()
            server.wait(20)
    seconds, sizes = zip(*opened, strict=True)
    print(f"usable after {statistics.median(seconds):.2f} s ({min(seconds):.2f} .. {max(seconds):.2f}), cold;", end=" ")
    print(f"{max(sizes):.2f} MB of its own, n = {rounds}")
    for name, values in moved.items():
        rates, gaps = zip(*values, strict=True)
        print(f"{name}: {statistics.median(rates):.0f} frames a second, at most {max(gaps):.0f} ms between two")


if __name__ == "__main__":
    main(*sys.argv[1:])
