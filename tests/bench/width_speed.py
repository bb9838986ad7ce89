"""Real against ideal speed-up of networks with pruned widths, A B A B, at batch 1 and 8, also with rounded widths.

ideal = 1 / kept MACs; `of ideal` is the measured speed-up divided by it. Run by hand:
python tests/bench/width_speed.py [model] [rounds]
"""

import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from explorer import experiment
from explorer.bundled import masks as bundled
from explorer.masks.width import WidthImportance, Widths
from explorer.models.model import Model
from explorer.pruners import method_config
from explorer.pruners.width_ranking import make_width_result, select_dims

RATIOS = (0.1, 0.2, 0.4)  # of the parameters
NUM_CALLS = 6
ROUND_TO = 16


def seconds_per_call(model: Model, batch: int) -> float:
    inputs = model.example_inputs(model.denoiser)
    inputs = {n: v.expand(batch, *v.shape[1:]) if v.ndim > 1 else v for n, v in inputs.items()}
    started = time.perf_counter()
    with torch.no_grad():
        for _ in range(NUM_CALLS):
            model.denoiser(**inputs, return_dict=False)
    return (time.perf_counter() - started) / NUM_CALLS


def pruned_widths(model: Model) -> dict[str, Widths]:
    """Make the widths that are timed, by name."""
    widths = {}
    for stem in bundled.width_headers(model.id):
        importance = WidthImportance.load(bundled.WIDTHS / model.id / f"{stem}.safetensors")
        pruner = importance.header.pruner
        for ratio in RATIOS:
            if ratio <= importance.max_ratio:
                widths[f"{stem} {ratio:.0%}"] = importance.at(ratio)
        if not importance.header.layers:
            config = method_config(pruner.name, pruner.config | {"round_to": ROUND_TO, "ratio": None})
            dims, score = select_dims(model, config), dict(importance.score)
            rounded = make_width_result(model, dims, score, pruner.name, config)
            ratios = [ratio for ratio in RATIOS if ratio <= rounded.max_ratio]
            widths |= {f"{stem} {ratio:.0%}, multiples of {ROUND_TO}": rounded.at(ratio) for ratio in ratios}
    return widths


def main(model_id: str = "emoji-unet", rounds: str = "5") -> None:
    whole = experiment.load_cached(model_id)
    widths = pruned_widths(whole)
    models = {"whole": whole} | {name: whole.prune_widths(one) for name, one in widths.items()}
    for batch in (1, 8):
        times = {name: [] for name in models}
        seconds_per_call(whole, batch)  # warm up
        for _ in range(int(rounds)):
            for name, model in models.items():
                times[name].append(seconds_per_call(model, batch))
        print(f"batch {batch}: whole {1000 * median(times['whole']):.1f} ms per call, n = {rounds}")
        for name, one in widths.items():
            speedups = [plain / own for plain, own in zip(times["whole"], times[name], strict=True)]
            ideal = 1 / one.macs_fraction
            print(
                f"  {name:42} MACs {one.macs_fraction:.3f}, ideal {ideal:.2f}x, measured {median(speedups):.2f}x "
                f"({min(speedups):.2f} .. {max(speedups):.2f}), {median(speedups) / ideal:.2f} of ideal",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
