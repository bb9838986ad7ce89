"""Coefficients by which skipped units combine their last values: where they belong, and those between learned ratios.

As a table they are float64 (T, U + 1, m + 1) for a schedule (T, U): of a unit's last m values, the newest first; in the
last column those of the whole network at a skipped call, whose input counts as well, last. A schedule and its file list
the used ones alone, (N, m + 1), call by call. Loads no torch.
"""

import re
from collections.abc import Mapping

import numpy as np

from explorer.masks.block_graph import BlockGraph, Extrapolation

MAX_VALUES = 8  # that are combined
MAX_LEARNED = 32  # ratios of an importance
MAX_NUMBERS = 4_000_000  # of a table, so that no small file takes gigabytes
TENSOR = "coefficients"  # in the file of a mask; of an importance with a ratio after it
LEARNED = {"extrapolation": "learned"}  # in the settings that a header lists


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


def combined(graph: BlockGraph, keep: np.ndarray) -> np.ndarray:
    """Find what a schedule (T, U) makes of earlier values, bool (T, U + 1): skipped units, last the skipped calls."""
    entered = keep.any(axis=1, keepdims=True)
    return np.concatenate([entered & graph.needed(keep) & ~keep, ~entered], axis=1)


def table_of(graph: BlockGraph, keep: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Put listed coefficients (N, m + 1) in their places. Raises ValueError for what does not belong to `keep`."""
    used = combined(graph, keep)
    count = int(used.sum())
    fits = rows.ndim == 2 and len(rows) == count and 2 <= rows.shape[1] <= MAX_VALUES + 1
    if rows.dtype != np.float64 or not fits:
        raise ValueError(
            f"coefficients must be float64 ({count}, 2 .. {MAX_VALUES + 1}), got {rows.dtype} {rows.shape}"
        )
    if not np.isfinite(rows).all():
        raise ValueError("coefficients hold values that are not finite")
    if used.size * rows.shape[1] > MAX_NUMBERS:
        raise ValueError(f"coefficients are for at most {MAX_NUMBERS:,} numbers in all: calls, units and values")
    table = np.zeros((*used.shape, rows.shape[1]))
    table[used] = rows
    return table


def check_learned(graph: BlockGraph, is_said: bool, learned: Mapping[float, tuple[np.ndarray, np.ndarray]]) -> None:
    """Raise ValueError where what was `learned`, by ratio, does not belong to its schedules or together, and where a
    header does not say whether anything was."""
    if is_said != bool(learned):
        raise ValueError("the header and the tensors do not agree on whether coefficients were learned")
    if len({table_of(graph, *one).shape for one in learned.values()}) > 1:
        raise ValueError("coefficients for several ratios must combine as many values")


def between(
    graph: BlockGraph,
    keep: np.ndarray,
    extrapolation: Extrapolation,
    learned: Mapping[float, tuple[np.ndarray, np.ndarray]],
    ratio: float,
) -> np.ndarray:
    """List the coefficients of `keep`, bool (T, U), from the schedules and lists `learned` at some ratios.

    Where a unit combines values of the same calls in the next schedule below and above, they are between both; where in
    one of them, they are that one's; in none, the polynomial's.
    """
    below = max((one for one in learned if one <= ratio), default=min(learned))
    above = min((one for one in learned if one >= ratio), default=max(learned))
    used, size = combined(graph, keep), learned[below][1].shape[1] - 1
    sources = _sources(keep, size)
    table, total = np.zeros((*used.shape, size + 1)), np.zeros(used.shape)
    for one in {below, above}:
        other, rows = learned[one]
        same = combined(graph, other) & (_sources(other, size) == sources).all(axis=0)
        distance = abs(one - ratio) / (above - below) if above > below else 0.0
        share = same * max(1 - distance, 1e-9)  # alone it counts wholly
        table += share[..., None] * table_of(graph, other, rows)
        total += share
    polynomial = _polynomials(sources, extrapolation, size)
    table = np.where(total[..., None] > 0, table / np.maximum(total, 1e-300)[..., None], polynomial)
    return table[used]


def _sources(keep: np.ndarray, size: int) -> np.ndarray:
    """Find the last `size` calls before each at which a unit, or last the network, is computed, newest first: int
    (size, T, U + 1), -1 where there is none."""
    runs = np.concatenate([keep, keep.any(axis=1, keepdims=True)], axis=1)
    calls = np.arange(len(runs))[:, None]
    newest = np.full(runs.shape, -1)
    newest[1:] = np.maximum.accumulate(np.where(runs, calls, -1), axis=0)[:-1]
    found = [newest]
    for _ in range(1, size):
        earlier = np.take_along_axis(newest, np.maximum(found[-1], 0), axis=0)
        found.append(np.where(found[-1] < 0, -1, earlier))
    return np.stack(found)


def _polynomials(sources: np.ndarray, extrapolation: Extrapolation, size: int) -> np.ndarray:
    """Compute the coefficients (T, U + 1, size + 1) of the polynomials: those of `Extrapolation.weights`."""
    order, reach = extrapolation
    used = sources[: order + 1]
    at = np.arange(sources.shape[1])[:, None] + np.zeros(sources.shape[1:], dtype=int)
    at = at if reach is None else np.minimum(at, sources[0] + reach)
    table = np.zeros((*sources.shape[1:], size + 1))
    for place, own in enumerate(used):
        weight = np.ones(own.shape)
        for other in (one for index, one in enumerate(used) if index != place):
            both = (own >= 0) & (other >= 0)
            weight *= np.where(both, (at - other) / np.where(both, own - other, 1), 1.0)
        table[..., place] = np.where(own >= 0, weight, 0.0)
    return table
