"""Measuring feature similarity compared with plain generation (A B A B), and its memory by the number of pictures.

Run by hand: python tests/bench/features.py [model] [steps] [pictures] [rounds]; memory is of fresh processes.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from explorer import experiment
from explorer.measures import feature_similarity
from explorer.models.model import Model
from explorer.models.prompts import model_names, repeat_to
from explorer.progress import run_to_completion
from explorer.sampling.generate import generate


def run_similarity(model: Model, steps: int, num_images: int) -> None:
    run_to_completion(feature_similarity.measure(model, repeat_to(model_names(model), num_images), steps=steps))


def run_plain(model: Model, steps: int, num_images: int) -> None:
    prompts = repeat_to(model_names(model), num_images)
    for start in range(0, num_images, feature_similarity.BATCH):
        some = prompts[start : start + feature_similarity.BATCH]
        list(generate(model, some, range(start, start + len(some)), "ddim", steps, 7.5, previews=1))


def main(model_id: str = "emoji-unet", steps: str = "50", pictures: str = "16", rounds: str = "3") -> None:
    model, seconds = experiment.load_cached(model_id), {run_plain: [], run_similarity: []}
    for _ in range(int(rounds)):
        for work, taken in seconds.items():
            started = time.perf_counter()
            work(model, int(steps), int(pictures))
            taken.append(time.perf_counter() - started)
    plain, similarity = seconds.values()
    ratios = [own / base for base, own in zip(plain, similarity, strict=True)]
    print(f"plain {median(plain):.2f} s, similarity {median(similarity):.2f} s, {pictures} pictures")
    print(f"similarity / plain: {median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f}), n = {rounds}")
    for count in (4, 16, 64):
        command = [sys.executable, __file__, "--memory", model_id, str(count)]
        print(f"{count} pictures: {subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()}")


def print_memory(model_id: str, count: str) -> None:
    run_similarity(experiment.load_cached(model_id), 10, int(count))
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at most, 10 calls")


if __name__ == "__main__":
    print_memory(*sys.argv[2:]) if sys.argv[1:2] == ["--memory"] else main(*sys.argv[1:])
