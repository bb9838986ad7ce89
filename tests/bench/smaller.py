"""Real against ideal speed-up of networks that were cut, A B A B, at batch 1 and 8, with widths rounded and not.

ideal = 1 / kept MACs; `of ideal` is the measured speed-up divided by it. Run by hand:
python tests/bench/smaller.py [model] [rounds]
"""

import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from explorer import cost, experiment, shipped
from explorer.pruners.configs import WIDTHS
from explorer.pruners.orders import answer, places
from explorer.widths import load

SHARES = (0.1, 0.2, 0.4)  # of the parameters
CALLS = 6
ROUNDED = 16


def seconds(model, batch: int) -> float:
    """Of a call of the network."""
    inputs = cost.example_inputs(model.denoiser, model.size, model.tokens)
    inputs = {n: v.expand(batch, *v.shape[1:]) if v.ndim > 1 else v for n, v in inputs.items()}
    started = time.perf_counter()
    with torch.no_grad():
        for _ in range(CALLS):
            model.denoiser(**inputs, return_dict=False)
    return (time.perf_counter() - started) / CALLS


def networks(model) -> dict:
    """What is timed, by name."""
    found = {}
    for stem in shipped.widths(model.id):
        order = load(shipped.WIDTHS / model.id / f"{stem}.safetensors")
        pruner = order.header.pruner
        for share in SHARES:
            if share <= order.header.max_ratio:
                found[f"{stem} {share:.0%}"] = order.at(share)
        if not order.header.layers:
            config = WIDTHS[pruner.name](**pruner.config | {"round_to": ROUNDED, "ratio": None})
            rounded = answer(model, places(model, config), dict(order.score), pruner.name, config)
            asked = [share for share in SHARES if share <= rounded.header.max_ratio]
            found |= {f"{stem} {share:.0%}, multiples of {ROUNDED}": rounded.at(share) for share in asked}
    return found


def main(model_id: str = "emoji-unet", rounds: str = "5") -> None:
    whole = experiment.loaded(model_id)
    widths = networks(whole)
    models = {"whole": whole} | {name: one.narrowed(whole) for name, one in widths.items()}
    for batch in (1, 8):
        times = {name: [] for name in models}
        seconds(whole, batch)  # warm up
        for _ in range(int(rounds)):
            for name, model in models.items():
                times[name].append(seconds(model, batch))
        print(f"batch {batch}: whole {1000 * median(times['whole']):.1f} ms a call, n = {rounds}")
        for name, one in widths.items():
            speedups = [plain / own for plain, own in zip(times["whole"], times[name], strict=True)]
            ideal = 1 / one.kept_macs
            print(
                f"  {name:42} MACs {one.kept_macs:.3f}, ideal {ideal:.2f}x, measured {median(speedups):.2f}x "
                f"({min(speedups):.2f} .. {max(speedups):.2f}), {median(speedups) / ideal:.2f} of ideal",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
