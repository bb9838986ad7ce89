"""Budgets: what one network address may ask for at once and per minute, and which address a request comes from.

All that a stranger can ask for is counted here. Which address shares which lanes of the processes is decided by
`jobs.executors.turns`.
"""

import ipaddress
import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Any

WINDOW_S = 60
IPV6_PREFIX = 64  # bits that one household or office has for itself
ENDING = "this page is being restarted; please try again in a minute"
UNREAD_S = 10.0  # after which what nobody reads is given up
MAX_PICTURES = 32  # runs that generate pictures, of all addresses together


class BudgetError(ValueError):
    """An address asks for more than it may have; in HTTP, 429."""


class Budgets:
    """Counts what each address has.

    changes_per_minute: what is started, stopped, uploaded and deleted, and passwords that are tried; pictures: runs
    that generate them, under way or waiting; requests: that are not answered yet. Default: any number. proxies:
    networks that are believed when they name the address they forward for; see `address_of`.
    """

    def __init__(
        self,
        changes_per_minute: float = math.inf,
        pictures: float = math.inf,
        requests: float = math.inf,
        proxies: Sequence[str] = (),
    ):
        self.changes_per_minute, self.pictures, self.requests = changes_per_minute, pictures, requests
        self.proxies = tuple(proxies)
        self._lock = Lock()
        self.is_ending = False  # the page; then nothing more is run
        self._changes: dict[str, deque[float]] = defaultdict(deque)
        self._pictures, self._requests, self._streams = Counter[str](), Counter[str](), Counter[str]()

    def address_of(self, request: Any) -> str:
        """Find the address that a request is counted for."""
        return address_of(request, self.proxies)

    def count_change(self, address: str) -> None:
        """Count a change. Raises BudgetError for too many within a minute."""
        now = time.monotonic()
        with self._lock:
            for known in [known for known, times in self._changes.items() if now - times[-1] > WINDOW_S]:
                del self._changes[known]
            times = self._changes[address]
            while times and now - times[0] > WINDOW_S:
                times.popleft()
            if len(times) >= self.changes_per_minute:
                wait_s = WINDOW_S + 1 - (now - times[0])
                raise BudgetError(f"that was {self.changes_per_minute} times within a minute; wait {wait_s:.0f} s")
            times.append(now)

    def wait_for_readers(self, seconds: float) -> None:
        """Wait until all runs have ended and their readers know, so long at most."""
        until = time.monotonic() + seconds
        while (self._pictures or self._streams) and time.monotonic() < until:
            time.sleep(0.01)

    def num_pictures(self) -> int:
        """Count the runs that generate pictures, of all addresses."""
        return sum(self._pictures.copy().values())

    def check_picture(self, address: str) -> None:
        """Raise BudgetError where an address, or all together, may have no more runs that generate pictures."""
        if self._pictures[address] >= self.pictures:
            raise BudgetError(f"{self.pictures} pictures are under way for your address; wait until one is done")
        if self.num_pictures() >= MAX_PICTURES:
            raise BudgetError(f"{MAX_PICTURES} pictures of visitors are under way; please come back in a minute")

    def check_request(self, address: str) -> None:
        """Raise BudgetError where an address may have no more requests."""
        if self._requests[address] >= self.requests:
            raise BudgetError(f"{self.requests} requests of your address are not answered yet; wait, then try again")

    def picture(self, address: str) -> AbstractContextManager[None]:
        """Count a run that generates pictures. Raises BudgetError for one too many."""
        return self._counted(self._pictures, address, self.check_picture)

    def request(self, address: str) -> AbstractContextManager[None]:
        """Count a request until it is answered. Raises BudgetError for one too many of the address."""
        return self._counted(self._requests, address, self.check_request)

    def stream(self, session: str) -> AbstractContextManager[None]:
        """Note that somebody reads what the runs of a session yield."""
        return self._counted(self._streams, session, lambda _: None)

    def is_read(self, session: str | None) -> bool:
        """Tell whether somebody reads what the runs of a session yield."""
        return self._streams[session or ""] > 0

    @contextmanager
    def _counted(self, counts: Counter[str], name: str, check: Callable[[str], None]) -> Iterator[None]:
        with self._lock:
            check(name)
            counts[name] += 1
        try:
            yield
        finally:
            with self._lock:
                counts[name] -= 1
                if not counts[name]:
                    del counts[name]


def address_of(request: Any, proxies: Sequence[str] = ()) -> str:
    """Find where a request comes from; of an address of IPv6, the network that one place has for itself.

    A proxy appends the address that it forwards for to X-Forwarded-For; believed is what the named proxies appended
    (`*`: any peer), from the last one back to the first that is none of them.
    """
    address = request.client.host if request.client else ""
    forwarded = request.headers.get("x-forwarded-for", "").split(",")
    while _is_proxy(address, proxies) and forwarded and forwarded[-1].strip():
        address = forwarded.pop().strip()
        if "*" in proxies:  # of a chain, only the last one is known
            break
    return _place_of(address)


def _place_of(address: str) -> str:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if known.version == 6:
        return str(known.ipv4_mapped or ipaddress.ip_network((known, IPV6_PREFIX), strict=False))
    return str(known)


def _is_proxy(address: str, proxies: Sequence[str]) -> bool:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(one == "*" or known in ipaddress.ip_network(one, strict=False) for one in proxies)
