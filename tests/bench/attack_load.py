"""What one stranger's load does to others: floods, wrong input, long lists, and bulky results, on pages of its own.

Run by hand: python tests/bench/attack_load.py [part ...]. Addresses are made with X-Forwarded-For, which the page
believes of this machine here.
"""

import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import httpx
import psutil

from explorer.jobs.store import JobStore
from tests.bench.attacked import VICTIM, Page, page

PROXY = {"EXPLORER_PROXIES": "127.0.0.1"}
ATTACKER, OTHER = {"x-forwarded-for": "192.0.2.1"}, {"x-forwarded-for": "192.0.2.2"}
JSON = {"content-type": "application/json"}
LONG = {"steps": 1000, "prompt": "dog"}
SLOW_PLAN = {"method": "random", "steps": 1000, "settings": {"granularity": "module", "order": 2}}
FLOOD, FLOOD_S, CALLS, JOBS, CLIENTS, CLIENTS_S = 40, 60, 2_000, 10_000, 10, 300
ODD = ["", "0", "-1", "NaN", "inf", "\x00", "\u202e", "a" * 600, "A" * 201_000, "../../etc/passwd", "null", "[]", "{}"]
ODD += ["uniform", "dipgo", "importance:x", "emoji-dit", "/tmp", "unipc", "1000", "<script>alert(1)</script>", "x" * 50]
NUMBERS = [0, 1, -1, 10**9, 10**30, 2**63, 1e308, -1e308, 0.5, True]
PATHS = [
    "queue/join",
    "cancel",
    "reset",
    "call/cost",
    "run/cost",
    "api/cost",
    "run/999",
    "call/v2/nothing",
    "heartbeat/x",
]
PATHS += ["process_recording", "run-history/connect", "startup-events", "queue/join/", "vibe-edit", "stream/x"]


@contextmanager
def stalls(client: Page) -> Iterator[list[float]]:
    """Measure meanwhile how long another visitor waits for a light file, twenty times a second."""
    waits, over = [], Event()

    def watch() -> None:
        with httpx.Client(base_url=client.base_url, timeout=120, headers=OTHER) as other:
            while not waits or not over.wait(0.05):
                begun = time.monotonic()
                other.get("/theme.css")
                waits.append(time.monotonic() - begun)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield waits
    finally:
        over.set()
        thread.join()


def memory_mb(client: Page) -> tuple[float, float]:
    """Measure the memory of the page's process, and of those that it started."""
    server = page_process(client)
    children = sum(child.memory_info().rss for child in server.children(recursive=True))
    return server.memory_info().rss / 2**20, children / 2**20


def attack_flood() -> None:
    """Ask for 40 pictures of 1,000 steps from one address, and generate small ones from another one."""
    with page(**PROXY) as client:
        client.call("generate", OTHER, prompt="cat", steps=2)
        alone = timed(client.call, "generate", OTHER, prompt="cat", steps=2)[1]
        with ThreadPoolExecutor(FLOOD) as threads, stalls(client) as waits:
            flood = [threads.submit(client.call, "generate", ATTACKER, **LONG | {"seed": n}) for n in range(FLOOD)]
            until, tried, answered, seconds = time.monotonic() + FLOOD_S, 0, 0, []
            while time.monotonic() < until:
                for name, arguments in (("cost", {}), ("mask", {}), ("generate", {"prompt": "cat", "steps": 2})):
                    (status, kind), taken = timed(client.call, name, OTHER, **arguments)
                    tried, answered = tried + 1, answered + ((status, kind) == (200, "complete"))
                    seconds += [taken] if name == "generate" else []
            refused = sum(one.done() and one.result() != (200, "complete") for one in flood)
            print(f"flood of {FLOOD} x 1,000 steps: refused {refused}; another's tries answered {answered} of {tried}")
            print(f"another's picture: alone {alone:.2f} s, meanwhile {median(seconds):.2f} s (n = {len(seconds)})")
            report_stalls("meanwhile", waits)
            page_process(client).terminate()  # which ends the flood


def page_process(client: Page) -> psutil.Process:
    """Find the page's process."""
    listening = (one for one in psutil.net_connections("tcp") if one.status == "LISTEN")
    return psutil.Process(next(one.pid for one in listening if one.laddr.port == client.base_url.port))


def attack_plans() -> None:
    """Ask for 20 slow schedules from one address, and for one from another."""
    with page(**PROXY) as client:
        client.call("cost", OTHER)
        alone = timed(client.call, "cost", OTHER)[1]
        slow = timed(client.call, "cost", OTHER, **SLOW_PLAN)[1]
        with ThreadPoolExecutor(20) as threads:
            flood = [threads.submit(client.call, "cost", ATTACKER, **SLOW_PLAN, ratio=n / 100) for n in range(20)]
            time.sleep(0.5)
            answer, seconds = timed(client.call, "cost", OTHER)
            ended = Counter(one.result() for one in flood)
        print(f"another's schedule behind 20 slow ones: {seconds:.2f} s; alone {alone:.2f}; a slow one {slow:.2f}")
        print(f"its answer: {answer}; those of the 20: {dict(ended)}")


def attack_jobs() -> None:
    """Start jobs from one address under tokens of its own making."""
    with page(EXPLORER_RATE_LIMIT_PER_MINUTE="1000", **PROXY) as client:
        started = sum(start_job(client, uuid4().hex, ATTACKER) for _ in range(30))
        other = start_job(client, uuid4().hex, OTHER)
        print(f"job places that one address takes: {started} of 30; another's job then starts: {other}")


def start_job(client: Page, token: str, headers: dict[str, str], method: str = "uniform") -> bool:
    """Start a job as the page does; the settings of its method are made by an event of the session."""
    session = uuid4().hex
    render = next(
        one for one in client.events if one["rendered_in"] is None and one["queue"] and len(one["inputs"]) == 2
    )
    ended = client.queue(render, [method, "{}"], session, **headers)[-1]
    rendered = ended["output"]["render_config"]
    values = client.values | {one["id"]: one["props"].get("value") for one in rendered["components"]}
    start = next(one for one in rendered["dependencies"] if len(one["outputs"]) == 2)
    data = [token, *(values[id] for id in start["inputs"][1:])]
    return bool(client.fire(start, data, session, **headers).json()["data"][1].__class__ is str)


def attack_lists() -> None:
    """List 10,000 jobs."""
    with page(JOBS) as client:
        listing = next(one for one in client.events if one["api_name"] == "on_list" and len(one["inputs"]) == 2)
        seconds = [timed(client.fire, listing, ["1" * 32, "all"])[1] for _ in range(9)]
        print(f"list with {JOBS} jobs: median {1000 * median(seconds):.0f} ms (n = 9)")


def attack_measure() -> None:
    """Measure features over as many steps as a visitor may ask for."""
    with page() as client:
        event = client.buttons["measure"]
        for steps in (4, 250, 250, 1000):
            before = memory_mb(client)
            ended, seconds = timed(
                client.queue, event, client.defaults(event, steps=steps, prompt="dog", method="uniform"), f"s{steps}"
            )
            after = memory_mb(client)
            kept = f"page {after[0] - before[0]:+.0f} MB, its processes {after[1] - before[1]:+.0f} MB"
            print(f"features of {steps} steps: {seconds:.0f} s, {kept}, {str(ended[-1]['output'])[-150:]!r}")


def attack_stalls() -> None:
    """Send single requests that are as large, as deep or as slow as they may be, and see how long others wait."""
    large = {
        "200,000 letters as a schedule": {"manual_schedule": "A" * 200_000, "steps": 1000},
        "1 MB of text": {"prompt": "a " * 500_000},
        "60,000 settings": {"settings": {f"k{n}": n for n in range(60_000)}},
        "300,000 numbers": {"settings": {"every": [1] * 300_000}},
        "the slowest schedule": SLOW_PLAN,
    }
    with page(**PROXY) as client:
        client.call("cost", OTHER)
        for name, arguments in large.items():
            with stalls(client) as waits:
                answer, seconds = timed(client.call, "mask", ATTACKER, **arguments)
            report_stalls(f"{name} ({seconds:.1f} s, {answer})", waits)
        deep = '{"settings":' + "[" * 400_000 + "]" * 400_000 + "}"
        with stalls(client) as waits:
            status = client.post("/gradio_api/call/v2/cost", content=deep, headers=JSON).status_code
        report_stalls(f"nested 400,000 deep ({status})", waits)
        for event in client.events:
            with stalls(client) as waits:
                client.fire(event, ["a " * (900_000 // 2 // max(1, len(event["inputs"])))] * len(event["inputs"]))
            if max(waits, default=0) > 0.3:
                report_stalls(f"event {event['api_name']} with 1 MB", waits)


def attack_unread() -> None:
    """Ask for large answers that nobody reads."""
    with page(**PROXY) as client:
        client.call("mask", OTHER)
        before = memory_mb(client)[0]
        for seed in range(60):
            settings = {"granularity": "module", "seed": seed}
            client.post("/gradio_api/call/v2/mask", json={"method": "random", "steps": 1000, "settings": settings})
        while client.call("cost", OTHER)[1] != "complete":
            time.sleep(1)
        time.sleep(15)
        print(f"60 schedules of 1,000 steps that nobody reads: {memory_mb(client)[0] - before:+.0f} MB")


def attack_fuzz() -> None:
    """Send 2,000 calls of random content to events, API and other endpoints."""
    lot = random.Random(2)
    with page(EXPLORER_RATE_LIMIT_PER_MINUTE="1000000") as client:
        client.call("cost", {})
        before, statuses, failed, slow = client.log.stat().st_size, Counter[int](), Counter[str](), []
        for number in range(CALLS):
            what, answer, seconds = fuzzed_call(client, lot, number)
            statuses[answer] += 1
            failed[what] += answer >= 500 or not answer
            slow += [(what, round(seconds, 1))] if seconds > 3 else []
        bad = sum(count for status, count in statuses.items() if status != 200)
        log = (client.log.stat().st_size - before) / bad
        print(f"fuzz of {CALLS}: {dict(statuses)}; failed: {dict(+failed)}; over 3 s: {slow}")
        print(f"log per bad call: {log:.0f} bytes; the page then answers: {client.call('cost', {})}")


def fuzzed_call(client: Page, lot: random.Random, number: int) -> tuple[str, int, float]:
    """Make one call; returns what it was, its status (0: no answer) and its seconds."""
    way, begun = lot.randint(0, 9), time.monotonic()
    try:
        if way < 6:
            event = lot.choice(client.events)
            data = [odd(lot) if lot.random() < 0.4 else value for value in client.defaults(event)]
            data = data if lot.random() < 0.9 else data[: lot.randint(0, 12)]
            path = "queue/join" if event["queue"] else "run/predict"
            document = {
                "fn_index": event["id"],
                "data": data,
                "session_hash": lot.choice(["f", None, "", f"g{number}"]),
            }
            document |= {"event_data": odd(lot)} if lot.random() < 0.3 else {}
            what = f"{path} {event['api_name']}"
        elif way < 8:
            path = f"call/v2/{lot.choice(['cost', 'mask', 'generate'])}"
            names = lot.choices(["method", "ratio", "steps", "settings", "model", "prompt", "seed", "zzz"], k=3)
            document = {name: odd(lot) for name in names} | {"steps": 2}
            what = path
        else:
            path = what = lot.choice(PATHS)
            document = lot.choice(
                [odd(lot), {"fn_index": odd(lot), "data": odd(lot), "session_hash": odd(lot)}, {"data": [odd(lot)]}]
            )
        status = client.post(f"/gradio_api/{path}", json=document).status_code
    except httpx.HTTPError:
        status = 0
    return what, status, time.monotonic() - begun


def odd(lot: random.Random, depth: int = 0) -> Any:
    """Make a value that nobody expects."""
    if depth < 3 and lot.random() < 0.3:
        values = [odd(lot, depth + 1) for _ in range(lot.randint(0, 4))]
        return values if lot.random() < 0.5 else dict(zip(("path", "id", "value", "__type__"), values, strict=False))
    return lot.choice([None, lot.choice(NUMBERS), lot.choice(ODD), {"__type__": "update", "value": lot.choice(ODD)}])


def attack_clients() -> None:
    """Have ten clients look at a running job for a minute, and then for five more, as ten tabs do."""
    with page(**PROXY) as client, ThreadPoolExecutor(CLIENTS) as threads:
        start_job(client, VICTIM, OTHER, "dipgo")
        errors: list[int] = []
        look_at_jobs(client, threads, 60, [])  # the job loads its model, and the page what ten tabs need
        files, memory = sum(1 for _ in client.data.rglob("*")), memory_mb(client)
        with stalls(client) as waits:
            calls = look_at_jobs(client, threads, CLIENTS_S, errors)
        minutes = CLIENTS_S / 60
        page_mb, other_mb = ((now - then) / minutes for now, then in zip(memory_mb(client), memory, strict=True))
        more = (sum(1 for _ in client.data.rglob("*")) - files) / minutes
        print(f"{CLIENTS} clients, {CLIENTS_S} s: {calls} calls, {len(errors)} errors")
        print(f"in a minute: page {page_mb:+.1f} MB, its processes {other_mb:+.1f} MB, {more:+.1f} files")
        states = [job.state for job in JobStore(client.data / "jobs", owned=False).jobs()]
        print(f"stalls over 1 s: {sum(one > 1 for one in waits)}; state of the job at the end: {states}")
        report_stalls("meanwhile", waits)


def look_at_jobs(client: Page, threads: ThreadPoolExecutor, seconds: float, errors: list[int]) -> int:
    until = time.monotonic() + seconds
    return sum(threads.map(lambda number: look(client, number, until, errors), range(CLIENTS)))


def look(client: Page, number: int, until: float, errors: list[int]) -> int:
    """Open the page and update the list of jobs once a second; returns how many calls that made."""
    calls, update = 0, client.event("on_list_timer")
    document = {"fn_index": update["id"], "data": ["1" * 32, "all", ""], "session_hash": f"tab{number}"}
    with httpx.Client(
        base_url=client.base_url, timeout=60, headers={"x-forwarded-for": f"192.0.2.{9 + number}"}
    ) as tab:
        while time.monotonic() < until:
            answers = [tab.get("/"), tab.post("/gradio_api/run/predict", json=document)]
            errors += [answer.status_code for answer in answers if answer.status_code != 200]
            calls += 2
            time.sleep(1)
    return calls


def timed(call: Any, *arguments: Any, **options: Any) -> tuple[Any, float]:
    begun = time.monotonic()
    return call(*arguments, **options), time.monotonic() - begun


def report_stalls(when: str, waits: list[float]) -> None:
    print(f"{when}, a light file took {1000 * median(waits):.0f} ms, at most {max(waits):.2f} s (n = {len(waits)})")


PARTS = {name.removeprefix("attack_"): part for name, part in list(globals().items()) if name.startswith("attack_")}


def main(*names: str) -> None:
    for name in names or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main(*sys.argv[1:])
