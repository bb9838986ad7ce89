"""What is cached of a unit or of a whole call, and how a later call makes its value of it."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from explorer.masks.block_graph import Extrapolation


def extrapolate(values: Sequence[tuple[int, Any]], call: int, max_extrapolation: int | None = None) -> Any:
    """Continue the polynomial through computed values (call, value) to `call`, but for at most so many calls.

    A value is a tensor or a tree of tensors. A single value is returned as it is.
    """
    if len(values) == 1:
        return values[0][1]
    call = call if max_extrapolation is None else min(call, values[-1][0] + max_extrapolation)
    calls = [known for known, _ in values]
    weights = [np.prod([(call - c) / (k - c) for c in calls if c != k]) for k in calls]  # Lagrange
    return map_tensors(
        lambda *leaves: sum(float(w) * leaf for w, leaf in zip(weights, leaves, strict=True)),
        *(value for _, value in values),
    )


def map_tensors(function: Callable[..., Any], *trees: Any) -> Any:
    """Apply a function to the tensors of trees of one form. Other leaves, the first tree's, stay: SD3's last block
    hands on None in the place of the text.
    """
    return tree_map(lambda *leaves: function(*leaves) if isinstance(leaves[0], torch.Tensor) else leaves[0], *trees)


def copy_tensors(value: Any) -> Any:
    """Copy each tensor of a tree."""
    return map_tensors(torch.clone, value)


class FeatureCache:
    """The last computed values of one quantity, and how to extrapolate them.

    Values are copied on the way in and on the way out: what reads a unit may change its output in place, as FreeU does.
    """

    def __init__(self, extrapolation: Extrapolation):
        self.values: deque[tuple[int, Any]] = deque(maxlen=extrapolation.order + 1)
        self.max_extrapolation = extrapolation.max_extrapolation

    def push(self, call: int, value: Any) -> None:
        self.values.append((call, copy_tensors(value)))

    def change(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace each tensor of each value."""
        for index, (call, value) in enumerate(self.values):
            self.values[index] = call, map_tensors(function, value)

    def at(self, call: int) -> Any:
        value = extrapolate(self.values, call, self.max_extrapolation)
        return copy_tensors(value) if len(self.values) == 1 else value


def add_streams(values: Any, streams: Sequence[torch.Tensor], sign: int = 1) -> Any:
    """Add to each tensor of `values`, in order, the stream that belongs to it; `sign` -1 subtracts."""
    leaves, form = tree_flatten(values)
    added = [
        leaf if leaf is None else stream + leaf if sign > 0 else leaf - stream
        for leaf, stream in zip(leaves, streams, strict=True)
    ]
    return tree_unflatten(added, form)
