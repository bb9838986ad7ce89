"""What a visitor of Optimize waits for: from the click on Start to the first step and its picture, cold and warm, and
from the click on Stop to the end; and what starting the workers takes in memory.

Run by hand: python tests/bench/waiting.py [rounds]. Cold is the first job of a page that was just started, with the
workers still to start; warm is the next one. A job's own process loads PyTorch and the model each time.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.page_fixtures import FLAGS, free_port, wait_until_served  # noqa: E402 -- found beside this file's folder

CONNECT_TIMEOUT_S = 300_000  # milliseconds: a first step of the default settings can take minutes


def children_mb(page: int) -> float:
    return sum(child.memory_info().rss for child in psutil.Process(page).children(recursive=True)) / 2**20


def job(page: Page) -> tuple[float, float]:
    """Seconds from Start to the first picture, and from Stop until it is said to have ended."""
    started = time.perf_counter()
    page.click("#job-start")
    expect(page.locator("#job .description [role=status]")).to_contain_text("running, step", timeout=CONNECT_TIMEOUT_S)
    expect(page.locator("#job .preview")).to_be_visible(timeout=CONNECT_TIMEOUT_S)
    first = time.perf_counter() - started
    started = time.perf_counter()
    page.click("#job-stop")
    expect(page.locator("#job .description [role=status]")).to_contain_text("interrupted", timeout=CONNECT_TIMEOUT_S)
    return first, time.perf_counter() - started


def visit() -> dict[str, float]:
    """One page from its start: what two jobs after one another took."""
    port = free_port()
    with tempfile.TemporaryDirectory() as data, open(Path(data) / "log", "w") as log, sync_playwright() as playwright:
        settings = {"GRADIO_SERVER_PORT": str(port), "EXPLORER_DATA": data, "HF_HUB_OFFLINE": "1"}
        served = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log
        )
        try:
            wait_until_served(f"http://127.0.0.1:{port}/", served, Path(data) / "log")
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}/?tab=optimize")
            page.wait_for_selector("#job-start", timeout=CONNECT_TIMEOUT_S)
            time.sleep(10)  # the process that draws has loaded its model
            before = children_mb(served.pid)
            cold, ended = job(page)
            time.sleep(3)  # the job's process is gone
            found = {"cold": cold, "stop, cold": ended, "MiB": children_mb(served.pid) - before}
            page.click("#job-delete")
            found["warm"], found["stop, warm"] = job(page)
            browser.close()
        finally:
            served.terminate()
            served.wait(20)
    return found


def main(rounds: str = "3") -> None:
    visits = [visit() for _ in range(int(rounds))]
    for name in visits[0]:
        values = [one[name] for one in visits]
        print(f"{name:10} median {median(values):7.2f} ({min(values):.2f} .. {max(values):.2f}), n = {rounds}")


if __name__ == "__main__":
    main(*sys.argv[1:])
