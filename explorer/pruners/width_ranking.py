"""Turns scores of heads, neurons or channels into a removal order and the result that holds it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from explorer.masks.channel_rules import rank_in_group
from explorer.masks.file_format import FORMAT, PrunerRecord, RatioRecord, provenance
from explorer.masks.width import WidthImportance, Widths, rank_elements
from explorer.masks.width_header import LayerRecord, PrunableDimRecord, WidthHeader
from explorer.models.model import Model
from explorer.pruners.width_configs import WidthConfig

if TYPE_CHECKING:
    import torch

Trace = tuple[tuple[int, float], ...]  # timestep, and the loss there as a share of the largest


def select_dims(model: Model, config: WidthConfig) -> dict[str, Any]:
    """Select the prunable dimensions of the configured axis: `PrunableDim` or `ChannelGroup` by name.

    Raises ValueError for channels of a class without prunable channels, for AdaLN channels of a model without them, and
    for a network without any such dimension.
    """
    on_channels = config.axis == "channels"
    dims = model.prunable_dims(channels=on_channels, adaln_channels=config.prune_adaln)
    order = {path: number for number, (path, _) in enumerate(model.denoiser.named_modules())}
    names = [name for name in dims if name.endswith(":channels") == on_channels]
    if not names:
        raise ValueError(f"{model.id} has no {config.axis}")
    return {name: dims[name] for name in sorted(names, key=lambda name: order[_path(name)])}


def _path(dim: str) -> str:
    return dim.rpartition(":")[0]


def dim_importance(denoiser: Any, dim: Any, values: Mapping[str, "torch.Tensor"]) -> np.ndarray:
    """Sum `values` (parameter -> a tensor of its shape, none negative) over all weights that each element takes part
    in, those that make its features and those that read them: (size,); per parameter, except for channels, so that
    elements of different dimensions compare."""
    from explorer.execution.channel_groups import ChannelGroup, group_importance

    if isinstance(dim, ChannelGroup):
        return group_importance(dim, values)
    total, shared = np.zeros((dim.size, dim.width)), np.zeros(dim.size)
    for path in dim.producers:
        rows = values[f"{path}.weight"].double().flatten(1).sum(dim=1)
        made = rows.reshape(dim.num_chunks, dim.size, -1).sum(dim=0).cpu().numpy()
        if made.shape == total.shape:
            total += made
        else:  # keys and values, which several heads share
            shared += made.sum(axis=1)
    for path, first in dim.consumers:
        read = values[f"{path}.weight"][:, first : first + total.size].double().sum(dim=0).flatten()
        total += read.cpu().numpy().reshape(total.shape)
    return (total.sum(axis=1) + shared) / dim.params


def make_width_result(
    model: Model,
    dims: Mapping[str, Any],
    score: Mapping[str, np.ndarray],
    method: str,
    config: WidthConfig,
    trace: Trace = (),
) -> WidthImportance | Widths:
    """Make the importance of scores (dimension -> (size,)); at the configured ratio, if there is one."""
    header = _header(model, dims, method, config, trace)
    keys, batches = {}, {}
    for dim in header.dims:
        batches[dim.name], keys[dim.name] = _batch_elements(dim, score[dim.name], config)
    if config.ranking == "blocks" and config.axis != "channels":
        keys = _mean_by_block(header.dims, score)
    scores = {name: np.asarray(values, dtype=np.float32) for name, values in score.items()}
    importance = WidthImportance(header, rank_elements(keys, batches), scores)
    header = header.model_copy(update={"max_ratio": float(importance.reachable[1].max())})
    importance = WidthImportance(header, importance.rank, scores)
    return importance if config.ratio is None else importance.at(config.ratio)


def make_widths(
    model: Model, dims: Mapping[str, Any], keep: Mapping[str, np.ndarray], method: str, config: WidthConfig
) -> Widths:
    """Make widths that were decided without an order."""
    header = _header(model, dims, method, config).model_copy(update={"kind": "mask"})
    reached = RatioRecord(asked=None, reached=1 - Widths(header, keep).params_fraction, of="params")
    return Widths(header.model_copy(update={"ratio": reached}), keep)


def _header(model: Model, dims: Mapping[str, Any], method: str, config: WidthConfig, trace: Trace = ()) -> WidthHeader:
    macs = _layer_macs(model)
    return WidthHeader(
        format=FORMAT,
        kind="importance",
        model=model.record,
        dims=tuple(_dim_record(model.denoiser, dim, config, macs) for dim in dims.values()),
        layers=tuple(_layer_records(model.denoiser, dims, macs)) if config.axis == "channels" else (),
        params=sum(parameter.numel() for parameter in model.denoiser.parameters()),
        macs=sum(macs.values()),
        max_ratio=1,
        pruner=PrunerRecord(name=method, config=config.model_dump()),
        ratio=RatioRecord(asked=None, reached=None, of="params"),
        seed=config.seed,
        trace=trace,
        **provenance(),
    )


def _layer_macs(model: Model) -> Mapping[str, int]:
    """Count the MACs of every layer in one call, by its path."""
    import torch

    from explorer.execution.macs import count_layer_macs

    denoiser = model.with_shared_weights().denoiser
    with torch.no_grad(), count_layer_macs(denoiser) as macs:
        denoiser(**model.example_inputs(denoiser), return_dict=False)
    return macs


def _dim_record(denoiser: Any, dim: Any, config: WidthConfig, macs: Mapping[str, int]) -> PrunableDimRecord:
    if dim.name.endswith(":channels"):
        return PrunableDimRecord(name=dim.name, size=dim.size, multiple_of=dim.num_norm_groups)
    made = sum(macs[path] // dim.size for path in dim.producers)
    consumers = [(denoiser.get_submodule(path), macs[path]) for path, _ in dim.consumers]
    read = sum(_num_positions(layer, spent) * len(layer.weight) for layer, spent in consumers)
    return PrunableDimRecord(
        name=dim.name,
        size=dim.size,
        params=dim.params,
        params_when_empty=dim.params_when_empty,
        multiple_of=min(config.round_to, dim.size) if dim.name.endswith(":neurons") else 1,
        macs=made + dim.width * read,
    )


def _num_positions(layer: Any, macs: int) -> int:
    """Count how often a call computes an output of a layer."""
    each = layer.weight.numel() + (layer.bias is not None) * len(layer.weight)
    return macs // each


def _batch_elements(dim: PrunableDimRecord, score: np.ndarray, config: WidthConfig) -> tuple[np.ndarray, np.ndarray]:
    """Number the batch with which each element is removed, (size,), and compute the sort key of all batches."""
    if config.axis == "channels":
        number = rank_in_group(score, dim.multiple_of, config.rule)  # one channel from every group of the norm
        first = (number + 1) * dim.multiple_of - 1 if config.rule == "paper" else number * dim.multiple_of
        beyond = first / dim.size  # the channel ratio beyond which it is removed: `channel_rules.num_removed_per_group`
        return number, np.where(number == number.max(), 1.0, beyond)
    position = score.argsort(kind="stable").argsort(kind="stable")
    number = (position + -dim.size % dim.multiple_of) // dim.multiple_of
    if config.ranking == "local":
        return number, (number + 1) / (number.max() + 1)
    return number, (np.bincount(number, weights=score) / np.bincount(number))[number]


def _mean_by_block(dims: Sequence[PrunableDimRecord], score: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give each element the mean score of its block's parameters: attentions and feed-forwards are removed together."""
    blocks: dict[str, list[PrunableDimRecord]] = {}
    for dim in dims:
        blocks.setdefault(_path(dim.name).rpartition(".")[0], []).append(dim)
    keys: dict[str, np.ndarray] = {}
    for own in blocks.values():
        weights = np.concatenate([np.full(dim.size, dim.params, dtype=float) for dim in own])
        mean = np.average(np.concatenate([score[dim.name] for dim in own]), weights=weights)
        keys |= {dim.name: np.full(dim.size, mean) for dim in own}
    return {dim.name: keys[dim.name] for dim in dims}


def _layer_records(denoiser: Any, groups: Mapping[str, Any], macs: Mapping[str, int]) -> Iterator[LayerRecord]:
    """Record every layer in which channels of a group occur."""
    sides: dict[str, dict[str, dict[str, int]]] = {}
    for group in groups.values():
        for path, side, positions, _ in group.members:
            counts = sides.setdefault(path, {"out": {}, "in": {}})[side]
            counts[group.name] = counts.get(group.name, 0) + len(positions)
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
            positions=0 if flat else _num_positions(layer, macs[path]),
            outputs=outputs,
            inputs=inputs,
            fixed_outputs=len(layer.weight) - sum(both["out"].values()),
            fixed_inputs=0 if flat else layer.weight.shape[1] - sum(both["in"].values()),
        )
