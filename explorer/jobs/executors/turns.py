"""Turns: a few lanes that the runs of many addresses share, one item at a time, so that no flood keeps others waiting.

A lane goes to an address that holds the fewest, then to the one that had its last turn the longest time ago; of one
address, the oldest runs come first.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from threading import Condition
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class _Place(NamedTuple):
    address: str
    number: int  # of the run


class Turns:
    """So many lanes, which take turns among addresses."""

    def __init__(self, lanes: int):
        self._free, self._condition = lanes, Condition()
        self._waiting: list[_Place] = []
        self._runs, self._held = Counter[str](), Counter[str]()  # of each address
        self._last_turns: dict[str, int] = {}
        self._numbers, self._turns = count(), count()

    def share(self, items: Iterator[T], address: str, wanted: Callable[[], bool]) -> Iterator[T]:
        """Yield the items of a run, each computed in a turn, for as long as the run is wanted."""
        with self._run(address) as place:
            while True:
                with self._turn(place):
                    if not wanted():
                        return
                    try:
                        item = next(items)
                    except StopIteration:
                        return
                yield item

    @contextmanager
    def _run(self, address: str) -> Iterator[_Place]:
        with self._condition:
            self._runs[address] += 1
            place = _Place(address, next(self._numbers))
        try:
            yield place
        finally:
            with self._condition:
                self._runs[address] -= 1
                if not self._runs[address]:
                    del self._runs[address], self._held[address]
                    self._last_turns.pop(address, None)

    @contextmanager
    def _turn(self, place: _Place) -> Iterator[None]:
        with self._condition:
            self._waiting.append(place)
            self._condition.wait_for(lambda: self._free and self._next() is place)
            self._waiting.remove(place)
            self._free -= 1
            self._held[place.address] += 1
            self._condition.notify_all()  # another lane may be free, for the next one
        try:
            yield
        finally:
            with self._condition:
                self._free += 1
                self._held[place.address] -= 1
                self._last_turns[place.address] = next(self._turns)
                self._condition.notify_all()

    def _next(self) -> _Place:
        """Find the run that is the next to have a turn."""

        def key(place: _Place) -> tuple[int, int, int]:
            return self._held[place.address], self._last_turns.get(place.address, -1), place.number

        return min(self._waiting, key=key)
