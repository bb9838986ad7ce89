"""Widths that need no learning: which heads and neurons go first, by the size of their weights, or by lot.

Scores are per parameter that goes with a unit, so that a head and a neuron compare.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from explorer.files import PrunerRecord, RatioRecord, stamped
from explorer.pruners.configs import MagnitudeConfig, WidthConfig
from explorer.widths import SiteRecord, WidthHeader, WidthImportance, Widths, ranked
from explorer.work import Progress


def magnitude(
    model: Any, prompts: Sequence[str], config: MagnitudeConfig
) -> Generator[Progress, None, Widths | WidthImportance]:
    """The norm of all weights that a unit takes part in: those that make its features, and those that read them."""
    from explorer.structure import sites

    there = sites(model.denoiser)
    score = {}
    for number, (name, site) in enumerate(there.items()):
        yield Progress(number, len(there), name)
        score[name] = _norms(model.denoiser, site, config.norm) / site.params
    return _answer(model, there, score, "magnitude", config)


def random_widths(
    model: Any, prompts: Sequence[str], config: WidthConfig
) -> Generator[Progress, None, Widths | WidthImportance]:
    """Units drawn with equal chance."""
    from explorer.structure import sites

    there, lot = sites(model.denoiser), np.random.default_rng(config.seed)
    yield Progress(0, 1, "drawing an order")
    score = {name: lot.random(site.size) for name, site in there.items()}
    return _answer(model, there, score, "random-widths", config)


def _norms(denoiser: Any, site: Any, power: int) -> np.ndarray:
    """float (size,): the L1 or squared L2 norm of each unit's weights."""
    total = np.zeros(site.size * site.width)
    for path in site.producers:
        weight = denoiser.get_submodule(path).weight.detach().double().abs().pow(power).sum(dim=1)
        total += weight.reshape(site.halves, -1).sum(dim=0).cpu().numpy()
    for path, first in site.consumers:
        weight = denoiser.get_submodule(path).weight.detach()[:, first : first + len(total)]
        total += weight.double().abs().pow(power).sum(dim=0).cpu().numpy()
    return total.reshape(site.size, site.width).sum(axis=1)


def _answer(
    model: Any, sites: Mapping[str, Any], score: Mapping[str, np.ndarray], name: str, config: WidthConfig
) -> Widths | WidthImportance:
    """The order that scores make; at the ratio that is asked for, if one is."""
    rank = ranked(sites, score)
    params = sum(parameter.numel() for parameter in model.denoiser.parameters())
    whole = sum(site.removed(np.zeros(site.size, dtype=bool)) for site in sites.values())
    header = WidthHeader(
        format=1,
        kind="importance",
        model=model.record,
        sites=tuple(SiteRecord(name=s.name, size=s.size, params=s.params, rest=s.rest) for s in sites.values()),
        params=params,
        max_ratio=whole / params,
        pruner=PrunerRecord(name=name, config=config.model_dump()),
        ratio=RatioRecord(asked=None, reached=None, of="params"),
        seed=config.seed,
        **stamped(),
    )
    importance = WidthImportance(header, rank, {one: values.astype(np.float32) for one, values in score.items()})
    return importance if config.ratio is None else importance.at(config.ratio)
