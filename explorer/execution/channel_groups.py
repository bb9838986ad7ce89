"""Fewer channels: what hangs together, which channels of it go, and taking them out.

Layers whose outputs are added, normalised or joined must lose the same channels. Torch-Pruning's dependency graph knows
such groups; which channels go is decided here, because its own rule changed in version 1.5: a ratio of 0.3 leaves
13.95 M parameters of the CIFAR-10 DDPM since then, and not the 19.85 M of Fang et al. (Diff-Pruning, NeurIPS 2023).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch_pruning

from explorer.pruners.configs import RULES


class Member(NamedTuple):
    """Channels of a group in one layer: the group's `roots[i]` is number `places[i]` of its outputs or inputs."""

    path: str
    side: Literal["out", "in"]
    places: tuple[int, ...]
    roots: tuple[int, ...]


UNETS = ("UNet2DModel", "UNet2DConditionModel")


@dataclass(frozen=True)
class Group:
    """Channels that can go together only, all layers in which they occur taken as one."""

    name: str  # of the layer that makes them, and the axis: "mid_block.resnets.0.conv1:channels"
    size: int
    blocks: int  # groups of a GroupNorm, which must stay equally large; 1 without one
    members: tuple["Member", ...]


class Channels:
    """The groups of one network, found by tracing one call. Raises ValueError for one that is no U-Net."""

    def __init__(self, denoiser: torch.nn.Module, inputs: Mapping[str, Any]):
        if type(denoiser).__name__ not in UNETS:
            raise ValueError(f"channels can be cut of {' and '.join(UNETS)}, not of a {type(denoiser).__name__}")
        self.denoiser = denoiser
        self.paths = {module: path for path, module in denoiser.named_modules()}
        with _traceable(denoiser):
            self.graph = torch_pruning.DependencyGraph().build_dependency(denoiser, dict(inputs))

    def groups(self) -> dict[str, Group]:
        """All groups by name. Heads and neurons are no channels: `structure` knows them."""
        return {group.name: group for group in map(self._group, self._found())}

    def cut(self, widths: Mapping[str, np.ndarray]) -> None:
        """Take out what `widths` (group name -> bool (size,)) does not keep. Raises ValueError for other groups."""
        there = self.groups()
        for name, keep in widths.items():
            if name not in there:
                raise ValueError(f"{name} is no group of channels of this {type(self.denoiser).__name__}")
            if keep.shape != (there[name].size,) or not keep.any():
                raise ValueError(
                    f"{name} has {there[name].size} channels, of which at least one stays; got {keep.shape}"
                )
            if len(set(keep.reshape(there[name].blocks, -1).sum(axis=1))) > 1:
                raise ValueError(f"{name} is normalised in {there[name].blocks} blocks, which must stay equally large")
        frozen = {name for name, parameter in self.denoiser.named_parameters() if not parameter.requires_grad}
        for found in list(self._found()):
            keep = widths.get(self._name(found))
            if keep is None or keep.all():
                continue
            root = found[0].dep
            gone = np.flatnonzero(~keep).tolist()
            self.graph.get_pruning_group(root.target.module, root.handler, gone).prune()
        for name, parameter in self.denoiser.named_parameters():  # those that Torch-Pruning made are new
            parameter.requires_grad_(name not in frozen)
        note_sizes(self.denoiser)

    def _found(self) -> Iterator[Any]:
        last = getattr(self.denoiser, "conv_out", None)
        layers = [torch.nn.Conv2d, torch.nn.Linear]
        for found in self.graph.get_all_groups(ignored_layers=[last] if last else [], root_module_types=layers):
            if not any(
                self._is_unit(self.paths[dep.target.module], dep) for dep, _ in found if dep.target.module in self.paths
            ):
                yield found

    def _is_unit(self, path: str, dep: Any) -> bool:
        """Whether these are the outputs that heads or neurons make."""
        if not self.graph.is_out_channel_pruning_fn(dep.handler):
            return False
        if path.endswith("net.0.proj"):
            return True
        attention, _, layer = path.rpartition(".")
        return layer in ("to_q", "to_k", "to_v") and self.denoiser.get_submodule(attention).heads > 1

    def _name(self, found: Any) -> str:
        return f"{self.paths[found[0].dep.target.module]}:channels"

    def _group(self, found: Any) -> Group:
        size = self.graph.get_out_channels(found[0].dep.target.module)
        norms = [dep.target.module for dep, _ in found if isinstance(dep.target.module, torch.nn.GroupNorm)]
        members = []
        for number, (dep, places) in enumerate(found):
            path = self.paths.get(dep.target.module)
            if path is not None:
                side = "out" if self.graph.is_out_channel_pruning_fn(dep.handler) else "in"
                members.append(Member(path, side, tuple(places), tuple(found[number].root_idxs)))
        return Group(self._name(found), size, max((norm.num_groups for norm in norms), default=1), tuple(members))


@contextmanager
def _traceable(denoiser: torch.nn.Module) -> Iterator[None]:
    """Torch-Pruning follows gradients, so every parameter has to want one while it looks."""
    frozen = [parameter for parameter in denoiser.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def chosen(group: Group, importance: np.ndarray, ratio: float, rule: str = "paper") -> np.ndarray:
    """bool (size,): what stays of a group at a channel ratio, the least important going first.

    `paper`: as many go from each block of the GroupNorm, ranked inside it. `torch-pruning`: the same places go in every
    block, ranked by their mean over blocks; of few channels a block that is far more than the ratio.
    """
    return places_in_blocks(importance, group.blocks, rule) >= going(group.size, group.blocks, ratio, rule)


def places_in_blocks(importance: np.ndarray, blocks: int, rule: str) -> np.ndarray:
    """int (size,): of each channel the place at which it goes from its block of the norm, the least important first."""
    ranked = importance.reshape(blocks, -1)
    if rule == "torch-pruning":
        ranked = np.tile(ranked.mean(axis=0), (blocks, 1))
    return ranked.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable").reshape(-1)


def going(size: int, blocks: int, ratio: float, rule: str) -> int:
    """How many channels go from each block of a group at a channel ratio. Raises ValueError for an unknown rule."""
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is unknown; choose one of {', '.join(RULES)}")
    if not 0 <= ratio < 1:
        raise ValueError(f"the channel ratio must be at least 0 and below 1, got {ratio}")
    each = size // blocks
    count = (size - int(size * (1 - ratio))) // blocks if rule == "paper" else each - int(each * (1 - ratio))
    return min(count, each - 1)


def widths_at(
    groups: Mapping[str, Group], importance: Mapping[str, np.ndarray], ratio: float, rule: str = "paper"
) -> dict[str, np.ndarray]:
    """What stays of every group. Raises ValueError for a ratio outside 0 .. 1 and an unknown rule."""
    return {name: chosen(group, importance[name], ratio, rule) for name, group in groups.items()}


def note_sizes(denoiser: torch.nn.Module) -> None:
    """What modules remember of their own size, and some of them assert."""
    for module in denoiser.modules():
        kind = type(module).__name__
        if kind in ("Upsample2D", "Downsample2D") and isinstance(getattr(module, "conv", None), torch.nn.Conv2d):
            module.channels, module.out_channels = module.conv.in_channels, module.conv.out_channels
        elif kind == "ResnetBlock2D":
            module.in_channels, module.out_channels = module.conv1.in_channels, module.conv2.out_channels
        elif kind == "Attention":
            module.inner_dim, module.inner_kv_dim = module.to_q.out_features, module.to_k.out_features
            module.query_dim, module.cross_attention_dim = module.to_q.in_features, module.to_k.in_features
        elif kind == "Transformer2DModel" and hasattr(module, "proj_in"):
            module.in_channels = module.norm.num_channels


def summed(group: Group, values: Mapping[str, torch.Tensor]) -> np.ndarray:
    """(size,): the sum of `values` (parameter's name -> a tensor of its shape, none negative) over all that a channel
    takes part in. Weights of convolutions and linear layers count, as in Torch-Pruning; norms and biases do not."""
    total = torch.zeros(group.size, dtype=torch.float64)
    for path, side, places, roots in group.members:
        weight = values.get(f"{path}.weight")
        if weight is None or weight.ndim < 2:
            continue
        own = (weight.transpose(0, 1) if side == "in" else weight).flatten(1).sum(dim=1).double().cpu()
        total.index_add_(0, torch.tensor(roots), own[list(places)])
    return total.numpy()


def first_ones(groups: Mapping[str, Group]) -> dict[str, np.ndarray]:
    """The importance of somebody who does not care: the first channels go. Enough to count what is left."""
    return {name: np.arange(group.size, dtype=float) for name, group in groups.items()}
