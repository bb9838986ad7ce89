"""Chaos test of jobs: kill worker, scheduler and page in turn at random moments of a short search, and compare results.

    python tests/bench/chaos.py [kills] [model]

Page (a job manager without the page), scheduler and worker are processes of their own on loopback. A process that was
killed (SIGKILL) is started again at once. Prints how many jobs end with the same result as an uninterrupted search, to
the last bit, and how many of their steps are missing from the job store.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from safetensors.numpy import load_file

from explorer.experiment import load_cached, prune
from explorer.jobs.job import ENDED, Job
from explorer.jobs.store import JobStore
from explorer.masks.schedule import ScheduleImportance
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from tests.page_fixtures import ROOT, free_port

SETTINGS = {"steps": 6, "iterations": 16, "batch": 1, "validate_every": 0}
JOB_TIMEOUT_S = 600
POLL_INTERVAL_S = 0.1
START_ORDER = ("scheduler", "worker", "page")
KILL_ORDER = ("worker", "scheduler", "page")
PAGE = """
import sys, time
from pathlib import Path
from explorer.jobs.executors.dask import DaskExecutor
from explorer.jobs.manager import JobManager
from explorer.jobs.store import JobStore
if __name__ == "__main__":
    folder, address, model, *settings = sys.argv[1:]
    manager = JobManager(JobStore(Path(folder)), DaskExecutor(address)).start()
    request = Path(folder) / "request"
    while True:
        if request.exists():
            request.unlink()
            manager.submit("bench", "dipgo", model, dict(pair.split("=") for pair in settings))
        time.sleep(0.1)
"""


def main(kills: str = "20", model: str = "emoji-dit") -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # sums over other numbers of threads have another order
    expected = run_to_completion(prune(load_cached(model), "dipgo", method_config("dipgo", SETTINGS)))
    with tempfile.TemporaryDirectory() as folder:
        services = Services(Path(folder), model)
        try:
            run_attempts(services, int(kills), expected)
        finally:
            services.close()


def run_attempts(services: "Services", kills: int, expected: ScheduleImportance) -> None:
    """Run one job per kill, and print how each ended."""
    rng, num_same, num_missing, seconds = random.Random(0), 0, 0, []
    uninterrupted_s = run_job(services, None, 0.0)[1]
    print(f"uninterrupted: {uninterrupted_s:.1f} s", flush=True)
    for number in range(kills):
        victim = KILL_ORDER[number % len(KILL_ORDER)]
        job, job_s = run_job(services, victim, rng.uniform(0, uninterrupted_s))
        steps = {event.step for event in services.store.events(job.id)}
        num_missing += len(set(range(1, SETTINGS["iterations"] + 1)) - steps)
        is_same = has_result(services.store, job, expected)
        num_same, seconds = num_same + is_same, [*seconds, job_s]
        result = "same result" if is_same else "OTHER result"
        print(f"{number + 1}: {victim} killed, job {job.state}, {result}, {job_s:.1f} s", flush=True)
    print(f"{num_same} of {kills} jobs end with the same result; {num_missing} steps are missing", end="")
    print(f"; median {np.median(seconds):.1f} s per job" if seconds else "")


def has_result(store: JobStore, job: Job, expected: ScheduleImportance) -> bool:
    """Say whether a job ended with the expected importance, to the last bit."""
    found = load_file(store.results / job.result) if job.result else {}
    return bool(found) and all(
        np.array_equal(found[f"{name}/schedule"], getattr(expected, name)) for name in ("rank", "score")
    )


class Services:
    """Scheduler, worker and page, each a process that can be killed and started again."""

    def __init__(self, folder: Path, model: str):
        port = free_port()
        address = f"tcp://127.0.0.1:{port}"
        settings = [f"{name}={value}" for name, value in SETTINGS.items()]
        (folder / "page.py").write_text(PAGE)
        scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
        self.folder = folder
        self.commands = {
            "worker": [sys.executable, "-m", "explorer", "jobs", "worker", address],
            "scheduler": [*scheduler, "--port", str(port), "--no-dashboard"],
            "page": [sys.executable, str(folder / "page.py"), str(folder), address, model, *settings],
        }
        self.running: dict[str, subprocess.Popen] = {}
        for name in START_ORDER:
            self.start(name)
        while not (folder / "jobs.sqlite").exists():
            time.sleep(POLL_INTERVAL_S)
        self.store = JobStore(folder, owned=False)

    def start(self, name: str) -> None:
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        with (self.folder / f"{name}.log").open("a") as log:
            self.running[name] = subprocess.Popen(self.commands[name], stdout=log, stderr=log, env=env)

    def kill(self, name: str) -> None:
        """Kill a process and start it again."""
        self.running[name].kill()
        self.running[name].wait()
        self.start(name)

    def restart_exited(self) -> None:
        """Start processes again that ended by themselves, as a worker does whose scheduler was killed."""
        for name, process in list(self.running.items()):
            if process.poll() is not None:
                self.start(name)

    def close(self) -> None:
        for process in self.running.values():
            process.terminate()  # a worker also ends the processes that it started
        for process in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def run_job(services: Services, victim: str | None, kill_after_s: float) -> tuple[Job, float]:
    """Run one job and kill `victim` `kill_after_s` seconds after its start; returns the job and its seconds.

    Raises TimeoutError where it does not end.
    """
    before, started = {job.id for job in services.store.jobs()}, time.monotonic()
    (services.folder / "request").touch()
    while time.monotonic() - started < JOB_TIMEOUT_S:
        services.restart_exited()
        if victim and time.monotonic() - started >= kill_after_s:
            services.kill(victim)
            victim = None
        new = [job for job in services.store.jobs() if job.id not in before]
        if new and new[0].state in ENDED:
            return new[0], time.monotonic() - started
        time.sleep(POLL_INTERVAL_S)
    raise TimeoutError(f"the job did not end within {JOB_TIMEOUT_S} s: {new}")


if __name__ == "__main__":
    main(*sys.argv[1:])
