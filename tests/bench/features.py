"""Similarity against plain generation (A B A B), and its memory against the number of pictures.

Run by hand: python tests/bench/features.py [model] [steps] [pictures] [rounds]; memory is of fresh processes.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from explorer import experiment, similarity
from explorer.drawing import draw
from explorer.prompts import cycled, names
from explorer.work import finished


def measured(model, steps: int, pictures: int) -> None:
    finished(similarity.measure(model, cycled(names(model), pictures), steps=steps))


def plain(model, steps: int, pictures: int) -> None:
    prompts = cycled(names(model), pictures)
    for start in range(0, pictures, similarity.BATCH):
        some = prompts[start : start + similarity.BATCH]
        list(draw(model, some, range(start, start + len(some)), "ddim", steps, 7.5, previews=1))


def main(model_id: str = "emoji-unet", steps: str = "50", pictures: str = "16", rounds: str = "3") -> None:
    model, seconds = experiment.loaded(model_id), {plain: [], measured: []}
    for _ in range(int(rounds)):
        for work, taken in seconds.items():
            started = time.perf_counter()
            work(model, int(steps), int(pictures))
            taken.append(time.perf_counter() - started)
    ratios = [own / base for base, own in zip(seconds[plain], seconds[measured], strict=True)]
    print(f"plain {median(seconds[plain]):.2f} s, similarity {median(seconds[measured]):.2f} s, {pictures} pictures")
    print(f"similarity of plain: {median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f}), n = {rounds}")
    for count in (4, 16, 64):
        run = [sys.executable, __file__, "--memory", model_id, str(count)]
        print(f"{count} pictures: {subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()}")


def memory(model_id: str, count: str) -> None:
    measured(experiment.loaded(model_id), 10, int(count))
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at most, 10 calls")


if __name__ == "__main__":
    memory(*sys.argv[2:]) if sys.argv[1:2] == ["--memory"] else main(*sys.argv[1:])
