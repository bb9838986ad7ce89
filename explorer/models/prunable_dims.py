"""The prunable dimensions of a network: heads of attentions, neurons of feed-forwards, channels of FLUX's AdaLN layers.

Each class of modules that has some is one row of `DIM_FINDERS`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from explorer.execution.width_gates import PaddedLinear, PrunableDim
from explorer.models.architectures import spec_of

PROJECTIONS = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
NORMS = ("group_norm", "norm_cross", "norm_q", "norm_k", "norm_added_q", "norm_added_k")  # of no use without heads
ADALN_NORMS = {"FluxTransformerBlock": ("norm1", "norm1_context"), "FluxSingleTransformerBlock": ("norm",)}


def find_prunable_dims(denoiser: torch.nn.Module, adaln_channels: bool = False) -> dict[str, PrunableDim]:
    """Find all prunable dimensions by name, in running order of the modules; AdaLN channels on request, at the end.

    Raises ValueError for AdaLN channels of a network that has none, and where a block has an attention or feed-forward
    that cannot be cut.
    """
    _check_blocks(denoiser)
    found: list[PrunableDim] = []
    for path, module in denoiser.named_modules():
        finder = DIM_FINDERS.get(type(module).__name__)
        found += [finder(denoiser, path, module)] if finder else []
    if adaln_channels:
        found += _adaln_channels(denoiser)
    return {dim.name: dim for dim in found}


def head_and_neuron_producers(dims: Mapping[str, PrunableDim]) -> set[str]:
    """List the layers whose outputs are heads or neurons, and so no channels; a single head is as good as channels."""
    return {path for dim in dims.values() if dim.size > 1 or dim.name.endswith(":neurons") for path in dim.producers}


def _heads(denoiser: torch.nn.Module, path: str, attention: Any) -> PrunableDim:
    producers = tuple(f"{path}.{name}" for name in PROJECTIONS if getattr(attention, name, None) is not None)
    consumers = []
    if getattr(attention, "to_out", None) is not None:
        consumers.append((f"{path}.to_out.0", 0))
    if getattr(attention, "to_add_out", None) is not None:
        consumers.append((f"{path}.to_add_out", 0))
    if not consumers:  # a single-stream block of FLUX projects attention and neurons together
        consumers.append((f"{path.rpartition('.')[0]}.proj_out", 0))
    norms = [norm for name in NORMS if (norm := getattr(attention, name, None)) is not None]
    when_empty = sum(parameter.numel() for norm in norms for parameter in norm.parameters())
    width = attention.inner_dim // attention.heads
    size = attention.heads
    if (keys := getattr(attention, "inner_kv_dim", attention.inner_dim)) < attention.inner_dim:
        size = keys // width  # heads that share keys and values go together
    width = attention.inner_dim // size
    return _dim(denoiser, f"{path}:heads", size, width, producers, tuple(consumers), when_empty=when_empty)


def _feed_forward_neurons(denoiser: torch.nn.Module, path: str, module: Any) -> PrunableDim:
    proj, out = f"{path}.net.0.proj", f"{path}.net.2"
    neurons = module.net[2].in_features
    num_chunks = module.net[0].proj.out_features // neurons
    return _dim(denoiser, f"{path}:neurons", neurons, 1, (proj,), ((out, 0),), num_chunks)


def _lumina_neurons(denoiser: torch.nn.Module, path: str, module: Any) -> PrunableDim:
    made = (f"{path}.linear_1", f"{path}.linear_3")  # the gate and what it multiplies
    neurons = module.linear_2.in_features
    return _dim(denoiser, f"{path}:neurons", neurons, 1, made, ((f"{path}.linear_2", 0),))


def _sana_neurons(denoiser: torch.nn.Module, path: str, module: Any) -> PrunableDim:
    made = (f"{path}.conv_inverted", f"{path}.conv_depth")
    neurons = module.conv_point.in_channels
    return _dim(denoiser, f"{path}:neurons", neurons, 1, made, ((f"{path}.conv_point", 0),), num_chunks=2)


def _single_stream_neurons(denoiser: torch.nn.Module, path: str, module: Any) -> PrunableDim:
    neurons = module.mlp_hidden_dim
    reads = (f"{path}.proj_out", module.proj_out.in_features - neurons)  # what the attention hands on comes first
    return _dim(denoiser, f"{path}:neurons", neurons, 1, (f"{path}.proj_mlp",), (reads,))


DIM_FINDERS: dict[str, Callable[[torch.nn.Module, str, Any], PrunableDim]] = {
    "Attention": _heads,
    "FluxAttention": _heads,
    "FeedForward": _feed_forward_neurons,
    "FluxSingleTransformerBlock": _single_stream_neurons,
    "LuminaFeedForward": _lumina_neurons,
    "GLUMBConv": _sana_neurons,
}
LIKELY = re.compile("Attention|FeedForward|Mlp|MLP|GLU.*Conv")  # in the names of classes whose width can be cut
OBSTACLES = {"WanAttention": "which takes the norm of its queries over all heads"}


def _check_blocks(denoiser: torch.nn.Module) -> None:
    """Raise ValueError for the attentions and feed-forwards of blocks that `DIM_FINDERS` does not know."""
    unknown: dict[str, list[str]] = {}
    for layer in spec_of(denoiser).walk(denoiser):
        for module_path in layer.modules:
            for path, module in denoiser.get_submodule(module_path).named_modules(prefix=module_path):
                name = type(module).__name__
                if LIKELY.search(name) and name not in DIM_FINDERS and name != "EmptyAttention":
                    unknown.setdefault(name, []).append(path)
    for name, paths in unknown.items():
        what = OBSTACLES.get(name, "whose parts are not known here")
        raise ValueError(f"{len(paths)} layers, {paths[0]} the first, are a {name}, {what}; no widths can be cut")


def _adaln_channels(denoiser: torch.nn.Module) -> Iterator[PrunableDim]:
    blocks = [(path, ADALN_NORMS.get(type(module).__name__, ())) for path, module in denoiser.named_modules()]
    norms = [f"{path}.{name}" for path, names in blocks for name in names]
    if not norms:
        raise ValueError(f"AdaLN channels are those of FLUX's norms; a {type(denoiser).__name__} has none")
    for norm in norms:
        layer = f"{norm}.linear"
        if isinstance(denoiser.get_submodule(layer), PaddedLinear):  # some of them went already
            layer += ".linear"
        linear: Any = denoiser.get_submodule(layer)
        yield _dim(denoiser, f"{norm}:adaln_channels", linear.out_features, 1, (layer,), ())


def _dim(
    denoiser: torch.nn.Module,
    name: str,
    size: int,
    width: int,
    producers: tuple[str, ...],
    consumers: tuple[tuple[str, int], ...],
    num_chunks: int = 1,
    when_empty: int = 0,
) -> PrunableDim:
    made: list[Any] = [denoiser.get_submodule(path) for path in producers]
    read: list[Any] = [denoiser.get_submodule(path) for path, _ in consumers]
    if size and any(len(layer.weight) % (num_chunks * size) for layer in made):
        raise ValueError(f"{name}: the layers that make it do not have the same number of elements")
    each = [layer.weight.shape[1:].numel() + (layer.bias is not None) for layer in made]  # of one output
    inward = sum(len(layer.weight) // size * one for layer, one in zip(made, each, strict=True)) if size else 0
    outward = sum(width * len(layer.weight) for layer in read)
    return PrunableDim(name, size, width, producers, num_chunks, consumers, inward + outward, when_empty)
