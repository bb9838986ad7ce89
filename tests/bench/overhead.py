"""What the SuperNet itself costs: the denoising loop with everything kept compared with the plain loop, A B A B.

Prints medians and ratios. Run by hand: python tests/bench/overhead.py [model] [steps] [rounds]
"""

import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from explorer import experiment
from explorer.masks.schedule import Schedule
from explorer.models.model import Model
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from explorer.sampling.generate import generate


def loop_seconds(model: Model, steps: int, mask: Schedule | None) -> float:
    *_, (frame, _) = generate(model, ["dog"], [0], "ddim", steps, 7.5, mask, previews=1)
    return frame.seconds


def main(model_id: str = "emoji-unet", steps: str = "25", rounds: str = "7") -> None:
    model, num_steps = experiment.load_cached(model_id), int(steps)
    whole = {}
    for granularity in ("stage", "layer", "module"):
        config = method_config("uniform", {"steps": num_steps, "interval": 1, "granularity": granularity})
        whole[granularity] = run_to_completion(experiment.prune(model, "uniform", config))
        assert whole[granularity].macs_fraction == 1
    runs = {"plain": None} | whole
    seconds = {name: [] for name in runs}
    loop_seconds(model, num_steps, None)  # warm up
    for _ in range(int(rounds)):
        for name, mask in runs.items():
            seconds[name].append(loop_seconds(model, num_steps, mask))
    base = median(seconds["plain"])
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(taken, seconds["plain"], strict=True)]
        print(
            f"{name:7} median {median(taken):.3f} s ({min(taken):.3f} .. {max(taken):.3f}), "
            f"{median(taken) / base:.3f} of plain, median of pairs {median(ratios):.3f}, n = {rounds}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
