"""Which calls to compute: at even distances, denser where few of them matter more, and in orders for every number."""

from collections.abc import Iterator

import numpy as np

SPACINGS = ("even", "quadratic", "ends")
ENDS = (1.6, 1.3)  # how much denser the spacing "ends" is at the first and the last calls; tuned on search names


def positions(calls: int, spacing: str) -> np.ndarray:
    """Place the calls, (T,), rising from 0, so that equal distances there are the requested spacing."""
    if spacing == "ends":
        first, last = ENDS
        fine = np.linspace(0, 1, 10_001)
        return np.interp(np.linspace(0, 1, calls), fine**first / (fine**first + (1 - fine) ** last), fine)
    share = np.arange(calls) / calls
    return share if spacing == "even" else 1 - np.sqrt(1 - share)


def nested_order(calls: int, spacing: str) -> np.ndarray:
    """Rank the removal of calls, int (T,), so that what stays is spaced as requested as far as nesting allows; call 0
    last."""
    where = positions(calls, spacing)
    return thinning_order(where) if spacing == "ends" else halving_order(where)


def spaced_calls(calls: int, count: int, spacing: str) -> np.ndarray:
    """Choose `count` of the calls, 0 among them, at even or quadratic distances, or denser at both ends."""
    if spacing == "ends":
        return np.sort(np.argsort(nested_order(calls, spacing))[calls - count :])
    share, number = np.arange(count) / count, np.arange(count)
    ideal = np.round(calls * (share if spacing == "even" else 1 - (1 - share) ** 2)).astype(int)
    distinct = np.maximum.accumulate(ideal - number) + number  # no two on one call
    return np.minimum(distinct, calls - count + number)


def halving_order(where: np.ndarray) -> np.ndarray:
    """Rank the removal of calls, int (T,), so that nested rests are as even along `where` as possible; call 0 last."""
    order = np.empty(len(where), dtype=int)
    order[[call for call, _ in _additions(where)]] = np.arange(len(where))[::-1]
    return order


def thinning_order(where: np.ndarray) -> np.ndarray:
    """Rank the removal of calls, int (T,), always of the one whose neighbours along `where` are nearest to it.

    Nearest by the product of both distances, which is what the sum of squared distances rises by.
    """
    order, left = np.empty(len(where), dtype=int), list(range(len(where)))
    where = np.append(where, 2 * where[-1] - where[-2] if len(where) > 1 else 1)  # the end, one step after the last
    for turn in range(len(where) - 2):
        at = where[[*left, -1]]
        order[left.pop(1 + int(((at[1:-1] - at[:-2]) * (at[2:] - at[1:-1])).argmin()))] = turn
    order[left[0]] = len(where) - 2
    return order


def staleness(where: np.ndarray) -> np.ndarray:
    """Compute how stale values would become along `where` just before each call is added, (T,); the most at call 0."""
    score = np.empty(len(where))
    for call, stretch in _additions(where):
        score[call] = stretch
    return score


def _additions(where: np.ndarray) -> Iterator[tuple[int, float]]:
    """Yield calls from the most to the least needed, each with the staleness that it ends.

    Call 0 comes first, then always the call that best halves the stalest stretch without one.
    """
    yield 0, float(where[-1] - where[0])
    stretches = [(0, len(where))]  # from a computed call to the next one
    while stretches:
        worst = max(range(len(stretches)), key=lambda i: where[stretches[i][1] - 1] - where[stretches[i][0]])
        first, end = stretches.pop(worst)
        if end - first == 1:
            stretches = [stretch for stretch in stretches if stretch[1] - stretch[0] > 1]
            continue
        inner = np.arange(first + 1, end)
        call = int(inner[np.maximum(where[inner - 1] - where[first], where[end - 1] - where[inner]).argmin()])
        yield call, float(where[end - 1] - where[first])
        stretches += [(first, call), (call, end)]
