"""Memory and time of one step of learning against the number of calls, above the idle model, each in a fresh process.

Run by hand: python tests/bench/learning.py [model] [batch] [dipgo | ecodiff]. `plain` keeps every activation, `step`
what goes from call to call, `nested` that at every sqrt(T)-th call. DiP-GO: gates of their own, all open, so that every
call is on the way back; EcoDiff: one look at the whole network. The allocator is told to give back what is free at
once, for otherwise most of the growth with T is what it keeps in pieces.
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

HONEST = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "0"}  # glibc
CASES = [("plain", 10), *(("step", calls) for calls in (10, 25, 50, 100)), ("nested", 100)]
OPEN = {"dipgo": {"decision": "argmax", "start": "keep", "iterations": 1}, "ecodiff": {"iterations": 1}}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(model_id: str, batch: str, method: str, memory: str, calls: str) -> None:
    from explorer import experiment
    from explorer.drawing import draw
    from explorer.experiment import config_of, prune

    model = experiment.loaded(model_id)
    list(draw(model, ["dog"], [0], "ddim", 2, 7.5, previews=1))
    idle = peak_mb()
    settings = {"steps": int(calls), "batch": int(batch), "memory": memory} | OPEN[method]
    started = time.perf_counter()
    next(prune(model, method, config_of(method, settings)))
    print(f"{peak_mb() - idle:8.0f} MB above {idle:.0f}, {time.perf_counter() - started:6.1f} s")


def main(model_id: str = "emoji-unet", batch: str = "8", method: str = "dipgo") -> None:
    for memory, calls in CASES:
        run = [sys.executable, __file__, "--one", model_id, batch, method, memory, str(calls)]
        said = subprocess.run(run, capture_output=True, text=True, check=True, env=os.environ | HONEST).stdout.strip()
        print(f"{memory:7} T = {calls:3}: {said}", flush=True)


if __name__ == "__main__":
    one(*sys.argv[2:]) if sys.argv[1:2] == ["--one"] else main(*sys.argv[1:])
