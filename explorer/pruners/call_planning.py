"""Which calls to compute, by dynamic programming over what a full run's values say of the errors between them.

A skipped call hands back the polynomial through the last computed ones; what that misses is an inner product of values
of the full run. So one table of inner products plans every number of calls, and the network does not run again (as
DPCache, arXiv 2602.22654, and LeMiCa, arXiv 2511.00090, plan whole calls). Loads no torch.
"""

from collections.abc import Sequence

import numpy as np

MAX_CALLS = 400  # the tables hold T^3 / 6 numbers


class CallPlanner:
    """Plans for one trajectory of T calls.

    gram: inner products of the values of every two calls, float (T, T). weights: by what an error of each call's value
    counts, float (T,). order: 0 or 1, of the extrapolation, continued for at most `max_extrapolation` calls. landing:
    count the sum of a gap's errors, which may cancel, instead of the sum of their squares.

    Raises ValueError for more than MAX_CALLS calls.
    """

    def __init__(
        self,
        gram: np.ndarray,
        weights: np.ndarray,
        order: int = 1,
        max_extrapolation: int | None = None,
        landing: bool = False,
    ):
        if len(gram) > MAX_CALLS:
            raise ValueError(f"calls are planned for at most {MAX_CALLS} calls, and there are {len(gram)}")
        self.calls = len(gram)
        reach = max_extrapolation or self.calls
        gap_costs = landing_costs if landing else squared_costs
        self._costs = [gap_costs(gram, weights, call, order, reach) for call in range(self.calls)]

    def cost(self, before: int, call: int, following: int) -> float:
        """Compute the error of the calls between two computed ones, `call` and `following` (T: the end), where `before`
        was computed last before them, or is `call` itself, which then is the first."""
        return float(self._costs[call][before, following - call - 1])

    def total(self, computed: Sequence[int]) -> float:
        """Compute the error of a plan: computed calls in order, 0 first."""
        around = zip([0, *computed], computed, [*computed[1:], self.calls], strict=False)
        return sum(self.cost(*three) for three in around)

    def plans(self, most: int) -> list[tuple[int, ...]]:
        """Find the best plan of each number of calls, from 1 to `most`."""
        best = np.full((self.calls, self.calls), np.inf)  # of plans whose last two calls are these
        best[0, 0] = 0.0
        choices: list[np.ndarray] = []
        plans: list[tuple[int, ...]] = [(0,)]
        for _ in range(1, most):
            following, choice = np.full_like(best, np.inf), np.zeros(best.shape, dtype=np.int32)
            for call in range(self.calls - 1):
                costs = best[: call + 1, call, None] + self._costs[call][:, :-1]
                choice[call, call + 1 :] = costs.argmin(axis=0)
                following[call, call + 1 :] = costs.min(axis=0)
            best = following
            choices.append(choice)
            plans.append(self._trace(best, choices))
        return plans

    def _trace(self, best: np.ndarray, choices: Sequence[np.ndarray]) -> tuple[int, ...]:
        """Read the cheapest plan backwards from its last two calls."""
        totals = np.full_like(best, np.inf)
        for call, costs in enumerate(self._costs):
            totals[: call + 1, call] = best[: call + 1, call] + costs[:, -1]
        before, call = (int(found) for found in np.unravel_index(totals.argmin(), totals.shape))
        plan = [call]
        for choice in reversed(choices):
            plan.append(before)
            before, call = int(choice[before, call]), before
        return tuple(plan[::-1])

    def nested_order(self) -> np.ndarray:
        """Rank the removal of calls, int (T,), always of the one whose removal costs least; call 0 last."""
        order, left = np.empty(self.calls, dtype=int), list(range(self.calls))
        for turn in range(self.calls - 1):
            order[left.pop(min(range(1, len(left)), key=lambda at: self._rise(left, at)))] = turn
        order[0] = self.calls - 1
        return order

    def _rise(self, left: Sequence[int], at: int) -> float:
        """Compute by how much the error rises without the call at this place of a plan."""
        around = [*left[max(at - 2, 0) : at + 3], *([self.calls] if at + 2 >= len(left) else [])]
        if at == 1:
            around.insert(0, around[0])
        without = [call for call in around if call != left[at]]
        return self._stretch(without) - self._stretch(around)

    def _stretch(self, calls: Sequence[int]) -> float:
        return sum(self.cost(*three) for three in zip(calls, calls[1:], calls[2:], strict=False))


def forecast(calls: int, call: int, order: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the weights by which the calls after `call` are extrapolated: of `call` and of each call computed before
    it, both (call + 1, T - call - 1). In the last row there is none before it."""
    ahead = np.minimum(np.arange(1, calls - call), reach)
    slope = np.zeros((call + 1, len(ahead)))
    if order:
        slope[:-1] = ahead / (call - np.arange(call))[:, None]
    return 1 + slope, -slope


def squared_costs(gram: np.ndarray, weights: np.ndarray, call: int, order: int, reach: int) -> np.ndarray:
    """Sum the squared errors of the calls after `call` up to each later one: (call + 1, T - call), as `forecast`."""
    calls = len(gram)
    own, other = forecast(calls, call, order, reach)
    after = slice(call + 1, calls)
    error = (
        np.diagonal(gram)[after]
        + own**2 * gram[call, call]
        + other**2 * np.diagonal(gram)[: call + 1, None]
        - 2 * own * gram[call, after]
        - 2 * other * gram[: call + 1, after]
        + 2 * own * other * gram[: call + 1, call, None]
    )
    return _sums(error * weights[after] ** 2)


def landing_costs(gram: np.ndarray, weights: np.ndarray, call: int, order: int, reach: int) -> np.ndarray:
    """Square the sum of the weighted errors of the calls after `call` up to each later one: (call + 1, T - call)."""
    calls = len(gram)
    own, other = forecast(calls, call, order, reach)
    after = slice(call + 1, calls)
    w = weights[after]
    own, other = _sums(own * w), _sums(other * w)
    missed = np.zeros(calls - call)  # norms of the sums of weighted values
    missed[1:] = np.diagonal(np.cumsum(np.cumsum(w[:, None] * gram[after, after] * w, axis=0), axis=1))
    with_own = _sums((w * gram[call, after])[None])
    with_other = _sums(w * gram[: call + 1, after])
    return (
        missed
        + own**2 * gram[call, call]
        + other**2 * np.diagonal(gram)[: call + 1, None]
        - 2 * own * with_own
        - 2 * other * with_other
        + 2 * own * other * gram[: call + 1, call, None]
    )


def _sums(values: np.ndarray) -> np.ndarray:
    """Sum along rows up to each place, from nothing on."""
    return np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
