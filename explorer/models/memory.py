"""How much memory a model needs, by the headers of its weights, and how much this machine has. Loads no torch."""

from collections import Counter
from math import prod
from pathlib import Path

import psutil
from safetensors import SafetensorError, safe_open

from explorer.models import hub

CGROUP = Path("/sys/fs/cgroup")  # of a container
STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # as safetensors names them
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}  # of a parameter


def machine_memory() -> int:
    """Count the bytes of memory that this machine, or this container, has."""
    return min(psutil.virtual_memory().total, _of_container("memory.max") or 2**63)


def run_memory() -> int:
    """Count the bytes of memory that one job may use on this machine: three quarters of what it has."""
    return machine_memory() * 3 // 4


def free_memory() -> int:
    """Count the bytes of memory that a new process may still use. A container's use includes files that were read, such
    as weights that were just downloaded; they give way."""
    free, limit, used = psutil.virtual_memory().available, _of_container("memory.max"), _of_container("memory.current")
    return free if limit is None or used is None else min(free, max(limit - used + _cached_files(), 0))


def _cached_files() -> int:
    try:
        rows = [line.split() for line in (CGROUP / "memory.stat").read_text().splitlines()]
    except OSError:
        return 0
    return sum(int(count) for name, count in rows if name in ("active_file", "inactive_file"))


def _of_container(name: str) -> int | None:
    try:
        text = (CGROUP / name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max": no limit


def count_parameters(source: Path, variant: str = "") -> int:
    """Count the parameters of a diffusers pipeline, a folder or one file, in the weights that would be loaded."""
    return sum(_parts(source, variant).values())


def _parts(source: Path, variant: str) -> Counter[Path]:
    """Count the parameters of each part of a pipeline; of one file, which holds all parts, together."""
    files = [source]
    if source.is_dir():
        folders = {file.parent for file in source.glob("*/*.safetensors") if file.parent.name not in hub.NOT_LOADED}
        sets = {part: hub.one_set([file.name for file in part.iterdir()], variant) for part in folders}
        files = [part / name for part, names in sets.items() for name in names]
    counts: Counter[Path] = Counter()
    for file in files:
        counts[file.parent] += sum(prod(shape) for _, shape in _tensors(file))
    return counts


def _tensors(file: Path) -> list[tuple[str, list[int]]]:
    """Read types and shapes of the tensors in a safetensors file; none where it is damaged, as loading it will say."""
    try:
        with safe_open(file, framework="numpy") as opened:
            slices = [opened.get_slice(name) for name in opened.keys()]  # noqa: SIM118 -- it is no dictionary
            return [(one.get_dtype(), one.get_shape()) for one in slices]
    except (OSError, SafetensorError):
        return []


def stored_dtype(source: Path, device: str, variant: str = "") -> str:
    """Name the type in which most numbers of a network's folder, or of a file, are stored; float32 in place of float16
    on a CPU, which is slow in it or cannot do it."""
    names = [] if not source.is_dir() else hub.one_set([file.name for file in source.iterdir()], variant)
    counts: Counter[str] = Counter()
    for file in [source / name for name in names] or [source]:
        for dtype, shape in _tensors(file):
            counts[dtype] += prod(shape)
    found = STORED.get(max(counts, key=counts.__getitem__, default=""), "float32")
    return "float32" if found == "float16" and device == "cpu" else found


def check_fits(title: str, source: Path, dtype: str, device: str, variant: str = "", offload: bool = False) -> None:
    """Raise ValueError, in one sentence, where a pipeline's weights are larger than the memory that is free, and for an
    unknown dtype. With `offload` main memory holds all of them, and the device one part at a time."""
    if dtype not in BYTES:
        raise ValueError(f"dtype {dtype!r} is unknown; choose {', '.join(BYTES)} or auto")
    parts = _parts(source, variant)
    whole, largest, size = sum(parts.values()), max(parts.values(), default=0), BYTES[dtype]
    for count, place in ((whole, "cpu"), (largest, device)) if offload else ((whole, device),):
        free = _free_on(place)
        if count * size <= free:
            continue
        others = [f"dtype {name}" for name, bytes in BYTES.items() if bytes < size and count * bytes <= free]
        if not offload and device.startswith("cuda") and largest * size <= free and whole * size <= free_memory():
            others.append("offload")
        smaller = f"; with {' or '.join(others)} it would fit" if others else ""
        what = title if count == whole else f"the largest part of {title}"
        raise ValueError(
            f"{what} has {count / 1e6:,.0f} million parameters, which need {count * size / 1e9:.1f} GB in {dtype}, and "
            f"{free / 1e9:.1f} GB are free on {place}{smaller}; its units, MACs, parameters and schedules still work "
            "without its weights: see the command cost"
        )


def _free_on(device: str) -> int:
    if not device.startswith("cuda"):
        return free_memory()
    import torch

    return torch.cuda.mem_get_info(device)[0]
