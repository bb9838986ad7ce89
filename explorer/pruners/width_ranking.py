"""From scores of heads, neurons, rows or channels to the order in which they go, and to the file that holds it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from explorer.files import PrunerRecord, RatioRecord, stamped
from explorer.pruners.configs import WidthConfig
from explorer.sites import LayerRecord, SiteRecord, WidthHeader
from explorer.widths import WidthImportance, Widths, ranked

if TYPE_CHECKING:
    import torch


def places(model: Any, config: WidthConfig) -> Mapping[str, Any]:
    """Where units can go on the axis that is asked for: `structure.Site` or `channels.Group` by name.

    Raises ValueError for channels of anything but a U-Net, for rows of anything but a FLUX, and for a network without
    any such place.
    """
    on_channels = config.axis == "channels"
    found = model.sites(channels=on_channels, rows=config.rows)
    order = {path: number for number, (path, _) in enumerate(model.denoiser.named_modules())}
    names = sorted((name for name in found if name.endswith(":channels") == on_channels), key=lambda n: order[_path(n)])
    if not names:
        raise ValueError(f"{model.id} has no {config.axis}")
    return {name: found[name] for name in names}


def _path(site: str) -> str:
    return site.rpartition(":")[0]


def added_up(denoiser: Any, place: Any, values: Mapping[str, "torch.Tensor"]) -> np.ndarray:
    """(size,): `values` (parameter's name -> a tensor of its shape, none negative) of all weights that a unit takes
    part in, those that make its features and those that read them; of other units than channels per parameter, so
    that they compare."""
    from explorer.channels import Group, summed

    if isinstance(place, Group):
        return summed(place, values)
    total = np.zeros(place.size * place.width)
    for path in place.producers:
        made = values[f"{path}.weight"].double().sum(dim=1)
        total += made.reshape(place.halves, -1).sum(dim=0).cpu().numpy()
    for path, first in place.consumers:
        total += values[f"{path}.weight"][:, first : first + len(total)].double().sum(dim=0).cpu().numpy()
    return total.reshape(place.size, place.width).sum(axis=1) / place.params


def answer(
    model: Any,
    there: Mapping[str, Any],
    score: Mapping[str, np.ndarray],
    name: str,
    config: WidthConfig,
    trace: tuple[tuple[int, float], ...] = (),
) -> Widths | WidthImportance:
    """The order that scores make; at the ratio that is asked for, if one is."""
    header = _header(model, there, name, config, trace)
    keys, bunches = {}, {}
    for site in header.sites:
        bunches[site.name], keys[site.name] = _bunched(site, score[site.name], config)
    if config.ranking == "blocks" and config.axis != "channels":
        keys = _by_block(header.sites, score)
    scores = {one: np.asarray(values, dtype=np.float32) for one, values in score.items()}
    importance = WidthImportance(header, ranked(keys, bunches), scores)
    header = header.model_copy(update={"max_ratio": float(importance.stops[1].max())})
    importance = WidthImportance(header, importance.rank, scores)
    return importance if config.ratio is None else importance.at(config.ratio)


def decided(
    model: Any, there: Mapping[str, Any], keep: Mapping[str, np.ndarray], name: str, config: WidthConfig
) -> Widths:
    """Widths that were decided without an order."""
    header = _header(model, there, name, config).model_copy(update={"kind": "mask"})
    reached = RatioRecord(asked=None, reached=1 - Widths(header, keep).kept, of="params")
    return Widths(header.model_copy(update={"ratio": reached}), keep)


def _header(
    model: Any,
    there: Mapping[str, Any],
    name: str,
    config: WidthConfig,
    trace: tuple[tuple[int, float], ...] = (),
) -> WidthHeader:
    macs = _macs(model)
    return WidthHeader(
        format=1,
        kind="importance",
        model=model.record,
        sites=tuple(_record(model.denoiser, place, config, macs) for place in there.values()),
        layers=tuple(_layers(model.denoiser, there, macs)) if config.axis == "channels" else (),
        params=sum(parameter.numel() for parameter in model.denoiser.parameters()),
        macs=sum(macs.values()),
        max_ratio=1,
        pruner=PrunerRecord(name=name, config=config.model_dump()),
        ratio=RatioRecord(asked=None, reached=None, of="params"),
        seed=config.seed,
        trace=trace,
        **stamped(),
    )


def _macs(model: Any) -> Mapping[str, int]:
    """MACs of every layer in one call, by its path."""
    import torch

    from explorer import cost

    denoiser = model.twin().denoiser
    with torch.no_grad(), cost.counting(denoiser) as macs:
        denoiser(**cost.example_inputs(denoiser, model.size, model.tokens), return_dict=False)
    return macs


def _record(denoiser: Any, place: Any, config: WidthConfig, macs: Mapping[str, int]) -> SiteRecord:
    if place.name.endswith(":channels"):
        return SiteRecord(name=place.name, size=place.size, bunch=place.blocks)
    bunch = min(config.round_to, place.size) if place.name.endswith(":neurons") else 1
    made = sum(macs[path] // denoiser.get_submodule(path).out_features for path in place.producers)
    consumers = [(denoiser.get_submodule(path), macs[path]) for path, _ in place.consumers]
    read = sum(_positions(layer, spent) * layer.out_features for layer, spent in consumers)
    each = place.width * (place.halves * made + read)
    return SiteRecord(name=place.name, size=place.size, params=place.params, rest=place.rest, bunch=bunch, macs=each)


def _positions(layer: Any, macs: int) -> int:
    """How often a call computes an output of a layer."""
    each = layer.weight.numel() + (layer.bias is not None) * len(layer.weight)
    return macs // each


def _bunched(site: SiteRecord, score: np.ndarray, config: WidthConfig) -> tuple[np.ndarray, np.ndarray]:
    """Of each unit (size,): the number of the bunch that it goes with, and what that is ordered by over all sites."""
    if config.axis == "channels":
        from explorer.channels import places_in_blocks

        number = places_in_blocks(score, site.bunch, config.rule)  # one channel from every block of the norm
        first = (number + 1) * site.bunch - 1 if config.rule == "paper" else number * site.bunch
        beyond = first / site.size  # the channel ratio beyond which it goes: `channels.going`
        return number, np.where(number == number.max(), 1.0, beyond)
    place = score.argsort(kind="stable").argsort(kind="stable")
    number = (place + -site.size % site.bunch) // site.bunch
    if config.ranking == "local":
        return number, (number + 1) / (number.max() + 1)
    return number, (np.bincount(number, weights=score) / np.bincount(number))[number]


def _by_block(sites: Sequence[SiteRecord], score: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of each unit the mean score of all parameters of its block: its attentions and feed-forwards go together."""
    blocks: dict[str, list[SiteRecord]] = {}
    for site in sites:
        blocks.setdefault(_path(site.name).rpartition(".")[0], []).append(site)
    keys = {}
    for own in blocks.values():
        weights = np.concatenate([np.full(site.size, site.params, dtype=float) for site in own])
        mean = np.average(np.concatenate([score[site.name] for site in own]), weights=weights)
        keys |= {site.name: np.full(site.size, mean) for site in own}
    return {site.name: keys[site.name] for site in sites}


def _layers(denoiser: Any, groups: Mapping[str, Any], macs: Mapping[str, int]) -> Iterator[LayerRecord]:
    """Every layer in which channels of a group occur."""
    sides: dict[str, dict[str, dict[str, int]]] = {}
    for group in groups.values():
        for path, side, where, _ in group.members:
            counts = sides.setdefault(path, {"out": {}, "in": {}})[side]
            counts[group.name] = counts.get(group.name, 0) + len(where)
    sizes = {group.name: group.size for group in groups.values()}
    for path, both in sides.items():
        layer = denoiser.get_submodule(path)
        if getattr(layer, "weight", None) is None:
            continue
        flat = layer.weight.ndim < 2
        outputs, inputs = ({name: count // sizes[name] for name, count in both[side].items()} for side in ("out", "in"))
        yield LayerRecord(
            kernel=0 if flat else layer.weight[0, 0].numel(),
            bias=(1 if flat else 0) + (getattr(layer, "bias", None) is not None),
            positions=0 if flat else _positions(layer, macs[path]),
            outputs=outputs,
            inputs=inputs,
            fixed_outputs=len(layer.weight) - sum(both["out"].values()),
            fixed_inputs=0 if flat else layer.weight.shape[1] - sum(both["in"].values()),
        )
