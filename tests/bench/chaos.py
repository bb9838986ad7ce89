"""Kill -9 of worker, scheduler and page in turn, at random moments of a short search: what ends with the same file?

    python tests/bench/kills.py [kills] [model]

Page (a foreman without the page), scheduler and worker are processes of their own on loopback, each started again after
it was killed. Says how many jobs end with the undisturbed run's order, to the last bit, and how many of their steps are
missing from the ledger.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from safetensors.numpy import load_file

from explorer.models import catalogue
from explorer.experiment import make_config, prune
from explorer.jobs.store import ENDED, JobStore
from explorer.progress import run_to_completion

SETTINGS = {"steps": 6, "iterations": 16, "batch": 1, "checks": 0}
PAGE = """
import sys, time
from pathlib import Path
from explorer.jobs.cluster import Cluster
from explorer.jobs.foreman import Foreman
from explorer.jobs.ledger import Ledger
if __name__ == "__main__":
    folder, address, model, *settings = sys.argv[1:]
    foreman = Foreman(Ledger(Path(folder)), Cluster(address)).start()
    asked = Path(folder) / "asked"
    while True:
        if asked.exists():
            asked.unlink()
            foreman.submit("bench", "dipgo", model, dict(pair.split("=") for pair in settings))
        time.sleep(0.1)
"""


def main(kills: str = "20", model: str = "emoji-dit") -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    config = make_config("dipgo", SETTINGS)
    expected = run_to_completion(prune(catalogue.load(model), "dipgo", config))
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        troupe = Troupe(Path(folder), f"tcp://127.0.0.1:{port}", port, model)
        try:
            attempts(troupe, int(kills), expected)
        finally:
            troupe.end()


def attempts(troupe: "Troupe", kills: int, expected: object) -> None:
    rng, same, lost, seconds = random.Random(0), 0, 0, []
    whole = run(troupe, None, 0.0)[1]
    print(f"undisturbed: {whole:.1f} s", flush=True)
    for number in range(kills):
        victim = list(troupe.roles)[number % 3]
        job, took = run(troupe, victim, rng.uniform(0, whole))
        steps = [event.step for event in troupe.store.events(job.id)]
        lost += len(set(range(1, SETTINGS["iterations"] + 1)) - set(steps))
        found = load_file(troupe.store.results / job.result) if job.result else {}
        equal = bool(found) and np.array_equal(found["rank/schedule"], expected.rank)
        equal = equal and np.array_equal(found["score/schedule"], expected.score)
        same, seconds = same + equal, [*seconds, took]
        print(f"{number + 1}: {victim}, {job.state}, {'the same' if equal else 'another'}, {took:.1f} s", flush=True)
    print(f"{same} of {kills} end with the same order; {lost} steps missing; {np.median(seconds):.1f} s in the median")


class Troupe:
    """The three processes."""

    def __init__(self, folder: Path, address: str, port: int, model: str):
        explorer, settings = [sys.executable, "-m", "explorer"], [f"{name}={value}" for name, value in SETTINGS.items()]
        (folder / "page.py").write_text(PAGE)
        self.folder = folder
        self.roles = {
            "worker": [*explorer, "jobs", "work", address],
            "scheduler": [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
            + ["--port", str(port), "--no-dashboard"],
            "page": [sys.executable, str(folder / "page.py"), str(folder), address, model, *settings],
        }
        self.running: dict[str, subprocess.Popen] = {}
        for role in ("scheduler", "worker", "page"):
            self.start(role)
        while not (folder / "ledger.sqlite").exists():
            time.sleep(0.1)
        self.store = JobStore(folder, owned=False)

    def start(self, role: str) -> None:
        log = (self.folder / f"{role}.log").open("a")
        env = os.environ | {"PYTHONPATH": os.getcwd()}
        self.running[role] = subprocess.Popen(self.roles[role], stdout=log, stderr=log, env=env)

    def kill(self, role: str) -> None:
        """And start it again; a worker whose scheduler is gone ends by itself."""
        self.running[role].send_signal(signal.SIGKILL)
        self.running[role].wait()
        self.start(role)

    def keep_up(self) -> None:
        for role, process in list(self.running.items()):
            if process.poll() is not None:
                self.start(role)

    def end(self) -> None:
        for process in self.running.values():
            process.kill()


def run(troupe: Troupe, victim: str | None, moment: float) -> tuple:
    """One job, with a kill `moment` seconds after its start; the job, and the seconds until it ended."""
    before, started = {job.id for job in troupe.store.jobs()}, time.monotonic()
    (troupe.folder / "asked").touch()
    while time.monotonic() - started < 600:
        troupe.keep_up()
        if victim and time.monotonic() - started >= moment:
            troupe.kill(victim)
            victim = None
        new = [job for job in troupe.store.jobs() if job.id not in before]
        if new and new[0].state in ENDED:
            return new[0], time.monotonic() - started
        time.sleep(0.1)
    raise TimeoutError(f"the job did not end: {new}")


if __name__ == "__main__":
    main(*sys.argv[1:])
