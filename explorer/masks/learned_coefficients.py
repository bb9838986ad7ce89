"""Coefficients by which skipped units combine their last values: what they must be, and those between learned ratios.

They are float64 (T, U + 1, m + 1) for a schedule (T, U): a unit's last m values, the newest first; in the last column
those of the whole network at a skipped call, whose input counts as well, last. Loads no torch.
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from explorer.masks.block_graph import BlockGraph, Extrapolation

MAX_VALUES = 8  # that are combined
MAX_LEARNED = 100  # ratios of an importance
TENSOR = "coefficients"  # in the file of a mask; of an importance with a ratio after it
LEARNED = {"extrapolation": "learned"}  # in the settings that a header lists


def check_coefficients(coefficients: np.ndarray, calls: int, units: int) -> None:
    """Raise ValueError unless these are coefficients of a schedule: finite, float64 (calls, units + 1, 2 ..)."""
    shape = coefficients.shape
    fits = len(shape) == 3 and shape[:2] == (calls, units + 1) and 2 <= shape[2] <= MAX_VALUES + 1
    if coefficients.dtype != np.float64 or not fits:
        raise ValueError(
            f"coefficients must be float64 ({calls}, {units + 1}, 2 .. {MAX_VALUES + 1}), got "
            f"{coefficients.dtype} {shape}"
        )
    if not np.isfinite(coefficients).all():
        raise ValueError("coefficients hold values that are not finite")


def by_ratio(learned: Mapping[str, np.ndarray]) -> dict[float, np.ndarray]:
    """Read the ratios of an importance's coefficients from their names. Raises ValueError for others, and for too
    many."""
    if len(learned) > MAX_LEARNED:
        raise ValueError(f"coefficients are for at most {MAX_LEARNED} ratios, and these are for {len(learned)}")
    found = {}
    for name, coefficients in learned.items():
        digits = name.removeprefix(f"{TENSOR}/")
        if not re.fullmatch(r"[01]\.\d{4}", digits) or float(digits) > 1:
            raise ValueError(f"{name!r} names no ratio between 0 and 1")
        found[float(digits)] = coefficients
    return found


def between(
    graph: BlockGraph,
    keep: np.ndarray,
    extrapolation: Extrapolation,
    learned: Mapping[float, tuple[np.ndarray, np.ndarray]],
    ratio: float,
) -> np.ndarray:
    """Make the coefficients of `keep`, bool (T, U), from those that were `learned` for other masks, by their ratios.

    Where a unit combines values of the same calls in the next mask below and above, it is between both; where in one
    of them, it is that one's; in none, the polynomial's.
    """
    below = max((one for one in learned if one <= ratio), default=min(learned))
    above = min((one for one in learned if one >= ratio), default=max(learned))
    nearest = {below, above}
    sources = {one: dict(_sources(graph, learned[one][0], _size(learned[one][1]))) for one in nearest}
    found = np.zeros_like(next(iter(learned.values()))[1])
    for cell, calls in _sources(graph, keep, _size(found)):
        same = {one: learned[one][1][cell] for one in nearest if sources[one].get(cell) == calls}
        if len(same) == 2:
            share = (ratio - below) / (above - below)
            found[cell] = (1 - share) * same[below] + share * same[above]
        elif same:
            (found[cell],) = same.values()
        else:
            found[cell] = polynomial(calls, cell[0], extrapolation, _size(found))
    return found


def polynomial(calls: tuple[int, ...], call: int, extrapolation: Extrapolation, size: int) -> np.ndarray:
    """Compute the coefficients (size + 1,) of the polynomial through the values of `calls`, the last of them."""
    weights = extrapolation.weights(calls[-(extrapolation.order + 1) :], call)[::-1]
    return np.array([*weights, *[0.0] * (size + 1 - len(weights))])


def _size(coefficients: np.ndarray) -> int:
    return coefficients.shape[2] - 1


def _sources(graph: BlockGraph, keep: np.ndarray, size: int) -> Iterator[tuple[tuple[int, int], tuple[int, ...]]]:
    """Yield each (call, column) whose value is made of earlier ones, the whole network's last, and of which calls."""
    entered = keep.any(axis=1)
    skipped = keep.any(axis=1, keepdims=True) & graph.needed(keep) & ~keep
    for column, (runs, asked) in enumerate(zip([*keep.T, entered], [*skipped.T, ~entered], strict=True)):
        computed = np.flatnonzero(runs)
        for call in np.flatnonzero(asked).tolist():
            yield (call, column), tuple(computed[computed < call][-size:].tolist())
