"""Memory and time of one step of learning by the number of calls, above the idle model, each in a fresh process.

Run by hand: python tests/bench/learning.py [model] [batch] [dipgo | ecodiff]. The rows are kinds of checkpointing:
`none` keeps every activation, `per_call` what goes from call to call, `sqrt` that at every sqrt(T)-th call.

DiP-GO: free gates, all open, so that every call is in the backward pass; EcoDiff: one step on the whole network. The
allocator returns free memory at once, because otherwise most of the growth with T is memory that it keeps in pieces.
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "0"}  # glibc
CASES = [("none", 10), *(("per_call", calls) for calls in (10, 25, 50, 100)), ("sqrt", 100)]
ALL_OPEN = {"dipgo": {"algorithm": "argmax", "init": "keep", "iterations": 1}, "ecodiff": {"iterations": 1}}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_case(model_id: str, batch: str, method: str, checkpointing: str, calls: str) -> None:
    from explorer.experiment import load_cached, prune
    from explorer.pruners import method_config
    from explorer.sampling.generate import generate

    model = load_cached(model_id)
    list(generate(model, ["dog"], [0], "ddim", 2, 7.5, previews=1))
    idle = peak_mb()
    settings = {"steps": int(calls), "batch": int(batch), "checkpointing": checkpointing} | ALL_OPEN[method]
    started = time.perf_counter()
    next(prune(model, method, method_config(method, settings)))
    print(f"{peak_mb() - idle:8.0f} MB above {idle:.0f}, {time.perf_counter() - started:6.1f} s")


def main(model_id: str = "emoji-unet", batch: str = "8", method: str = "dipgo") -> None:
    for checkpointing, calls in CASES:
        command = [sys.executable, __file__, "--one", model_id, batch, method, checkpointing, str(calls)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | ALLOCATOR)
        print(f"{checkpointing:8} T = {calls:3}: {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    run_case(*sys.argv[2:]) if sys.argv[1:2] == ["--one"] else main(*sys.argv[1:])
