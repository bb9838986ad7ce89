"""Seconds from starting the page's process until it answers. Run by hand: python tests/bench/start.py [rounds]"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]


def start_seconds(data: str) -> float:
    """Start the page with the data folder `data`; returns the seconds until it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.perf_counter()
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "EXPLORER_DATA": data}
    page = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=1):
                    return time.perf_counter() - started
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
    finally:
        page.terminate()
        page.wait()


def main(rounds: str = "3") -> None:
    with tempfile.TemporaryDirectory() as data:
        seconds = [start_seconds(data) for _ in range(int(rounds))]
    print(f"page answers: median {median(seconds):.2f} s ({min(seconds):.2f} .. {max(seconds):.2f}), n = {rounds}")


if __name__ == "__main__":
    main(*sys.argv[1:])
