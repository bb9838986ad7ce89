"""Smaller networks: which heads, neurons and rows stay, for all calls; gated for trial, cut out for good.

A *site* is a place with units that can go one by one: the heads of an attention, the neurons of a feed-forward, and on
request the rows of FLUX's AdaLN layers. A gate multiplies what a unit hands to the layer that consumes it, so a unit
whose gate is 0 might as well not be there, and that is what `cut` makes of it. Gates are pre-hooks on the consuming
layer, where any attention backend has done its work; what rows make is read in many places, so theirs are hooks on the
layer that makes it.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

PROJECTIONS = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
NORMS = ("group_norm", "norm_cross", "norm_q", "norm_k", "norm_added_q", "norm_added_k")  # of no use without heads
OUTPUT = -1  # all that a layer hands out
ADAPTED = {"FluxTransformerBlock": ("norm1", "norm1_context"), "FluxSingleTransformerBlock": ("norm",)}  # AdaLN


@dataclass(frozen=True)
class Site:
    """Where units can go, and what goes with them."""

    name: str  # module path and axis, "mid_block.attentions.0.transformer_blocks.0.attn1:heads"
    size: int  # units
    width: int  # features of one unit
    producers: tuple[str, ...]  # layers that make these features; gated ones make them twice, one half after the other
    halves: int
    consumers: tuple[tuple[str, int], ...]  # layers that read them, and the first of their inputs; none for rows
    params: int  # of one unit
    rest: int = 0  # parameters that go with the last unit

    @property
    def path(self) -> str:
        return self.name.rpartition(":")[0]

    def removed(self, keep: np.ndarray) -> int:
        """Parameters that go if `keep`, bool (size,), stays."""
        return int((~keep).sum()) * self.params + (0 if keep.any() else self.rest)


def sites(denoiser: torch.nn.Module, rows: bool = False) -> dict[str, Site]:
    """All sites of a network by name, in running order of its modules; those of AdaLN rows on request, at the end.

    Raises ValueError for rows of a network that has none.
    """
    found = [site for path, module in denoiser.named_modules() for site in _sites_of(denoiser, path, module)]
    if rows:
        found += _rows(denoiser)
    return {site.name: site for site in found}


def _sites_of(denoiser: torch.nn.Module, path: str, module: torch.nn.Module) -> Iterator[Site]:
    kind = type(module).__name__
    if kind in ("Attention", "FluxAttention"):
        yield _heads(denoiser, path, module)
    elif kind == "FeedForward":
        proj, out = f"{path}.net.0.proj", f"{path}.net.2"
        halves = module.net[0].proj.out_features // module.net[2].in_features
        yield _site(denoiser, f"{path}:neurons", module.net[2].in_features, 1, (proj,), ((out, 0),), halves)
    elif kind == "FluxSingleTransformerBlock":
        neurons = module.mlp_hidden_dim
        reads = (f"{path}.proj_out", module.proj_out.in_features - neurons)  # what the attention hands on comes first
        yield _site(denoiser, f"{path}:neurons", neurons, 1, (f"{path}.proj_mlp",), (reads,))


def _heads(denoiser: torch.nn.Module, path: str, attention: Any) -> Site:
    producers = tuple(f"{path}.{name}" for name in PROJECTIONS if getattr(attention, name, None) is not None)
    consumers = []
    if getattr(attention, "to_out", None) is not None:
        consumers.append((f"{path}.to_out.0", 0))
    if getattr(attention, "to_add_out", None) is not None:
        consumers.append((f"{path}.to_add_out", 0))
    if not consumers:  # a single-stream block of FLUX projects attention and neurons together
        consumers.append((f"{path.rpartition('.')[0]}.proj_out", 0))
    norms = [norm for name in NORMS if (norm := getattr(attention, name, None)) is not None]
    rest = sum(parameter.numel() for norm in norms for parameter in norm.parameters())
    width = attention.inner_dim // attention.heads
    return _site(denoiser, f"{path}:heads", attention.heads, width, producers, tuple(consumers), rest=rest)


def _rows(denoiser: torch.nn.Module) -> Iterator[Site]:
    blocks = [(path, ADAPTED.get(type(module).__name__, ())) for path, module in denoiser.named_modules()]
    norms = [f"{path}.{name}" for path, names in blocks for name in names]
    if not norms:
        raise ValueError(f"rows are those of FLUX's AdaLN layers; a {type(denoiser).__name__} has none")
    for norm in norms:
        layer = f"{norm}.linear"
        if isinstance(denoiser.get_submodule(layer), Scattered):  # it was cut already
            layer += ".linear"
        yield _site(denoiser, f"{norm}:rows", denoiser.get_submodule(layer).out_features, 1, (layer,), ())


def _site(
    denoiser: torch.nn.Module,
    name: str,
    size: int,
    width: int,
    producers: tuple[str, ...],
    consumers: tuple[tuple[str, int], ...],
    halves: int = 1,
    rest: int = 0,
) -> Site:
    made = [denoiser.get_submodule(path) for path in producers]
    if any(layer.out_features != halves * size * width for layer in made):
        raise ValueError(f"{name}: keys and values have fewer heads than queries, which cannot be cut yet")
    into = sum(halves * width * (layer.in_features + (layer.bias is not None)) for layer in made)
    out = sum(width * denoiser.get_submodule(path).out_features for path, _ in consumers)
    return Site(name, size, width, producers, halves, consumers, into + out, rest)


class Gates:
    """`with Gates(denoiser, values):` the network runs with each unit times its value.

    values: site name -> (size,), bool or differentiable; or (B, size), for each picture of a batch its own, guided ones
    twice. Raises ValueError for those of another network.
    """

    def __init__(self, denoiser: torch.nn.Module, values: Mapping[str, Any]):
        self.denoiser = denoiser
        self.handles: list[Any] = []
        # layer -> the first of its inputs, or OUTPUT, and what is multiplied
        self.factors: dict[str, list[tuple[int, torch.Tensor]]] = defaultdict(list)
        for site, value in _known(denoiser, values, most=2):
            factors = torch.as_tensor(value, device=denoiser.device).repeat_interleave(site.width, dim=-1)
            for path, first in site.consumers or [(path, OUTPUT) for path in site.producers]:
                self.factors[path].append((first, factors))

    def given(self, factors: Mapping[str, list[tuple[int, torch.Tensor]]]) -> "Gates":
        """The same gates with these `factors` in place of their own."""
        other = copy.copy(self)
        other.factors, other.handles = factors, []
        return other

    def __enter__(self) -> "Gates":
        for path, parts in self.factors.items():
            layer, ((first, factors), *_) = self.denoiser.get_submodule(path), parts
            if first == OUTPUT:
                self.handles.append(layer.register_forward_hook(partial(self._out_of, factors)))
            else:
                self.handles.append(layer.register_forward_pre_hook(partial(self._into, parts)))
        return self

    def __exit__(self, *_: Any) -> None:
        while self.handles:
            self.handles.pop().remove()

    @staticmethod
    def _into(parts: list[tuple[int, torch.Tensor]], _layer: Any, inputs: tuple) -> tuple:
        x, *others = inputs
        pieces, done = [], 0
        for first, factors in sorted(parts, key=lambda part: part[0]):
            end = first + factors.shape[-1]
            pieces += [x[..., done:first], _times(x[..., first:end], factors)]
            done = end
        return torch.cat([*pieces, x[..., done:]], dim=-1), *others

    @staticmethod
    def _out_of(factors: torch.Tensor, _layer: Any, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        return _times(output, factors)


def _times(x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """x (B, ..., N) times (N,), or (B, N); guided, x has each picture twice."""
    if factors.ndim > 1:
        factors = factors.repeat(len(x) // len(factors), 1).reshape(len(x), *(1,) * (x.ndim - 2), -1)
    return x * factors.to(x.dtype)


def cut(denoiser: torch.nn.Module, widths: Mapping[str, np.ndarray]) -> None:
    """Take out of `denoiser`, for good, every unit that `widths` (site name -> bool (size,)) does not keep.

    Weights are replaced, not written to: other networks that share them keep theirs. Raises ValueError for a site or
    size that is not the network's, which is then as it was.
    """
    for site, keep in list(_known(denoiser, widths)):
        keep = np.asarray(keep, dtype=bool)
        units = torch.from_numpy(np.flatnonzero(keep.repeat(site.width)))
        for path in site.producers:
            half = site.size * site.width
            _slice(denoiser.get_submodule(path), 0, torch.cat([units + part * half for part in range(site.halves)]))
        for path, first in site.consumers:
            layer = denoiser.get_submodule(path)
            gone = set((first + np.flatnonzero(~keep.repeat(site.width))).tolist())
            _slice(layer, 1, torch.tensor([i for i in range(layer.in_features) if i not in gone], dtype=torch.long))
        _note(denoiser, site, units)


def _known(denoiser: torch.nn.Module, values: Mapping[str, Any], most: int = 1) -> Iterator[tuple[Site, Any]]:
    """Each site with its value of at most so many dimensions. All are checked before the first one is handed out.

    Of two sites that share a consumer the later one goes first, so that the other's inputs stay where they are.
    """
    there = sites(denoiser, rows=any(name.endswith(":rows") for name in values))
    for name, value in values.items():
        if name not in there:
            raise ValueError(f"{name} is no site of this {type(denoiser).__name__}; it was made for another model")
        if tuple(value.shape)[-1:] != (there[name].size,) or len(value.shape) > most:
            raise ValueError(f"{name} has {there[name].size} units in this model, not {tuple(value.shape)}")
    known = [(there[name], value) for name, value in values.items()]
    yield from sorted(known, key=lambda one: -max((first for _, first in one[0].consumers), default=0))


def _slice(layer: Any, dim: int, index: torch.Tensor) -> None:
    index = index.to(layer.weight.device)
    layer.weight = _parameter(layer.weight, layer.weight.index_select(dim, index))
    if dim == 0:
        layer.out_features = len(index)
        if layer.bias is not None:
            layer.bias = _parameter(layer.bias, layer.bias.index_select(0, index))
    else:
        layer.in_features = len(index)


def _parameter(old: torch.nn.Parameter, values: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(values.detach().clone(), requires_grad=old.requires_grad)


def _note(denoiser: torch.nn.Module, site: Site, units: torch.Tensor) -> None:
    """What a module remembers of its own size; `units` are the features that stay."""
    module = denoiser.get_submodule(site.path)
    features, left = len(units), len(units) // site.width
    if site.name.endswith(":rows"):
        if not isinstance(module.linear, Scattered):
            module.linear = Scattered(module.linear, site.size)
        places = module.linear.places
        module.linear.places = places[units.to(places.device)]
        return
    if site.name.endswith(":neurons"):
        if hasattr(module, "mlp_hidden_dim"):
            module.mlp_hidden_dim = features
            module.proj_out._tp_packed_row_blocks = [module.proj_out.in_features - features, features]
        return
    for name, value in {"heads": left, "sliceable_head_dim": left}.items():
        if hasattr(module, name):
            setattr(module, name, value)
    for name in ("inner_dim", "inner_kv_dim"):
        if hasattr(module, name):
            setattr(module, name, features)
    if not left:
        denoiser.set_submodule(site.path, Headless(module))


class Scattered(torch.nn.Module):
    """A linear layer without some of its rows, (B, in) -> (B, size): zeros are what is left of them."""

    def __init__(self, linear: torch.nn.Linear, size: int):
        super().__init__()
        self.linear, self.size = linear, size
        self.register_buffer("places", torch.arange(size, device=linear.weight.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.linear(x)
        return rows.new_zeros(*rows.shape[:-1], self.size).index_copy(-1, self.places, rows)


class Headless(torch.nn.Module):
    """An attention without heads: the biases of its projections are what is left of it."""

    def __init__(self, attention: Any):
        super().__init__()
        self.to_out, self.to_add_out = getattr(attention, "to_out", None), getattr(attention, "to_add_out", None)
        self.joint = getattr(attention, "added_kv_proj_dim", None) is not None  # two streams come in, two go out
        self.residual_connection = getattr(attention, "residual_connection", False)
        self.rescale_output_factor = getattr(attention, "rescale_output_factor", 1.0)

    def forward(self, hidden_states: torch.Tensor, encoder_hidden_states: Any = None, **_: Any) -> Any:
        flat = hidden_states.flatten(2).transpose(1, 2) if hidden_states.ndim == 4 else hidden_states
        out = self._left(self.to_out and self.to_out[0], flat)
        if hidden_states.ndim == 4:
            out = out.transpose(1, 2).reshape(hidden_states.shape)
        if self.residual_connection:
            out = out + hidden_states
        out = out / self.rescale_output_factor
        if self.joint and encoder_hidden_states is not None:
            return out, self._left(self.to_add_out, encoder_hidden_states)
        return out

    @staticmethod
    def _left(layer: Callable | None, x: torch.Tensor) -> torch.Tensor:
        nothing = x.new_zeros(*x.shape[:2], 0)
        return nothing if layer is None else layer(nothing)
