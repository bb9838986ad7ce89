"""What the SuperNet itself costs: the denoising loop with everything kept against the plain loop, A B A B.

Prints medians and ratios. Run by hand: python tests/bench/overhead.py [model] [steps] [rounds]
"""

import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from explorer import experiment
from explorer.drawing import draw
from explorer.masks import Mask
from explorer.work import finished


def loop_seconds(model, steps: int, mask: Mask | None) -> float:
    *_, (frame, _) = draw(model, ["dog"], [0], "ddim", steps, 7.5, mask, previews=1)
    return frame.seconds


def main(model_id: str = "emoji-unet", steps: str = "25", rounds: str = "7") -> None:
    model, steps = experiment.loaded(model_id), int(steps)
    kept = {}
    for granularity in ("stage", "layer", "module"):
        config = experiment.config_of("uniform", {"steps": steps, "every": 1, "granularity": granularity})
        kept[granularity] = finished(experiment.prune(model, "uniform", config))
        assert kept[granularity].kept == 1
    runs = {"plain": None} | kept
    seconds = {name: [] for name in runs}
    loop_seconds(model, steps, None)  # warm up
    for _ in range(int(rounds)):
        for name, mask in runs.items():
            seconds[name].append(loop_seconds(model, steps, mask))
    base = median(seconds["plain"])
    for name, found in seconds.items():
        ratios = [a / b for a, b in zip(found, seconds["plain"], strict=True)]
        print(
            f"{name:7} median {median(found):.3f} s ({min(found):.3f} .. {max(found):.3f}), "
            f"{median(found) / base:.3f} of plain, median of pairs {median(ratios):.3f}, n = {rounds}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
