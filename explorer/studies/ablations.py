"""What each decision inside DiP-GO is worth: the same search with one setting changed, at few calls.

And what searches without a gradient find with as many runs of the network, and with ten times as many.
"""

import itertools
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from explorer.evidence.suite import FORECASTS
from explorer.graph import Forecast
from explorer.masks import Importance
from explorer.prompts import chosen, cycled
from explorer.pruners import PRUNERS
from explorer.pruners.configs import PUBLISHED, DipgoConfig, GeneticConfig
from explorer.pruners.dipgo import swept
from explorer.trials import Trials
from explorer.work import Progress

STEPS, PICTURES, RATIOS = 10, 16, (0.5, 0.7, 0.8)
SAME = {"iterations": 32, "batch": 1, "memory": "plain"}  # of the published way, so that all have seen as many pictures
SHORT = {"iterations": 8, "batch": 4, "memory": "plain"}

VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "published": {},
        "published: a table instead of the network": {"parametrisation": "table"},
        "published: linear layers instead of attention": {"encoder": "linear"},
        "published: attention not applied, as released": {"encoder": "none"},
        **{f"published: loss {loss}": {"loss": loss} for loss in ("l1", "l2", "l1+ssim", "latent")},
        **{f"published: alpha {alpha}": {"alpha": alpha} for alpha in (0.1, 0.5, 2.0)},
        "published: gamma without the cascade": {"cascade": False},
        "published: one noise for all": {"fresh_noise": False},
        **{f"published: {granularity}": {"granularity": granularity} for granularity in ("layer", "module")},
        "published: selection by sweep": {"selection": "sweep"},
    }
)
OURS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ours": {},
        **{f"ours: {granularity}": {"granularity": granularity} for granularity in ("stage", "module")},
        **{f"ours: order {order}, reach {reach}": {"order": order, "reach": reach} for order, reach in FORECASTS[:2]},
        "ours: a network instead of the table": {"parametrisation": "network", "rate": 0.1},
    }
)


def ablate(model: Any, folder: Path, seed: int = 0, steps: int = STEPS) -> Generator[Progress, None, pd.DataFrame]:
    """One row per variant and ratio: `psnr` of the final latents to the full run, in dB, on evaluation names.

    What is learned stays in `folder` and is taken from there the next time; variants whose settings come to the same
    are learned once.
    """
    trials = Trials(model, cycled(chosen(model, "evaluation"), PICTURES), "ddim", steps, 7.5, seed=10_000)
    size = trials.full.square().mean().item()
    common = {"steps": steps, "seed": seed}
    asked = {name: PUBLISHED | SAME | own | common for name, own in VARIANTS.items()}
    asked |= {name: SHORT | own | common for name, own in OURS.items()}
    rows = []
    for number, (name, settings) in enumerate(asked.items()):
        yield Progress(number, len(asked), name)
        sweep = settings.get("selection") == "sweep"
        config = DipgoConfig(**{**settings, "selection": "order"})
        kept = folder / f"{sha256(repr(config).encode()).hexdigest()[:16]}.safetensors"
        if not kept.exists():
            (yield from PRUNERS["dipgo"](model, chosen(model, "search"), config)).save(kept)
        importance = Importance.load(kept)
        graph = model.graph(config.granularity, config.reuse)
        for ratio in RATIOS:
            keep = swept(graph, importance.score, ratio) if sweep else importance.at(ratio).keep
            loss = trials.schedule_loss(graph, keep, Forecast.of(config))
            share = graph.cost(keep).sum() / (graph.macs_per_call * len(keep))
            found = {"variant": name, "ratio": ratio, "kept": float(share), "psnr": float(10 * np.log10(size / loss))}
            rows.append(found | {"seed": seed})
    return pd.DataFrame(rows)


SEARCHES = {"genetic": 24, "random": None}  # how many are kept of a genetic search's candidates; none: all
SEARCHED_AT = 0.8


def search(model: Any, seed: int = 0, steps: int = STEPS) -> Generator[Progress, None, pd.DataFrame]:
    """Ours against genetic and random search over the same units, at one ratio, at the same number of network runs and
    at ten times as many. One row each: `psnr` as in `ablate`, `runs` of the network a picture, and seconds.

    A run with a gradient counts as 7/3: of three of them two go back, which takes twice as long as going forth. A
    candidate of a search counts as what its MACs amount to in whole runs, which is the same for all of them.
    """
    trials = Trials(model, cycled(chosen(model, "evaluation"), PICTURES), "ddim", steps, 7.5, seed=10_000)
    config = DipgoConfig(**SHORT, steps=steps, seed=seed)
    graph, prompts = model.graph(config.granularity, config.reuse), chosen(model, "search")
    rows = []

    def row(name: str, mask: Any, runs: float, started: float) -> None:
        loss = trials.schedule_loss(graph, mask.keep, Forecast.of(mask.header))
        psnr = 10 * np.log10(trials.full.square().mean().item() / loss)
        rows.append({"search": name, "psnr": psnr, "runs": runs, "seconds": time.perf_counter() - started})

    started = time.perf_counter()
    with counting(model) as runs:
        importance = yield from PRUNERS["dipgo"](model, prompts, config)
    learned = runs[0]
    row("ours", importance.at(SEARCHED_AT), learned, started)
    same = {"granularity": config.granularity, "reuse": config.reuse, "order": config.order, "reach": config.reach}
    same |= {"steps": steps, "seed": seed, "ratio": SEARCHED_AT}
    each = GeneticConfig().pictures * steps * (1 - SEARCHED_AT) * 2
    for (name, kept), times in itertools.product(SEARCHES.items(), (1, 10)):
        budget = max(4, round(times * learned / each))
        started = time.perf_counter()
        config = GeneticConfig(**same, budget=budget, population=min(kept or budget, budget))
        mask = yield from PRUNERS["genetic"](model, prompts, config)
        row(f"{name}, {budget} candidates", mask, budget * each, started)
    return pd.DataFrame(rows)


@contextmanager
def counting(model: Any) -> Iterator[list[float]]:
    """How often the denoiser really runs inside, times pictures (guided ones count twice)."""
    import torch

    runs = [0.0]

    def count(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        runs[0] += len(output) * (7 / 3 if torch.is_grad_enabled() else 1)

    handle = next(module for module in model.denoiser.modules() if isinstance(module, torch.nn.Conv2d))
    handle = handle.register_forward_hook(count)  # the stem always runs when anything does; twins inherit the hook
    try:
        yield runs
    finally:
        handle.remove()
