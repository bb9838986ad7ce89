"""Fuzz test of uploads: ten thousand damaged mask files; which crash the reader, hang it, are kept, or write elsewhere?

    python tests/bench/fuzz_uploads.py [files] [files over HTTP]

Valid files of every kind are truncated, or get flipped bits, huge headers, wrong shapes, NaN, invalid fields, hostile
names and other formats. Each goes to the mask library as the page's upload handler passes it on, and some go through a
page of their own, as a browser sends them.
"""

import json
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import httpx
import numpy as np

from explorer.jobs.mask_library import MaskLibrary, bundled_entries
from explorer.ui.auth import TOKEN_HEADER
from tests.page_fixtures import free_port, serve

SLOW_S = 1.0
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


def split_file(content: bytes) -> tuple[dict, bytes]:
    """Split a safetensors file into its header and its data."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join_file(header: dict, data: bytes) -> bytes:
    """Make a safetensors file of a header and data."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 4, 64))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_header_bits(content: bytes, rng: random.Random) -> bytes:
    """Flip bits of the header alone: most other flips change a tensor."""
    length = min(len(content), 8 + struct.unpack("<Q", content[:8])[0])
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 8))):
        changed[rng.randrange(length)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def enlarge_header(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return struct.pack("<Q", rng.choice((2**63, 2**40, 10**8, len(content)))) + content[8:]
    header, data = split_file(content)
    header["__metadata__"]["explorer"] += " " * rng.randrange(10**6, 4 * 10**6)
    return join_file(header, data)


def change_shape(content: bytes, rng: random.Random) -> bytes:
    header, data = split_file(content)
    name = rng.choice([name for name in header if name != "__metadata__"])
    shape = header[name]["shape"]
    header[name]["shape"] = rng.choice((shape[::-1], [int(np.prod(shape))], [*shape, 1], [2**40, 2**40], [0], []))
    header[name]["dtype"] = rng.choice((header[name]["dtype"], "F64", "I64", "BOOL", "Q7"))
    return join_file(header, data)


def insert_nan(content: bytes, rng: random.Random) -> bytes:
    header, data = split_file(content)
    values = np.frombuffer(data[: len(data) // 4 * 4], "<f4").copy()
    values[rng.randrange(len(values)) :] = rng.choice((np.nan, np.inf, -1.0))
    return join_file(header, values.tobytes() + data[len(values) * 4 :])


def change_fields(content: bytes, rng: random.Random) -> bytes:
    """Put invalid values into the document: numbers out of range, deep nesting, paths, other types."""
    header, data = split_file(content)
    document = json.loads(header["__metadata__"]["explorer"])
    key = rng.choice(list(document))
    nested = "[" * 2000 + "]" * 2000
    value = rng.choice((10**30, -1, 1e308, "../../x", None, [], {}, [1] * 10**5, "NEST", True, "\u0000", {"a": "b"}))
    place = rng.choice(("top", "record", "new"))
    lists = ("units", "dims", "sites", "layers")  # "sites" are the dimensions of a file of format 1
    name = next((name for name in lists if document.get(name)), None)
    if place == "record" and name:
        record = rng.choice(document[name])
        record[rng.choice(list(record))] = value
    else:
        document[key if place == "top" else "unknown"] = value
    header["__metadata__"]["explorer"] = json.dumps(document).replace('"NEST"', nested)
    return join_file(header, data)


def replace_format(content: bytes, rng: random.Random) -> bytes:
    return rng.choice(
        (
            b"\x80\x04}\x94\x8c\x04rank\x94]\x94(K\x01K\x02es.",
            b"\x80\x04cos\nsystem\n(S'touch /tmp/pwned'\ntR.",
            b"PK\x03\x04" + content[:500],
            b"",
            b"{}",
            b"\0" * 10_000,
            rng.randbytes(5_000),
            b"<svg onload=alert(1)>",
        )
    )


DAMAGES = (
    truncate,
    flip_bits,
    flip_header_bits,
    enlarge_header,
    change_shape,
    insert_nan,
    change_fields,
    replace_format,
)


def valid_files() -> list[bytes]:
    return [entry.path.read_bytes() for entry in bundled_entries()]


def fuzz_library(count: int, folder: Path) -> None:
    """Give each file to the mask library, and print how many were refused, kept or crashed it."""
    valid, library, upload = valid_files(), MaskLibrary(folder / "masks"), folder / "upload.safetensors"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes, slowest, num_slow, crashes = Counter(), 0.0, 0, []
    for number in range(count):
        rng = random.Random(number)
        damage = DAMAGES[number % len(DAMAGES)]
        upload.write_bytes(damage(rng.choice(valid), rng))
        started = time.perf_counter()
        try:
            entry = library.add(upload, rng.choice(NAMES), f"visitor {number}")
            library.delete(entry.id, f"visitor {number}")
            outcome = "kept, because still valid"
        except ValueError as error:
            outcome = "refused" if "\n" not in str(error).strip() else "refused in several lines"
        except BaseException as error:  # noqa: BLE001 -- crashes are what is counted
            outcome = "crashed"
            crashes.append(f"{damage.__name__} {number}: {error!r}"[:300])
        seconds = time.perf_counter() - started
        slowest, num_slow = max(slowest, seconds), num_slow + (seconds > SLOW_S)
        outcomes[outcome] += 1
    upload.unlink()
    left = [path for path in folder.rglob("*") if path.is_file()]
    peak_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{count} files: {dict(outcomes)}; {num_slow} slower than {SLOW_S:g} s, slowest {slowest:.3f} s; "
        f"{len(left)} files left; peak memory {peak_mb:.0f} MB higher"
    )
    print("\n".join([*crashes[:10], *map(str, left[:10])]))


def fuzz_page(count: int, folder: Path) -> None:
    """Upload each file over HTTP, as a browser does."""
    settings = {"GRADIO_SERVER_PORT": str(free_port()), "EXPLORER_DATA": str(folder / "data"), "HF_HUB_OFFLINE": "1"}
    settings |= {"EXPLORER_RATE_LIMIT_PER_MINUTE": "1000000"}
    valid, outcomes, slowest = valid_files(), Counter(), 0.0
    with serve(folder, **settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        for number in range(count):
            rng = random.Random(number)
            content = DAMAGES[number % len(DAMAGES)](rng.choice(valid), rng)
            started = time.perf_counter()
            outcomes[upload_file(client, rng.choice(NAMES).replace("\0", "") or "a", content)] += 1
            slowest = max(slowest, time.perf_counter() - started)
        is_alive = client.get("/").status_code == 200
    elsewhere = [path for path in folder.rglob("*.safetensors") if folder / "data" / "masks" not in path.parents]
    print(
        f"{count} files over HTTP: {dict(outcomes)}; slowest {slowest:.3f} s; {len(elsewhere)} written elsewhere; "
        f"the page {'still answers' if is_alive else 'NO LONGER answers'}"
    )


def upload_file(client: httpx.Client, name: str, content: bytes) -> str:
    """Upload one file; returns "kept", "refused", or the status of what is neither."""
    response = client.post("/explorer/upload", params={"name": name}, content=content, headers={TOKEN_HEADER: "0" * 32})
    if response.status_code not in (200, 400):
        return f"status {response.status_code}"
    return "kept" if "id" in response.json() else "refused"


def main(count: str = "10000", over_http: str = "200") -> None:
    with tempfile.TemporaryDirectory() as folder:
        fuzz_library(int(count), Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        fuzz_page(int(over_http), Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
