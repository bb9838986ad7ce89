"""What one address may have at once and per minute, and how runs of several addresses share the lanes."""

from contextlib import ExitStack
from threading import Barrier, Event, Thread
from types import SimpleNamespace

import pytest

from explorer.jobs.executors.inline import InlineExecutor
from explorer.jobs.executors.turns import Turns
from explorer.ui import budgets as budgets_module
from explorer.ui.budgets import BudgetError, Budgets, address_of
from explorer.ui.runs import VisitorRuns


def request(host="1.2.3.4", session="s", **headers):
    return SimpleNamespace(client=SimpleNamespace(host=host), headers=headers, session_hash=session)


def wait_for(condition):
    while not condition():
        Event().wait(0.001)


# -- turns


class Race:
    """Runs of two addresses on some lanes; the items of `flood` last until `other` waits for its turn, or has ended."""

    def __init__(self, lanes):
        self.turns, self.order, self.threads = Turns(lanes), [], []
        self.begin, self.other_ended = Event(), Event()

    def waits(self, address):
        return sum(place.address == address for place in self.turns._waiting)

    def flood(self):
        for _ in range(5):
            wait_for(lambda: self.begin.is_set() and (self.waits("other") or self.other_ended.is_set()))
            self.order.append("flood")
            yield

    def other(self):
        for _ in range(3):
            self.order.append("other")
            yield
        self.other_ended.set()

    def start(self, address, count=1):
        for _ in range(count):
            run = self.turns.share(getattr(self, address)(), address, lambda: True)
            self.threads.append(Thread(target=list, args=(run,)))
            self.threads[-1].start()


@pytest.mark.parametrize("lanes", [1, 2])
def test_another_address_has_its_turn_after_each_item_of_a_flood(lanes):
    race = Race(lanes)
    race.start("flood", count=6)
    wait_for(lambda: race.waits("flood") == 6 - lanes)
    race.start("other")
    wait_for(lambda: race.waits("other"))
    race.begin.set()
    for thread in race.threads:
        thread.join()
    until_ended = race.order[: len(race.order) - race.order[::-1].index("other")]
    assert race.order.count("flood") == 30 and until_ended.count("other") == 3
    assert until_ended.count("flood") <= 3 * lanes


def test_an_address_that_is_alone_has_all_lanes():
    turns, both = Turns(2), Barrier(2, timeout=60)
    met = []

    def items():
        both.wait()
        met.append(True)
        yield

    threads = [Thread(target=list, args=(turns.share(items(), "me", lambda: True),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == [True, True]


def test_older_runs_of_an_address_come_first_and_unwanted_ones_compute_nothing():
    turns, order, begin = Turns(1), [], Event()

    def items(name):
        wait_for(begin.is_set)
        order.append(name)
        yield

    threads = []
    for name in range(4):
        run = turns.share(items(name), "me", lambda name=name: name != 2)
        threads.append(Thread(target=list, args=(run,)))
        threads[-1].start()
        wait_for(lambda: len(turns._waiting) == max(0, len(threads) - 1))
    begin.set()
    for thread in threads:
        thread.join()
    assert order == [0, 1, 3] and not turns._runs and not turns._last_turns


# -- budgets


def test_changes_are_counted_per_address_and_minute(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(budgets_module.time, "monotonic", lambda: now[0])
    budgets = Budgets(changes_per_minute=3)
    for _ in range(3):
        budgets.count_change("1.2.3.4")
    with pytest.raises(BudgetError, match="3 times within a minute; wait 61 s"):
        budgets.count_change("1.2.3.4")
    budgets.count_change("5.6.7.8")
    now[0] += 61
    budgets.count_change("1.2.3.4")
    now[0] += 61
    budgets.count_change("9.9.9.9")
    assert list(budgets._changes) == ["9.9.9.9"]  # nothing is remembered for longer


def test_pictures_and_requests_have_a_limit_per_address_and_are_given_back(monkeypatch):
    budgets = Budgets(pictures=2, requests=1)
    monkeypatch.setattr(budgets_module, "MAX_PICTURES", 3)
    with ExitStack() as held:
        for address in ("a", "a", "b"):
            held.enter_context(budgets.picture(address))
        for address, reason in (("a", "2 pictures are under way for your address"), ("b", "3 pictures of visitors")):
            with pytest.raises(BudgetError, match=reason), budgets.picture(address):
                pass
        held.enter_context(budgets.request("a"))
        with pytest.raises(BudgetError, match="1 requests of your address"), budgets.request("a"):
            pass
        with budgets.request("b"):
            pass
    with budgets.picture("a"), budgets.request("a"):
        pass
    assert not budgets._pictures and not budgets._requests


def test_forwarded_address_counts_from_known_proxies_only():
    forged = request("10.0.0.1", **{"x-forwarded-for": "6.6.6.6, 8.8.8.8"})
    assert address_of(forged) == "10.0.0.1"
    assert address_of(forged, ["10.0.0.0/8"]) == "8.8.8.8" and address_of(forged, ["192.0.2.0/24"]) == "10.0.0.1"
    assert address_of(forged, ["*"]) == "8.8.8.8" and address_of(request("10.0.0.1"), ["*"]) == "10.0.0.1"
    chain = request("10.0.0.1", **{"x-forwarded-for": "6.6.6.6, 8.8.8.8, 10.0.0.2"})
    assert address_of(chain, ["10.0.0.0/8"]) == "8.8.8.8" and address_of(chain, ["*"]) == "10.0.0.2"


def test_one_place_counts_as_one_address_of_ipv6():
    own = {address_of(request(f"2001:db8:1:2::{number:x}")) for number in (1, 0xFFFF)}
    assert own == {"2001:db8:1:2::/64"} and address_of(request("2001:db8:1:3::1")) not in own
    assert address_of(request("::ffff:1.2.3.4")) == "1.2.3.4" and address_of(request("testclient")) == "testclient"


# -- runs of visitors


def frames(count):
    yield from range(count)


def plan(count):
    yield from range(count)


def test_runs_of_a_visitor_count_for_their_address_until_they_end():
    runs = VisitorRuns(InlineExecutor(), Budgets(pictures=1))
    first = runs.of(request(session="a"))(frames, 3)
    assert next(first) == 0 and runs.is_busy(request(session="a"), frames)
    with pytest.raises(BudgetError, match="under way for your address"):
        list(runs.of(request(session="b"))(frames, 3))
    assert list(runs.of(request("5.6.7.8"))(frames, 3)) == [0, 1, 2]
    assert list(runs.of(request(session="b"))(plan, 2)) == [0, 1]  # a plan is no picture
    assert list(first) == [1, 2] and list(runs.alone(request())(frames, 2)) == [0, 1]


def test_tabs_of_a_visitor_have_runs_of_their_own():
    runs, me = VisitorRuns(InlineExecutor(), Budgets()), request()
    on_explore, on_masks = runs.of(me)(frames, 3), runs.of(me, "masks")(frames, 3)
    assert (next(on_explore), next(on_masks)) == (0, 0)
    runs.stop(me, "masks")
    assert list(on_masks) == [] and list(on_explore) == [1, 2]


@pytest.mark.parametrize("is_read", [True, False])
def test_a_run_that_nobody_reads_is_ended(monkeypatch, is_read):
    monkeypatch.setattr(budgets_module, "UNREAD_S", 0.001)
    begun, checked = Event(), Event()
    budgets = Budgets()
    runs = VisitorRuns(InlineExecutor(), budgets)
    check = VisitorRuns._end_unread
    monkeypatch.setattr(VisitorRuns, "_end_unread", lambda *given: (begun.wait(60), check(*given), checked.set()))
    with ExitStack() as reading:
        if is_read:
            reading.enter_context(budgets.stream("s"))
        run = runs.of(request())(frames, 3)
        assert next(run) == 0
        begun.set()
        assert checked.wait(60)
        assert list(run) == ([1, 2] if is_read else [])
