"""Widths on a network: gates that try out which heads and neurons stay, and the removal of the others.

A *prunable dimension* has elements that can be removed one by one: the heads of an attention, the neurons of a
feed-forward, and on request the channels of FLUX's AdaLN layers. A gate multiplies what an element hands to the layer
that reads it, so an element whose gate is 0 has no effect, and `prune_widths` removes it. Gates are pre-hooks on the
reading layer, after any attention backend has done its work; AdaLN channels are read in many places, so their gates
are hooks on the layer that makes them. `models.prunable_dims` finds the dimensions of a network.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

OUTPUT = -1  # all that a layer hands out


@dataclass(frozen=True)
class PrunableDim:
    """A dimension with removable elements, and what is removed with them."""

    name: str  # module path and kind, "mid_block.attentions.0.transformer_blocks.0.attn1:heads"
    size: int  # elements
    width: int  # features of one element, where they are read
    producers: tuple[str, ...]  # layers that make these features; keys and values may have fewer
    num_chunks: int  # gated producers make them twice, one chunk after the other
    consumers: tuple[tuple[str, int], ...]  # layers that read them, and the first of their inputs; none for AdaLN
    params: int  # of one element
    params_when_empty: int = 0  # removed with the last element

    @property
    def path(self) -> str:
        return self.name.rpartition(":")[0]

    def removed_params(self, keep: np.ndarray) -> int:
        """Count the parameters that are removed if `keep`, bool (size,), stays."""
        return int((~keep).sum()) * self.params + (0 if keep.any() else self.params_when_empty)


class WidthGates:
    """`with WidthGates(denoiser, dims, values):` the network runs with each element times its value.

    dims: the prunable dimensions of the network, by name.
    values: dimension -> (size,), bool or differentiable; or (B, size), for each picture of a batch its own, guided ones
    twice. Raises ValueError for those of another network.
    """

    def __init__(self, denoiser: torch.nn.Module, dims: Mapping[str, PrunableDim], values: Mapping[str, Any]):
        self.denoiser = denoiser
        self.handles: list[Any] = []
        # layer -> the first of its inputs, or OUTPUT, and what is multiplied
        self.factors: dict[str, list[tuple[int, torch.Tensor]]] = defaultdict(list)
        device = next(denoiser.parameters()).device
        for dim, value in _match(denoiser, dims, values, max_ndim=2):
            factors = torch.as_tensor(value, device=device).repeat_interleave(dim.width, dim=-1)
            for path, first in dim.consumers or [(path, OUTPUT) for path in dim.producers]:
                self.factors[path].append((first, factors))

    def with_factors(self, factors: Mapping[str, list[tuple[int, torch.Tensor]]]) -> "WidthGates":
        """Return the same gates with these `factors` in place of their own."""
        other = copy.copy(self)
        other.factors, other.handles = dict(factors), []
        return other

    def __enter__(self) -> "WidthGates":
        for path, parts in self.factors.items():
            layer, ((first, factors), *_) = self.denoiser.get_submodule(path), parts
            if first == OUTPUT:
                self.handles.append(layer.register_forward_hook(partial(self._gate_output, factors)))
            else:
                self.handles.append(layer.register_forward_pre_hook(partial(self._gate_input, parts)))
        return self

    def __exit__(self, *_: Any) -> None:
        while self.handles:
            self.handles.pop().remove()

    @staticmethod
    def _gate_input(parts: list[tuple[int, torch.Tensor]], layer: Any, inputs: tuple) -> tuple:
        x, *others = inputs
        is_conv = isinstance(layer, torch.nn.Conv2d)
        x = x.movedim(1, -1) if is_conv else x
        pieces, done = [], 0
        for first, factors in sorted(parts, key=lambda part: part[0]):
            end = first + factors.shape[-1]
            pieces += [x[..., done:first], _multiply(x[..., first:end], factors)]
            done = end
        gated = torch.cat([*pieces, x[..., done:]], dim=-1)
        return gated.movedim(-1, 1) if is_conv else gated, *others

    @staticmethod
    def _gate_output(factors: torch.Tensor, _layer: Any, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        return _multiply(output, factors)


def _multiply(x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Multiply x (B, ..., N) by (N,), or by (B, N); guided, x has each picture twice."""
    if factors.ndim > 1:
        factors = factors.repeat(len(x) // len(factors), 1).reshape(len(x), *(1,) * (x.ndim - 2), -1)
    return x * factors.to(x.dtype)


def prune_widths(denoiser: torch.nn.Module, dims: Mapping[str, PrunableDim], widths: Mapping[str, np.ndarray]) -> None:
    """Remove from `denoiser`, for good, every element that `widths` (dimension -> bool (size,)) does not keep.

    Weights are replaced, not written to: other networks that share them keep theirs. Raises ValueError for a dimension
    or size that is not the network's, which is then unchanged.
    """
    for dim, keep in list(_match(denoiser, dims, widths)):
        keep = np.asarray(keep, dtype=bool)
        if not dim.size:  # all of it went before
            continue
        for path in dim.producers:
            made: Any = denoiser.get_submodule(path)
            own = len(made.weight) // (dim.num_chunks * dim.size)  # features of one element
            _select(made, 0, torch.from_numpy(np.flatnonzero(np.tile(keep.repeat(own), dim.num_chunks))))
        for path, first in dim.consumers:
            layer: Any = denoiser.get_submodule(path)
            left = np.ones(layer.weight.shape[1], dtype=bool)
            left[first : first + dim.size * dim.width] = keep.repeat(dim.width)
            _select(layer, 1, torch.from_numpy(np.flatnonzero(left)))
        _sync_attributes(denoiser, dim, keep)


def _match(
    denoiser: torch.nn.Module, dims: Mapping[str, PrunableDim], values: Mapping[str, Any], max_ndim: int = 1
) -> Iterator[tuple[PrunableDim, Any]]:
    """Pair each dimension with its value of at most so many axes; all are checked before the first one is yielded.

    Of two dimensions that share a consumer the later one is pruned first, so that the other's inputs stay in place.
    """
    for name, value in values.items():
        if name not in dims:
            raise ValueError(f"{name} is no dimension of this {type(denoiser).__name__}; it was made for another model")
        if tuple(value.shape)[-1:] != (dims[name].size,) or len(value.shape) > max_ndim:
            raise ValueError(f"{name} has {dims[name].size} elements in this model, not {tuple(value.shape)}")
    pairs = [(dims[name], value) for name, value in values.items()]
    yield from sorted(pairs, key=lambda pair: -max((first for _, first in pair[0].consumers), default=0))


def _select(layer: Any, axis: int, index: torch.Tensor) -> None:
    """Keep these outputs (axis 0) or inputs (axis 1) of a linear layer or a convolution; both, if it is depthwise."""
    index = index.to(layer.weight.device)
    layer.weight = _parameter(layer.weight, layer.weight.index_select(axis, index))
    if axis == 0 and layer.bias is not None:
        layer.bias = _parameter(layer.bias, layer.bias.index_select(0, index))
    names = ("out_features", "in_features")
    if isinstance(layer, torch.nn.Conv2d):
        names = ("out_channels", "in_channels")
        if layer.groups > 1:
            layer.in_channels = layer.groups = len(index)
    setattr(layer, names[axis], len(index))


def _parameter(old: torch.nn.Parameter, values: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(values.detach().clone(), requires_grad=old.requires_grad)


def _sync_attributes(denoiser: torch.nn.Module, dim: PrunableDim, keep: np.ndarray) -> None:
    """Update what a module remembers of its own size; `keep`: the elements that stay."""
    module: Any = denoiser.get_submodule(dim.path)
    features = torch.from_numpy(np.flatnonzero(keep.repeat(dim.width)))
    count = len(features)
    if dim.name.endswith(":adaln_channels"):
        if not isinstance(module.linear, PaddedLinear):
            module.linear = PaddedLinear(module.linear, dim.size)
        positions: torch.Tensor = module.linear.positions
        module.linear.positions = positions[features.to(positions.device)]
        return
    if dim.name.endswith(":neurons"):
        if not count and hasattr(module, "conv_point"):
            denoiser.set_submodule(dim.path, EmptyConvolutions(module.conv_point.out_channels))
        if hasattr(module, "mlp_hidden_dim"):
            module.mlp_hidden_dim = count
            module.proj_out._tp_packed_row_blocks = [module.proj_out.in_features - count, count]
        return
    heads = int(keep.sum()) * (module.heads // dim.size)  # an element is several of them where these share keys
    keys = count // max(heads, 1) * int(keep.sum())
    for name, value in {"heads": heads, "sliceable_head_dim": heads, "inner_dim": count, "inner_kv_dim": keys}.items():
        if hasattr(module, name):
            setattr(module, name, value)
    if not heads:
        denoiser.set_submodule(dim.path, EmptyAttention(module))


class PaddedLinear(torch.nn.Module):
    """A linear layer without some of its outputs, (B, in) -> (B, size): zeros stand in their place."""

    positions: torch.Tensor

    def __init__(self, linear: torch.nn.Linear, size: int):
        super().__init__()
        self.linear, self.size = linear, size
        self.register_buffer("positions", torch.arange(size, device=linear.weight.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = self.linear(x)
        return values.new_zeros(*values.shape[:-1], self.size).index_copy(-1, self.positions, values)


class EmptyAttention(torch.nn.Module):
    """An attention without heads: the biases of its projections are all that is left of it."""

    def __init__(self, attention: Any):
        super().__init__()
        self.to_out, self.to_add_out = getattr(attention, "to_out", None), getattr(attention, "to_add_out", None)
        self.joint = getattr(attention, "added_kv_proj_dim", None) is not None  # two streams come in, two go out
        self.residual_connection = getattr(attention, "residual_connection", False)
        self.rescale_output_factor = getattr(attention, "rescale_output_factor", 1.0)

    def forward(self, hidden_states: torch.Tensor, encoder_hidden_states: Any = None, **_: Any) -> Any:
        flat = hidden_states.flatten(2).transpose(1, 2) if hidden_states.ndim == 4 else hidden_states
        out = self._biases(self.to_out and self.to_out[0], flat)
        if hidden_states.ndim == 4:
            out = out.transpose(1, 2).reshape(hidden_states.shape)
        if self.residual_connection:
            out = out + hidden_states
        out = out / self.rescale_output_factor
        if self.joint and encoder_hidden_states is not None:
            return out, self._biases(self.to_add_out, encoder_hidden_states)
        return out

    @staticmethod
    def _biases(layer: Callable | None, x: torch.Tensor) -> torch.Tensor:
        nothing = x.new_zeros(*x.shape[:2], 0)
        return nothing if layer is None else layer(nothing)


class EmptyConvolutions(torch.nn.Module):
    """A feed-forward of convolutions (Sana's) without neurons: nothing, (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, out_channels: int):
        super().__init__()
        self.out_channels = out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), self.out_channels, *x.shape[2:])
