"""Counts MACs and parameters, of units and of a whole network.

A MAC is one multiply-accumulate of a convolution or linear layer, its bias counted as one more per output, for one
batch element: the papers' convention (SD-1.5 at 512x512: 338.8 G per call). The products inside attention are counted
apart. Counting needs only the architecture: it runs on PyTorch's meta device, in seconds, without weights.
"""

import copy
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
            macs[path] += _layer_macs(module, output)

        return count

    layers = [(path, module) for path, module in denoiser.named_modules() if isinstance(module, COUNTED_LAYERS)]
    handles = [module.register_forward_hook(counter(path)) for path, module in layers]
    try:
        yield macs
    finally:
        for handle in handles:
            handle.remove()


def _layer_macs(layer: Any, output: torch.Tensor) -> int:
    fan_in = layer.weight[:1].numel()  # of one output; a pruned layer may have none
    return output.numel() * (fan_in + (layer.bias is not None))


def build_on_meta(denoiser_class: Any, config: Mapping[str, Any]) -> Any:
    """Build a diffusers network of this class without its weights."""
    with torch.device("meta"):
        return denoiser_class.from_config(config).to("meta").eval()


def copy_to_meta(denoiser: torch.nn.Module) -> Any:
    """Copy a network without its weights, with all that was put into it since it was built."""
    tensors = {id(tensor): tensor for tensor in denoiser.buffers()} | {id(one): one for one in denoiser.parameters()}
    return copy.deepcopy(denoiser, {key: _to_meta(tensor) for key, tensor in tensors.items()})


def _to_meta(tensor: torch.Tensor) -> torch.Tensor:
    moved = tensor.detach().to("meta")
    return torch.nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else moved


@dataclass(frozen=True)
class CallCost:
    """What one call of a denoiser costs; counted once, it serves every graph of its units."""

    macs: int
    macs_inside: Mapping[str, int]  # by module path, of all that runs inside the module
    macs_attention: int
    params: Mapping[str, int]  # by parameter path

    def of(self, graph: BlockGraph) -> Architecture:
        """Share it out to the units of a graph."""
        unit_macs = [sum(self.macs_inside[path] for path in modules) for modules in graph.modules]
        return Architecture(
            graph.with_macs(unit_macs, self.macs - sum(unit_macs)),
            self.macs_attention,
            sum(self.params.values()),
            tuple(
                sum(self.params[path] for path in self.params if _is_inside(path, modules)) for modules in graph.modules
            ),
        )


def measure_architecture(denoiser: torch.nn.Module, graph: BlockGraph, inputs: Mapping[str, Any]) -> Architecture:
    """Count the MACs of a graph's units, and parameters; see `measure_call`."""
    return measure_call(denoiser, inputs).of(graph)


@torch.no_grad()
def measure_call(denoiser: torch.nn.Module, inputs: Mapping[str, Any]) -> CallCost:
    """Count the MACs of one call, and parameters. `denoiser` may be on the meta device.

    inputs: the arguments of a call for one batch element.
    """
    with FlopCounterMode(display=False) as flops, _count_macs_inside(denoiser) as macs_inside:
        denoiser(**inputs, return_dict=False)
    products = {str(op): count for op, count in flops.get_flop_counts()["Global"].items()}
    attention = sum(count for op, count in products.items() if any(name in op for name in ATTENTION_PRODUCTS)) // 2
    sizes = {path: parameter.numel() for path, parameter in denoiser.named_parameters()}
    return CallCost(macs_inside[""], macs_inside, attention, sizes)


@contextmanager
def _count_macs_inside(denoiser: torch.nn.Module) -> Iterator[Counter[str]]:
    """Count the MACs spent inside each module, by its path; "" is all. What runs inside a module need not be one of
    its own layers: DiT's head, which always runs, uses an embedding of block 0."""
    spent: Counter[str] = Counter()
    total = 0

    def count(layer: Any, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += _layer_macs(layer, output)

    def meter(path: str, sign: int) -> Any:
        def read(*_: Any) -> None:
            spent[path] += sign * total

        return read

    layers = [module for module in denoiser.modules() if isinstance(module, COUNTED_LAYERS)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    for path, module in denoiser.named_modules(remove_duplicate=False):
        handles.append(module.register_forward_pre_hook(meter(path, -1)))
        handles.append(module.register_forward_hook(meter(path, 1)))
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def _is_inside(path: str, modules: tuple[str, ...]) -> bool:
    return any(path == module or path.startswith(module + ".") for module in modules)
