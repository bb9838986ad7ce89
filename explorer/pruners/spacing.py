"""Which calls to compute: at even distances, denser where few of them matter more, and in orders for every number."""

from collections.abc import Iterator

import numpy as np

ENDS = (1.6, 1.3)  # how much denser the spacing "ends" is at the first and the last calls; tried on search names


def positions(calls: int, spacing: str) -> np.ndarray:
    """(T,), rising from 0: where each call lies, so that equal distances there are the spacing asked for."""
    if spacing == "ends":
        first, last = ENDS
        fine = np.linspace(0, 1, 10_001)
        return np.interp(np.linspace(0, 1, calls), fine**first / (fine**first + (1 - fine) ** last), fine)
    share = np.arange(calls) / calls
    return share if spacing == "even" else 1 - np.sqrt(1 - share)


def nested(calls: int, spacing: str) -> np.ndarray:
    """int (T,): when each call goes, so that what stays is spaced as asked as far as nesting allows; call 0 is last."""
    return thinned(positions(calls, spacing)) if spacing == "ends" else spread(positions(calls, spacing))


def spaced(calls: int, count: int, spacing: str) -> np.ndarray:
    """`count` of the calls, 0 among them, at even or quadratic distances, or denser at both ends."""
    if spacing == "ends":
        return np.sort(np.argsort(nested(calls, spacing))[calls - count :])
    share, number = np.arange(count) / count, np.arange(count)
    wished = np.round(calls * (share if spacing == "even" else 1 - (1 - share) ** 2)).astype(int)
    apart = np.maximum.accumulate(wished - number) + number  # no two on one call
    return np.minimum(apart, calls - count + number)


def spread(where: np.ndarray) -> np.ndarray:
    """int (T,): when each call goes so that what stays is as even along `where` as nesting allows; call 0 goes last."""
    goes = np.empty(len(where), dtype=int)
    goes[[call for call, _ in _additions(where)]] = np.arange(len(where))[::-1]
    return goes


def thinned(where: np.ndarray) -> np.ndarray:
    """int (T,): when each call goes, if always that one does whose neighbours along `where` are nearest to it.

    Nearest by the product of both distances, which is what the sum of squared distances rises by.
    """
    goes, left = np.empty(len(where), dtype=int), list(range(len(where)))
    where = np.append(where, 2 * where[-1] - where[-2] if len(where) > 1 else 1)  # the end, one step after the last
    for turn in range(len(where) - 2):
        at = where[[*left, -1]]
        goes[left.pop(1 + int(((at[1:-1] - at[:-2]) * (at[2:] - at[1:-1])).argmin()))] = turn
    goes[left[0]] = len(where) - 2
    return goes


def staleness(where: np.ndarray) -> np.ndarray:
    """(T,): how far along `where` values would go stale just before each call is added; the most at call 0."""
    score = np.empty(len(where))
    for call, stretch in _additions(where):
        score[call] = stretch
    return score


def _additions(where: np.ndarray) -> Iterator[tuple[int, float]]:
    """Calls from the most to the least needed, each with the staleness that it ends.

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
