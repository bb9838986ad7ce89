"""Pictures per minute of the evaluation compared with plain generation, A B A B in one process.

Run by hand: python tests/bench/harness.py [model] [steps] [pictures] [rounds]
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from explorer import experiment
from explorer.evaluation.candidates import Candidate, ReferenceRun, make_samples
from explorer.evaluation.evaluate import evaluate
from explorer.models.prompts import split_names
from explorer.progress import run_to_completion
from explorer.sampling.generate import generate

BATCH = 8


def main(model_id: str = "emoji-unet", steps: str = "25", pictures: str = "16", rounds: str = "5") -> None:
    model, reference = experiment.load_cached(model_id), ReferenceRun(steps=int(steps))
    run = (reference.sampler, reference.steps, reference.guidance)
    samples = make_samples(split_names(model, "evaluation"), int(pictures))
    candidates = [
        Candidate("repeated", reference.sampler, reference.steps, settings={"number": number}) for number in range(4)
    ]
    seconds = {"plain": [], "evaluation": []}
    for _ in range(int(rounds)):
        started = time.perf_counter()
        for _ in range(len(candidates) + 2):  # the full run is generated as the reference and as a candidate
            for start in range(0, len(samples), BATCH):
                prompts, seeds = zip(*samples[start : start + BATCH], strict=True)
                list(generate(model, prompts, seeds, *run, previews=1))
        seconds["plain"].append(time.perf_counter() - started)
        with tempfile.TemporaryDirectory() as folder:
            file, started = Path(folder) / "t.parquet", time.perf_counter()
            work = evaluate(model, reference, candidates, samples, file, converged_steps=0, batch=BATCH)
            run_to_completion(work)
            seconds["evaluation"].append(time.perf_counter() - started)
    count = (len(candidates) + 2) * len(samples)
    for name, taken in seconds.items():
        print(f"{name}: {60 * count / median(taken):.1f} pictures per minute (n = {len(taken)}, {count} pictures each)")
    ratios = [plain / own for plain, own in zip(seconds["plain"], seconds["evaluation"], strict=True)]
    print(f"evaluation / plain: {median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
