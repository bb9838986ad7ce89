"""Real against ideal speed-up of the denoising loop at 50 % and 80 % of the MACs removed, A B A B.

ideal = 1 / kept MACs; `of ideal` is the measured speed-up divided by it. Schedules of whole calls, of layers and of
modules, and learned ones. Run by hand: python tests/bench/speedup.py [model] [steps] [rounds]
"""

import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from explorer import experiment
from explorer.experiment import ExperimentRequest, mask_at
from tests.bench.overhead import loop_seconds

SCHEDULES = {
    "whole calls": ("uniform", {}),
    "DeepCache, branch 0": ("deepcache", {"branch": 0}),
    "random layers": ("random", {}),
    "random modules": ("random", {"granularity": "module"}),
    "random layers, order 1": ("random", {"order": 1}),
    "learned": ("dipgo", {"algorithm": "nested"}),
    "learned, as published": ("dipgo", {"algorithm": "argmax"}),
}


def main(model_id: str = "emoji-unet", steps: str = "50", rounds: str = "5") -> None:
    model, num_steps = experiment.load_cached(model_id), int(steps)
    masks = {
        f"{name} {ratio:.0%}": mask_at(
            model, ExperimentRequest(model=model_id, method=method, settings=settings, steps=num_steps, ratio=ratio)
        )
        for ratio in (0.5, 0.8)
        for name, (method, settings) in SCHEDULES.items()
    }
    seconds = {name: [] for name in ("plain", *masks)}
    loop_seconds(model, num_steps, None)  # warm up
    for _ in range(int(rounds)):
        for name in seconds:
            seconds[name].append(loop_seconds(model, num_steps, masks.get(name)))
    print(f"plain: {median(seconds['plain']):.3f} s, n = {rounds}")
    for name, mask in masks.items():
        speedups = [plain / own for plain, own in zip(seconds["plain"], seconds[name], strict=True)]
        ideal = 1 / mask.macs_fraction
        print(
            f"{name:28} kept {mask.macs_fraction:.3f}, ideal {ideal:.2f}x, measured {median(speedups):.2f}x "
            f"({min(speedups):.2f} .. {max(speedups):.2f}), {median(speedups) / ideal:.2f} of ideal"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
