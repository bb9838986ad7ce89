"""Ten thousand damaged mask files through the upload: what crashes, hangs, is kept, or is written elsewhere.

Run by hand: python tests/bench/damaged.py [files] [over HTTP]. Sound files of every kind are cut short, flipped in
bits, given huge headers, wrong shapes, NaN, hostile names and other formats; each goes to the shelf as the page's
upload gives it there, and some of them through a page of their own, as a browser sends them.
"""

import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from explorer.jobs.mask_library import MaskLibrary, embedded  # noqa: E402 -- found beside this file's folder
from tests.page_fixtures import free_port  # noqa: E402

SLOW = 1.0  # seconds
NAMES = (
    "../../etc/passwd",
    "/etc/shadow",
    "a\0b",
    "<script>alert(1)</script>",
    "x" * 5000,
    "..\\..\\win.ini",
    "\u202egpj.exe",
    "",
)


def parts(content: bytes) -> tuple[dict, bytes]:
    """The header of a safetensors file and what comes after it."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def cut_short(content: bytes, lot: random.Random) -> bytes:
    return content[: lot.randrange(len(content))]


def flipped(content: bytes, lot: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(lot.choice((1, 1, 4, 64))):
        changed[lot.randrange(len(changed))] ^= 1 << lot.randrange(8)
    return bytes(changed)


def flipped_header(content: bytes, lot: random.Random) -> bytes:
    """Where the header is: most flips elsewhere meet a tensor."""
    length = min(len(content), 8 + struct.unpack("<Q", content[:8])[0])
    changed = bytearray(content)
    for _ in range(lot.choice((1, 2, 8))):
        changed[lot.randrange(length)] ^= 1 << lot.randrange(8)
    return bytes(changed)


def huge_header(content: bytes, lot: random.Random) -> bytes:
    if lot.random() < 0.5:
        return struct.pack("<Q", lot.choice((2**63, 2**40, 10**8, len(content)))) + content[8:]
    header, data = parts(content)
    header["__metadata__"]["explorer"] += " " * lot.randrange(10**6, 4 * 10**6)
    return joined(header, data)


def other_shape(content: bytes, lot: random.Random) -> bytes:
    header, data = parts(content)
    name = lot.choice([name for name in header if name != "__metadata__"])
    shape = header[name]["shape"]
    header[name]["shape"] = lot.choice((shape[::-1], [int(np.prod(shape))], [*shape, 1], [2**40, 2**40], [0], []))
    header[name]["dtype"] = lot.choice((header[name]["dtype"], "F64", "I64", "BOOL", "Q7"))
    return joined(header, data)


def not_a_number(content: bytes, lot: random.Random) -> bytes:
    header, data = parts(content)
    spoilt = np.frombuffer(data[: len(data) // 4 * 4], "<f4").copy()
    spoilt[lot.randrange(len(spoilt)) :] = lot.choice((np.nan, np.inf, -1.0))
    return joined(header, spoilt.tobytes() + data[len(spoilt) * 4 :])


def other_words(content: bytes, lot: random.Random) -> bytes:
    """Something else said in the document: numbers beyond bounds, deep nesting, paths, other types."""
    header, data = parts(content)
    document = json.loads(header["__metadata__"]["explorer"])
    key = lot.choice(list(document))
    nest = "[" * 2000 + "]" * 2000
    value = lot.choice((10**30, -1, 1e308, "../../x", None, [], {}, [1] * 10**5, "NEST", True, "\u0000", {"a": "b"}))
    where = lot.choice(("top", "unit", "new"))
    several = next((name for name in ("units", "sites", "layers") if document.get(name)), None)
    if where == "unit" and several:
        one = lot.choice(document[several])
        one[lot.choice(list(one))] = value
    else:
        document[key if where == "top" else "surprise"] = value
    header["__metadata__"]["explorer"] = json.dumps(document).replace('"NEST"', nest)
    return joined(header, data)


def other_format(content: bytes, lot: random.Random) -> bytes:
    return lot.choice(
        (
            b"\x80\x04}\x94\x8c\x04rank\x94]\x94(K\x01K\x02es.",
            b"\x80\x04cos\nsystem\n(S'touch /tmp/pwned'\ntR.",
            b"PK\x03\x04" + content[:500],
            b"",
            b"{}",
            b"\0" * 10_000,
            lot.randbytes(5_000),
            b"<svg onload=alert(1)>",
        )
    )


DAMAGE = (cut_short, flipped, flipped_header, huge_header, other_shape, not_a_number, other_words, other_format)


def through_the_shelf(count: int, folder: Path) -> None:
    """Each file in turn; prints what became of them."""
    sound = [item.path.read_bytes() for item in embedded()]
    library, upload = MaskLibrary(folder / "masks"), folder / "upload.safetensors"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ended, slowest, said, crashed = Counter(), 0.0, Counter(), []
    for number in range(count):
        lot = random.Random(number)
        damage = DAMAGE[number % len(DAMAGE)]
        upload.write_bytes(damage(lot.choice(sound), lot))
        started = time.perf_counter()
        try:
            item = library.add(upload, lot.choice(NAMES), f"visitor {number}")
            library.delete(item.id, f"visitor {number}")
            outcome = "kept, for it is sound after all"
        except ValueError as error:
            outcome = "refused" if "\n" not in str(error).strip() else "refused in several lines"
            said[type(error).__name__] += 1
        except BaseException as error:  # noqa: BLE001 -- that is what is counted
            outcome = "crashed"
            crashed.append(f"{damage.__name__} {number}: {error!r}"[:300])
        seconds = time.perf_counter() - started
        slowest = max(slowest, seconds)
        ended[outcome] += 1
        ended["slower than a second"] += seconds > SLOW
    upload.unlink()
    left = [path for path in folder.rglob("*") if path.is_file()]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{count} files: {dict(ended)}; slowest {slowest:.3f} s; {len(left)} files left; peak {grown:.0f} MB more")
    print("\n".join([*crashed[:10], *map(str, left[:10])]))


def over_http(count: int, folder: Path) -> None:
    """As a browser sends them: the file, then the event of the button."""
    port = free_port()
    settings = {"GRADIO_SERVER_PORT": str(port), "EXPLORER_DATA": str(folder / "data"), "HF_HUB_OFFLINE": "1"}
    settings |= {"EXPLORER_CHANGES_A_MINUTE": "1000000"}
    command = [sys.executable, str(ROOT / "app.py")]
    page = subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sound, ended, slowest = [item.path.read_bytes() for item in embedded()], Counter(), 0.0
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            event = event_of(client)
            for number in range(count):
                lot = random.Random(number)
                content = DAMAGE[number % len(DAMAGE)](lot.choice(sound), lot)
                started = time.perf_counter()
                ended[sent(client, event, lot.choice(NAMES).replace("\0", "") or "a", content)] += 1
                slowest = max(slowest, time.perf_counter() - started)
            ended["page alive"] = int(client.get("/").status_code == 200)
    finally:
        page.terminate()
        page.wait(20)
    known = (folder / "data" / "gradio", folder / "data" / "masks")
    beside = [path for path in folder.rglob("*.safetensors") if not {*known} & {*path.parents}]
    print(f"over HTTP {count} files: {dict(ended)}; slowest {slowest:.3f} s; {len(beside)} written elsewhere")


def event_of(client: httpx.Client) -> int:
    """The number of what the page does when a mask came; waits until the page is there."""
    for _ in range(240):
        try:
            config = client.get("/config").json()
            break
        except httpx.HTTPError:
            time.sleep(0.5)
    button = next(one["id"] for one in config["components"] if one["props"].get("elem_id") == "mask-upload")
    return next(one["id"] for one in config["dependencies"] if [button, "upload"] in one["targets"])


def sent(client: httpx.Client, event: int, name: str, content: bytes) -> str:
    """What became of one file."""
    answer = client.post("/gradio_api/upload", files={"files": (f"{name}.safetensors"[-200:], content)})
    if answer.status_code != 200:
        return f"upload {answer.status_code}"
    file = {"path": answer.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [file, None], "fn_index": event, "session_hash": "bench"}
    answer = client.post("/gradio_api/run/predict", json=body)
    if answer.status_code != 200:
        return f"event {answer.status_code}"
    alert, _ = answer.json()["data"]
    return "refused" if "alert" in str(alert) else "kept"


def main(count: str = "10000", http: str = "200") -> None:
    with tempfile.TemporaryDirectory() as folder:
        through_the_shelf(int(count), Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        over_http(int(http), Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
