"""Attacks on pages of its own, as strangers and other visitors can make them: how many of how many worked.

Run by hand: python tests/bench/attack.py [part ...]. Every part starts a page with a data folder of its own.
"""

import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from explorer.ui.auth import TOKEN_HEADER, owner_of
from explorer.ui.routes import UPLOAD
from tests.bench.attacked import ATTACKER, MASK, VICTIM, Page, add_jobs, page
from tests.page_fixtures import free_port, serve

JOB_BUTTONS = ("job-stop", "job-finish", "job-resume", "job-delete")
RESULTS, SESSIONS, FLOOD_S = 49, 301, 15


def attack_files() -> None:
    """Name a result in every event that takes something; then read files by paths."""
    with page(RESULTS) as client:
        results = sorted((client.data / "jobs" / "results").iterdir())
        for result in results:
            named = {"path": str(result), "meta": {"_type": "gradio.FileData"}}
            for event in client.events:
                if not event["queue"] and event["inputs"]:
                    client.fire(event, [named] * len(event["inputs"]))
        deleted = sum(not result.exists() for result in results)
        print(f"results of others deleted by naming them: {deleted} of {len(results)}")
        secrets = [client.data / "jobs" / "jobs.sqlite", results[0], "/etc/hostname", Path(__file__)]
        ways = ("gradio_api/file=", "file=", "explorer/static/", "explorer/gallery/", "explorer/results/")
        tried = [f"/{way}{up}{secret}" for way in ways for up in ("", "../" * 9, "%2e%2e/" * 9) for secret in secrets]
        read = [path for path in tried if client.get(path).status_code == 200]
        print(f"files read by their path: {len(read)} of {len(tried)}", *read)


def attack_owners() -> None:
    """Change the victim's jobs and mask without their token."""
    with page(jobs=3, EXPLORER_RATE_LIMIT_PER_MINUTE="1000000") as client:
        mask = client.upload(MASK, VICTIM).json()["id"]
        jobs = [f"{number:012x}" for number in range(3)]
        owner = owner_of(VICTIM)
        tokens = [
            "",
            ATTACKER,
            owner,
            [VICTIM],
            {"a": VICTIM},
            VICTIM.upper() + "A",
            VICTIM[:-1],
            VICTIM + "0",
            None,
            0,
        ]
        tokens += [True, "%", "' OR 1=1 --", {"__type__": "update", "value": VICTIM}, VICTIM + "\n"]
        tried = worked = 0
        for token in tokens:
            for session in ("attacker", "", "fresh", str(random.random())):
                for button, id in [*((button, jobs[0]) for button in JOB_BUTTONS), ("mask-delete", mask)]:
                    before = state_of(client, jobs, mask)
                    client.fire(client.buttons[button], [id, token], session)
                    tried, worked = tried + 1, worked + (state_of(client, jobs, mask) != before)
        print(f"changes of others' jobs and masks: {worked} of {tried}")
        client.fire(client.buttons["job-delete"], [jobs[0], VICTIM])
        client.fire(client.buttons["mask-delete"], [mask, VICTIM])
        after = state_of(client, jobs, mask)
        print(f"the owner deletes both: {'yes' if (jobs[0] not in after[0], after[1]) == (True, False) else 'NO'}")


def state_of(client: Page, jobs: list[str], mask: str) -> tuple[dict[str, str], bool]:
    with sqlite3.connect(f"file:{client.data}/jobs/jobs.sqlite?mode=ro", uri=True) as connection:
        states = dict(connection.execute("SELECT id, state FROM jobs"))
    connection.close()
    return {id: state for id, state in states.items() if id in jobs}, (
        client.data / f"masks/{mask}.safetensors"
    ).exists()


def attack_password() -> None:
    """Change something without the password, also after the operator's session was forgotten."""
    with page(EXPLORER_PASSWORD="open sesame", EXPLORER_RATE_LIMIT_PER_MINUTE="1000000") as client:
        sign_in, operator = client.buttons["sign-in-button"], "2" * 32

        def ways_in() -> int:
            tokens = ["", ATTACKER, owner_of(operator), None, [operator]]
            return sum(client.upload(MASK, str(token)).status_code == 200 for token in tokens)

        before = ways_in()
        client.fire(sign_in, [operator, "open sesame"], "operator")
        for _ in range(SESSIONS):
            client.fire(client.buttons["job-stop"], ["x", ATTACKER], str(random.random()))
        client.fire(sign_in, [None, "open sesame"], "operator")
        client.fire(sign_in, ["", "open sesame"], "operator")
        print(f"ways past the password: {before + ways_in()} of 10, {SESSIONS} sessions later too")
        print(f"the operator is still signed in: {client.upload(MASK, operator).status_code == 200}")
    with page(EXPLORER_PASSWORD="open sesame") as client:
        sign_in = client.buttons["sign-in-button"]
        answers = [client.fire(sign_in, [ATTACKER, "x"], **{"x-forwarded-for": f"10.0.0.{n}"}).text for n in range(60)]
        tried = sum("not the password" in answer for answer in answers)
        print(f"wrong passwords tried by one address with forged headers: {tried} of 60 in a minute")


def attack_disk() -> None:
    """Fill the disk, and the log, without end."""
    with page() as client:
        until, sent, statuses = time.monotonic() + FLOOD_S, 0, dict[int, int]()
        while time.monotonic() < until:
            for path in ("/gradio_api/upload", UPLOAD):
                answer = client.post(path, content=os.urandom(4 * 2**20), headers={TOKEN_HEADER: ATTACKER})
                statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
                sent += 4
        kept = sum(file.stat().st_size for file in client.data.rglob("*") if file.is_file()) / 2**20
        print(f"disk that {sent} MB of uploads fill: {kept:.1f} MB; answers {statuses}")
        before = client.log.stat().st_size
        for event in client.events[:100]:
            client.fire(event, ["x" * 10_000] * len(event["inputs"]))
        count = len(client.events[:100])
        print(f"log per bad request: {(client.log.stat().st_size - before) / count:.0f} bytes, n = {count}")


def attack_store() -> None:
    """Lock the store, or damage one row; is it set aside, does the page start, does it list the others?"""
    for name in ("locked", "row of a finished job", "row of a running job", "row without a field"):
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder)
            add_jobs(data / "jobs", 3)
            connection = sqlite3.connect(data / "jobs/jobs.sqlite", isolation_level=None)
            if name == "locked":
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
                connection.execute("BEGIN EXCLUSIVE")
            else:
                state = "running" if "running" in name else "done"
                document = json.dumps({"id": "x"}) if "field" in name else '{"id": 1'
                connection.execute("UPDATE jobs SET document = ?, state = ? WHERE rowid = 1", (document, state))
                connection.close()
            options = {"EXPLORER_DATA": folder, "GRADIO_SERVER_PORT": str(free_port()), "HF_HUB_OFFLINE": "1"}
            with serve(data, **options) as url, closing(Page(url, data)) as client:
                listed = count_listed(client)
                connection.close()
                deadline = time.monotonic() + 30
                while (later := count_listed(client)) < 3 and time.monotonic() < deadline:
                    time.sleep(1)
                aside = len(list((data / "jobs").glob("jobs.damaged-*.sqlite")))
                print(f"store, {name}: the page starts, lists {listed} of 3 jobs, later {later}, set aside: {aside}")


def attack_full_disk() -> None:
    """Start on a full disk, a small file system in memory, with and without the side files of SQLite. Needs root."""
    for side_files in (True, False):
        folders = tempfile.TemporaryDirectory(), tempfile.TemporaryDirectory()
        with folders[0] as folder, folders[1] as logs, mounted(Path(folder), "8m"):
            data, store = Path(folder), Path(folder) / "jobs/jobs.sqlite"
            add_jobs(data / "jobs", 3)
            if not side_files:
                for end in ("-wal", "-shm"):
                    Path(f"{store}{end}").unlink(missing_ok=True)
            with suppress(OSError), open(data / "fill", "wb", buffering=0) as fill:
                while fill.write(b"0" * 512):
                    pass
            options = {"EXPLORER_DATA": folder, "GRADIO_SERVER_PORT": str(free_port()), "HF_HUB_OFFLINE": "1"}
            with serve(Path(logs), **options) as url, closing(Page(url, Path(logs))) as client:
                listed = count_listed(client)
                (data / "fill").unlink()
                deadline = time.monotonic() + 30
                while (later := count_listed(client)) < 3 and time.monotonic() < deadline:
                    time.sleep(1)
            aside = len(list((data / "jobs").glob("jobs.damaged-*.sqlite")))
            lists = f"lists {listed} of 3 jobs, with room {later}, set aside: {aside}"
            print(f"full disk, side files {side_files}: the page starts, {lists}")


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def count_listed(client: Page) -> int:
    """Count the jobs of the list that everybody sees."""
    listing = next(one for one in client.events if one["api_name"] == "on_list" and len(one["inputs"]) == 2)
    rows = client.fire(listing, [ATTACKER, "all"]).json()["data"][0] or []
    return sum(bool(row["id"]) for row in rows)


PARTS = {
    "files": attack_files,
    "owners": attack_owners,
    "password": attack_password,
    "disk": attack_disk,
    "store": attack_store,
    "full-disk": attack_full_disk,
}


def main(*names: str) -> None:
    for name in names or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main(*sys.argv[1:])
