"""MACs and parameters, of units and of a whole network.

A MAC is one multiply-accumulate of a convolution or linear layer, its bias counted as one more per output, for one
batch element: the papers' convention (SD-1.5 at 512x512: 338.8 G a call). The products inside attention are counted
apart. Counting needs only the architecture: it runs on PyTorch's meta device, in seconds, without weights.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from explorer.graph import BlockGraph

COUNTED = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
ATTENTION_PRODUCTS = ("bmm", "baddbmm", "attention")


@dataclass(frozen=True)
class Architecture:
    """What a denoiser's configuration alone says of its cost."""

    graph: BlockGraph  # with MACs
    macs_attention: int  # of the attention products of one call, on top of graph.macs_per_call
    params: int
    unit_params: tuple[int, ...]


@contextmanager
def counting(denoiser: torch.nn.Module) -> Iterator[Counter[str]]:
    """MACs by module path of everything that runs inside, all batch elements together."""
    macs: Counter[str] = Counter()

    def counter(path: str) -> Any:
        def count(module: torch.nn.Module, _: Any, output: torch.Tensor) -> None:
            fan_in = module.weight[:1].numel()  # of one output; a layer that was cut may have none
            macs[path] += output.numel() * (fan_in + (module.bias is not None))

        return count

    layers = [(path, module) for path, module in denoiser.named_modules() if isinstance(module, COUNTED)]
    handles = [module.register_forward_hook(counter(path)) for path, module in layers]
    try:
        yield macs
    finally:
        for handle in handles:
            handle.remove()


def example_inputs(denoiser: Any, size: int, tokens: int) -> dict[str, Any]:
    """Inputs of one call for one batch element: latents (1, C, size, size), `tokens` text tokens."""
    config, device, dtype = denoiser.config, denoiser.device, denoiser.dtype
    latents = torch.zeros(1, config.in_channels, size, size, device=device, dtype=dtype)
    timestep = torch.ones(1, device=device)
    if type(denoiser).__name__ == "DiTTransformer2DModel":
        labels = torch.zeros(1, dtype=torch.long, device=device)
        return {"hidden_states": latents, "timestep": timestep, "class_labels": labels}
    inputs = {"sample": latents, "timestep": timestep}
    if "cross_attention_dim" in config:
        width = config.cross_attention_dim
        inputs["encoder_hidden_states"] = torch.zeros(1, tokens, width, device=device, dtype=dtype)
    if config.get("addition_embed_type") == "text_time":  # SDXL: pooled text and six sizes
        text = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": torch.zeros(1, text, device=device, dtype=dtype)}
        inputs["added_cond_kwargs"] = added | {"time_ids": torch.zeros(1, 6, device=device, dtype=dtype)}
    return inputs


def on_meta(denoiser_class: type, config: dict[str, Any]) -> torch.nn.Module:
    """The architecture without its weights."""
    with torch.device("meta"):
        return denoiser_class.from_config(config).to("meta").eval()


@torch.no_grad()
def price(denoiser: torch.nn.Module, graph: BlockGraph, size: int, tokens: int) -> Architecture:
    """Fill in the MACs of a graph's units. `denoiser` may be on the meta device; one call is made.

    size: height and width of the latents; tokens: length of the text the cross-attention reads.
    """
    with (
        counting(denoiser) as macs,
        FlopCounterMode(display=False) as flops,
        _metering(denoiser, graph, macs) as of_units,
    ):
        denoiser(**example_inputs(denoiser, size, tokens), return_dict=False)
    total = sum(macs.values())
    units = (unit.model_copy(update={"macs": count}) for unit, count in zip(graph.units, of_units, strict=True))
    products = {str(op): count for op, count in flops.get_flop_counts()["Global"].items()}
    attention = sum(count for op, count in products.items() if any(name in op for name in ATTENTION_PRODUCTS)) // 2
    sizes = {path: parameter.numel() for path, parameter in denoiser.named_parameters()}
    return Architecture(
        BlockGraph(units, graph.granularity, total - sum(of_units), graph.modules),
        attention,
        sum(sizes.values()),
        tuple(sum(sizes[path] for path in sizes if _belongs(path, modules)) for modules in graph.modules),
    )


@contextmanager
def _metering(denoiser: torch.nn.Module, graph: BlockGraph, macs: Counter[str]) -> Iterator[list[int]]:
    """MACs spent inside each unit. Not by module path: DiT's head, always run, lends an embedding from block 0."""
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


def _belongs(path: str, modules: tuple[str, ...]) -> bool:
    return any(path == module or path.startswith(module + ".") for module in modules)
