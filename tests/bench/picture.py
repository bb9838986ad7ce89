"""Seconds and memory of one picture, in a process of its own: load, generate, peak.

Run by hand: python tests/bench/picture.py [rounds]
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import json, resource, time
started = time.perf_counter()
from explorer import experiment
from explorer.sampling.generate import generate
model = experiment.load_cached("emoji-unet")
loaded = time.perf_counter() - started
idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
started = time.perf_counter()
*_, (frame, _) = generate(model, ["dog"], [0], "ddim", 25, 7.5, previews=1)
whole = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"load_s": loaded, "picture_s": whole, "loop_s": frame.seconds, "loaded_mb": idle, "peak_mb": peak}))
"""


def main(rounds: str = "3") -> None:
    runs = []
    for _ in range(int(rounds)):
        command = [sys.executable, "-W", "ignore", "-c", CODE]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    for key in runs[0]:
        values = [run[key] for run in runs]
        print(f"{key}: median {median(values):.2f} ({min(values):.2f} .. {max(values):.2f}), n = {rounds}")


if __name__ == "__main__":
    main(*sys.argv[1:])
