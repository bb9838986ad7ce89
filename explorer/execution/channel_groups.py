"""Channels of a network: which ones hang together, and removing them.

Layers whose outputs are added, normalised or joined must lose the same channels. Torch-Pruning's dependency graph knows
such groups. `masks.channel_rules` selects the channels to remove.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch_pruning

from explorer.masks.channel_rules import keep_mask


class Member(NamedTuple):
    """Channels of a group in one layer: the group's `roots[i]` is number `positions[i]` of its outputs or inputs."""

    path: str
    side: Literal["out", "in"]
    positions: tuple[int, ...]
    roots: tuple[int, ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be removed together, in all layers in which they occur."""

    name: str  # of the layer that makes them, and the kind: "mid_block.resnets.0.conv1:channels"
    size: int
    num_norm_groups: int  # groups of a GroupNorm, which must stay equally large; 1 without one
    members: tuple[Member, ...]


class ChannelGroups:
    """The groups of one network, found by tracing one call.

    inputs: arguments of a call. excluded: paths of layers whose outputs are no channels, but heads or neurons.
    sync_shape_attributes: updates what the network's modules remember of their sizes.
    """

    def __init__(
        self,
        denoiser: torch.nn.Module,
        inputs: Mapping[str, Any],
        excluded: Collection[str],
        sync_shape_attributes: Callable[[torch.nn.Module], None],
    ):
        self.denoiser, self.excluded, self._sync = denoiser, excluded, sync_shape_attributes
        self.paths = {module: path for path, module in denoiser.named_modules()}
        with _requiring_gradients(denoiser):
            self.graph = torch_pruning.DependencyGraph().build_dependency(denoiser, dict(inputs))
        self._known: list[Any] | None = None  # as traced, until channels are removed

    def groups(self) -> dict[str, ChannelGroup]:
        """List all groups by name."""
        return {group.name: group for group in map(self._group, self._traced())}

    def prune_widths(self, widths: Mapping[str, np.ndarray]) -> None:
        """Remove what `widths` (group -> bool (size,)) does not keep. Raises ValueError for groups of another
        network."""
        groups = self.groups()
        for name in widths:
            if name not in groups:
                raise ValueError(f"{name} is no group of channels of this {type(self.denoiser).__name__}")
            _check_widths(groups[name], widths[name])
        frozen = {name for name, parameter in self.denoiser.named_parameters() if not parameter.requires_grad}
        traced_before, self._known = self._traced(), None
        for traced in traced_before:
            keep = widths.get(self._name(traced))
            if keep is None or keep.all():
                continue
            root = traced[0].dep
            removed = np.flatnonzero(~keep).tolist()
            self.graph.get_pruning_group(root.target.module, root.handler, removed).prune()
        for name, parameter in self.denoiser.named_parameters():  # those that Torch-Pruning made are new
            parameter.requires_grad_(name not in frozen)
        self._sync(self.denoiser)

    def _traced(self) -> list[Any]:
        if self._known is None:
            self._known = list(self._trace())
        return self._known

    def _trace(self) -> Iterator[Any]:
        last = getattr(self.denoiser, "conv_out", None)
        layers = [torch.nn.Conv2d, torch.nn.Linear]
        for traced in self.graph.get_all_groups(ignored_layers=[last] if last else [], root_module_types=layers):
            outputs = (dep.target.module for dep, _ in traced if self.graph.is_out_channel_pruning_fn(dep.handler))
            if not any(self.paths.get(module) in self.excluded for module in outputs):
                yield traced

    def _name(self, traced: Any) -> str:
        return f"{self.paths[traced[0].dep.target.module]}:channels"

    def _group(self, traced: Any) -> ChannelGroup:
        size = self.graph.get_out_channels(traced[0].dep.target.module)
        norms = [dep.target.module for dep, _ in traced if isinstance(dep.target.module, torch.nn.GroupNorm)]
        members = []
        for number, (dep, positions) in enumerate(traced):
            path = self.paths.get(dep.target.module)
            if path is not None:
                side: Literal["out", "in"] = "out" if self.graph.is_out_channel_pruning_fn(dep.handler) else "in"
                members.append(Member(path, side, tuple(positions), tuple(traced[number].root_idxs)))
        num_norm_groups = max((norm.num_groups for norm in norms), default=1)
        return ChannelGroup(self._name(traced), size, num_norm_groups, tuple(members))


def _check_widths(group: ChannelGroup, keep: np.ndarray) -> None:
    if keep.shape != (group.size,) or not keep.any():
        raise ValueError(f"{group.name} has {group.size} channels, of which at least one stays; got {keep.shape}")
    if len(set(keep.reshape(group.num_norm_groups, -1).sum(axis=1))) > 1:
        raise ValueError(f"{group.name} is normalised in {group.num_norm_groups} groups, which must stay equally large")


@contextmanager
def _requiring_gradients(denoiser: torch.nn.Module) -> Iterator[None]:
    """Have every parameter require a gradient inside, because Torch-Pruning follows gradients while it traces."""
    frozen = [parameter for parameter in denoiser.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def widths_at_channel_ratio(
    groups: Mapping[str, ChannelGroup], importance: Mapping[str, np.ndarray], ratio: float, rule: str = "paper"
) -> dict[str, np.ndarray]:
    """Decide what stays of every group: group -> bool (size,). Raises ValueError for a bad ratio and an unknown
    rule."""
    return {name: keep_mask(importance[name], group.num_norm_groups, ratio, rule) for name, group in groups.items()}


def group_importance(group: ChannelGroup, values: Mapping[str, torch.Tensor]) -> np.ndarray:
    """Sum `values` (parameter -> a tensor of its shape, none negative) over all that a channel takes part in, (size,).

    Weights of convolutions and linear layers count, as in Torch-Pruning; norms and biases do not.
    """
    total = torch.zeros(group.size, dtype=torch.float64)
    for path, side, positions, roots in group.members:
        weight = values.get(f"{path}.weight")
        if weight is None or weight.ndim < 2:
            continue
        own = (weight.transpose(0, 1) if side == "in" else weight).flatten(1).sum(dim=1).double().cpu()
        total.index_add_(0, torch.tensor(roots), own[list(positions)])
    return total.numpy()


def index_importance(groups: Mapping[str, ChannelGroup]) -> dict[str, np.ndarray]:
    """Rank channels by their index: enough to count what is left at a ratio, whichever channels are removed."""
    return {name: np.arange(group.size, dtype=float) for name, group in groups.items()}
