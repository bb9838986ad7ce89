"""What a visitor of Optimize waits for: from Start to the first step and its picture, and from Pause to the end.

    python tests/bench/job_latency.py [rounds]

Cold is the first job of a page that has just been started, warm is the next one; the process of a job loads PyTorch
and the model each time. Also prints how much memory the page's child processes use in addition after the cold job.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import psutil
from playwright.sync_api import Page, expect, sync_playwright

from tests.page_fixtures import FLAGS, ROOT, free_port, wait_until_served

TIMEOUT_MS = 300_000  # a first step of the default settings can take minutes
WARM_UP_S = 10  # until the process that generates has loaded its model
EXIT_S = 3  # until the process of a job has ended
STATUS = "#job .description [role=status]"


def children_mb(page_pid: int) -> float:
    children = psutil.Process(page_pid).children(recursive=True)
    return sum(child.memory_info().rss for child in children) / 2**20


def run_job(page: Page) -> tuple[float, float]:
    """Start and pause a job; returns seconds from Start to the first picture, and from Pause to the job's end."""
    started = time.perf_counter()
    page.click("#job-start")
    expect(page.locator(STATUS)).to_contain_text("running, step", timeout=TIMEOUT_MS)
    expect(page.locator("#job .preview")).to_be_visible(timeout=TIMEOUT_MS)
    start_s = time.perf_counter() - started
    started = time.perf_counter()
    page.click("#job-stop")
    expect(page.locator(STATUS)).to_contain_text("interrupted", timeout=TIMEOUT_MS)
    return start_s, time.perf_counter() - started


def measure_page() -> dict[str, float]:
    """Start a page and run two jobs one after the other; returns what was measured, by name."""
    port = free_port()
    with tempfile.TemporaryDirectory() as data, open(Path(data) / "log", "w") as log, sync_playwright() as playwright:
        settings = {"GRADIO_SERVER_PORT": str(port), "EXPLORER_DATA": data, "HF_HUB_OFFLINE": "1"}
        command, url = [sys.executable, str(ROOT / "app.py")], f"http://127.0.0.1:{port}/"
        served = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log)
        try:
            wait_until_served(url, served, Path(data) / "log")
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            page = browser.new_page()
            page.goto(f"{url}?tab=optimize")
            page.wait_for_selector("#job-start", timeout=TIMEOUT_MS)
            time.sleep(WARM_UP_S)
            before = children_mb(served.pid)
            start_s, pause_s = run_job(page)
            time.sleep(EXIT_S)
            found = {
                "start cold, s": start_s,
                "pause cold, s": pause_s,
                "memory, MiB": children_mb(served.pid) - before,
            }
            page.click("#job-delete")
            found["start warm, s"], found["pause warm, s"] = run_job(page)
            browser.close()
        finally:
            served.terminate()
            served.wait(20)
    return found


def main(rounds: str = "3") -> None:
    found = [measure_page() for _ in range(int(rounds))]
    for name in found[0]:
        values = [one[name] for one in found]
        print(f"{name:13} median {median(values):7.2f} ({min(values):.2f} .. {max(values):.2f}), n = {rounds}")


if __name__ == "__main__":
    main(*sys.argv[1:])
