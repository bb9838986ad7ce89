"""What is cached of a unit or of a whole call, and how a later call makes its value of it."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from explorer.masks.block_graph import Extrapolation

WHOLE = -1  # the column of the whole network, after those of its units


def combine(values: Sequence[Any], weights: Sequence[float]) -> Any:
    """Add up values, each a tensor or a tree of tensors, times their weights. What has weight 0 is not read, and a
    single value of weight 1 is returned as it is."""
    used = [(value, weight) for value, weight in zip(values, weights, strict=True) if weight] or [(values[-1], 0.0)]
    if len(used) == 1 and used[0][1] == 1:
        return used[0][0]
    own = [weight for _, weight in used]
    return map_tensors(
        lambda *leaves: sum(weight * leaf for weight, leaf in zip(own, leaves, strict=True)),
        *(value for value, _ in used),
    )


def extrapolate(values: Sequence[tuple[int, Any]], call: int, max_extrapolation: int | None = None) -> Any:
    """Continue the polynomial through computed values (call, value) to `call`, but for at most so many calls.

    A value is a tensor or a tree of tensors. A single value is returned as it is.
    """
    weights = Extrapolation(0, max_extrapolation).weights([known for known, _ in values], call)
    return combine([value for _, value in values], weights)


def map_tensors(function: Callable[..., Any], *trees: Any) -> Any:
    """Apply a function to the tensors of trees of one form. Other leaves, the first tree's, stay: SD3's last block
    hands on None in the place of the text.
    """
    return tree_map(lambda *leaves: function(*leaves) if isinstance(leaves[0], torch.Tensor) else leaves[0], *trees)


def copy_tensors(value: Any) -> Any:
    """Copy each tensor of a tree."""
    return map_tensors(torch.clone, value)


class FeatureCache:
    """The last computed values of one quantity, and how a later call makes its value of them: by a polynomial, or by
    `learned` coefficients (T, m + 1) of the last m values, the newest first, and of the network's input.

    Values are copied on the way in and on the way out: what reads a unit may change its output in place, as FreeU does.
    """

    def __init__(self, extrapolation: Extrapolation, learned: np.ndarray | None = None):
        size = extrapolation.order + 1 if learned is None else learned.shape[1] - 1
        self.values: deque[tuple[int, Any]] = deque(maxlen=size)
        self.max_extrapolation, self.learned = extrapolation.max_extrapolation, learned

    def push(self, call: int, value: Any) -> None:
        self.values.append((call, copy_tensors(value)))

    def change(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace each tensor of each value."""
        for index, (call, value) in enumerate(self.values):
            self.values[index] = call, map_tensors(function, value)

    def at(self, call: int, sample: torch.Tensor | None = None) -> Any:
        """Compute the value at a call; the input `sample` (B, D, H, W) counts for that of the whole network."""
        if self.learned is None:
            value = extrapolate(self.values, call, self.max_extrapolation)
            return copy_tensors(value) if len(self.values) == 1 else value
        return self.combined(self.learned[call], sample)

    def combined(self, coefficients: np.ndarray, sample: torch.Tensor | None) -> Any:
        """Combine the values, and the sample, by coefficients (m + 1,)."""
        *own, of_sample = (float(one) for one in coefficients)
        value = combine([value for _, value in self.values], own[: len(self.values)][::-1])
        if sample is None or not of_sample:
            return copy_tensors(value)
        return map_tensors(lambda leaf: leaf + of_sample * _like(sample, leaf), value)


class FeatureCaches(dict[tuple[int, str], FeatureCache]):
    """The caches of all units, and of the WHOLE network, by column and context; made when they are first asked for."""

    def __init__(self, extrapolation: Extrapolation, coefficients: np.ndarray | None = None):
        super().__init__()
        self.extrapolation, self.coefficients = extrapolation, coefficients

    def __missing__(self, key: tuple[int, str]) -> FeatureCache:
        learned = None if self.coefficients is None else self.coefficients[:, key[0]]
        cache = self[key] = FeatureCache(self.extrapolation, learned)
        return cache


def _like(sample: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Fit an input (B, D, H, W) to an output: its first channels, and zeros beside a predicted variance."""
    sample = sample[:, : output.shape[1]]
    return torch.nn.functional.pad(sample, (0, 0, 0, 0, 0, output.shape[1] - sample.shape[1])).to(output.dtype)


def add_streams(values: Any, streams: Sequence[torch.Tensor], sign: int = 1) -> Any:
    """Add to each tensor of `values`, in order, the stream that belongs to it; `sign` -1 subtracts."""
    leaves, form = tree_flatten(values)
    added = [
        leaf if leaf is None else stream + leaf if sign > 0 else leaf - stream
        for leaf, stream in zip(leaves, streams, strict=True)
    ]
    return tree_unflatten(added, form)


def describe_batch(batch: int, kind: tuple[Any, Any, Any]) -> str:
    """Write the shape, type and device of a batch."""
    shape, dtype, device = kind
    return f"{(batch, *shape)} {str(dtype).removeprefix('torch.')} on {device}"
