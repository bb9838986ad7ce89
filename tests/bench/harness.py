"""Pictures a minute of the evaluation harness against plain generation, A B A B in one process.

Run by hand: python tests/bench/harness.py [model] [steps] [pictures] [rounds]
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from explorer import experiment
from explorer.drawing import draw
from explorer.evidence.evaluation import Contender, Full, evaluate, pairs_of
from explorer.prompts import chosen
from explorer.work import finished

BATCH = 8


def main(model_id: str = "emoji-unet", steps: str = "25", pictures: str = "16", rounds: str = "5") -> None:
    model, full = experiment.loaded(model_id), Full(steps=int(steps))
    pairs = pairs_of(chosen(model, "evaluation"), int(pictures))
    contenders = [Contender("again", full.sampler, full.steps, settings={"number": number}) for number in range(4)]
    seconds = {"plain": [], "harness": []}
    for _ in range(int(rounds)):
        started = time.perf_counter()
        for _ in range(len(contenders) + 2):  # the full run is drawn as the reference and as a contender
            for start in range(0, len(pairs), BATCH):
                prompts, seeds = zip(*pairs[start : start + BATCH], strict=True)
                list(draw(model, prompts, seeds, full.sampler, full.steps, full.guidance, previews=1))
        seconds["plain"].append(time.perf_counter() - started)
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            finished(evaluate(model, full, contenders, pairs, Path(folder) / "t.parquet", truth_steps=0, batch=BATCH))
            seconds["harness"].append(time.perf_counter() - started)
    drawn = (len(contenders) + 2) * len(pairs)
    for name, taken in seconds.items():
        print(f"{name}: {60 * drawn / median(taken):.1f} pictures a minute (n = {len(taken)}, {drawn} pictures each)")
    ratios = [plain / own for plain, own in zip(seconds["plain"], seconds["harness"], strict=True)]
    print(f"harness of plain: {median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
