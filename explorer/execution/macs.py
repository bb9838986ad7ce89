"""Counts MACs and parameters, of units and of a whole network.

A MAC is one multiply-accumulate of a convolution or linear layer, its bias counted as one more per output, for one
batch element: the papers' convention (SD-1.5 at 512x512: 338.8 G per call). The products inside attention are counted
apart. Counting needs only the architecture: it runs on PyTorch's meta device, in seconds, without weights.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from explorer.masks.block_graph import BlockGraph

COUNTED_LAYERS = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
ATTENTION_PRODUCTS = ("bmm", "baddbmm", "attention")


@dataclass(frozen=True)
class Architecture:
    """What a denoiser's configuration alone says of its cost."""

    graph: BlockGraph  # with MACs
    macs_attention: int  # of the attention products of one call, on top of graph.macs_per_call
    params: int
    unit_params: tuple[int, ...]


@contextmanager
def count_layer_macs(denoiser: torch.nn.Module) -> Iterator[Counter[str]]:
    """Count the MACs of everything that runs inside, by module path, all batch elements together."""
    macs: Counter[str] = Counter()

    def counter(path: str) -> Any:
        def count(module: Any, _: Any, output: torch.Tensor) -> None:
            fan_in = module.weight[:1].numel()  # of one output; a pruned layer may have none
            macs[path] += output.numel() * (fan_in + (module.bias is not None))

        return count

    layers = [(path, module) for path, module in denoiser.named_modules() if isinstance(module, COUNTED_LAYERS)]
    handles = [module.register_forward_hook(counter(path)) for path, module in layers]
    try:
        yield macs
    finally:
        for handle in handles:
            handle.remove()


def build_on_meta(denoiser_class: Any, config: Mapping[str, Any]) -> Any:
    """Build a diffusers network of this class without its weights."""
    with torch.device("meta"):
        return denoiser_class.from_config(config).to("meta").eval()


@torch.no_grad()
def measure_architecture(denoiser: torch.nn.Module, graph: BlockGraph, inputs: Mapping[str, Any]) -> Architecture:
    """Count the MACs of a graph's units, and parameters. `denoiser` may be on the meta device; one call is made.

    inputs: the arguments of a call for one batch element.
    """
    with (
        count_layer_macs(denoiser) as macs,
        FlopCounterMode(display=False) as flops,
        _count_unit_macs(denoiser, graph, macs) as unit_macs,
    ):
        denoiser(**inputs, return_dict=False)
    products = {str(op): count for op, count in flops.get_flop_counts()["Global"].items()}
    attention = sum(count for op, count in products.items() if any(name in op for name in ATTENTION_PRODUCTS)) // 2
    sizes = {path: parameter.numel() for path, parameter in denoiser.named_parameters()}
    return Architecture(
        graph.with_macs(unit_macs, sum(macs.values()) - sum(unit_macs)),
        attention,
        sum(sizes.values()),
        tuple(sum(sizes[path] for path in sizes if _is_inside(path, modules)) for modules in graph.modules),
    )


@contextmanager
def _count_unit_macs(denoiser: torch.nn.Module, graph: BlockGraph, macs: Counter[str]) -> Iterator[list[int]]:
    """Count the MACs spent inside each unit. Not by module path: DiT's head, which always runs, uses an embedding of
    block 0."""
    spent = [0] * len(graph.units)

    def meter(column: int, sign: int) -> Any:
        def read(*_: Any) -> None:
            spent[column] += sign * sum(macs.values())

        return read

    handles = []
    for column, paths in enumerate(graph.modules):
        for module in map(denoiser.get_submodule, paths):
            handles.append(module.register_forward_pre_hook(meter(column, -1)))
            handles.append(module.register_forward_hook(meter(column, 1)))
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def _is_inside(path: str, modules: tuple[str, ...]) -> bool:
    return any(path == module or path.startswith(module + ".") for module in modules)
