"""Schedules that the authors of other methods published, read as ordinary schedules.

- DiP-GO's gates (github.com/haoweiz23/dip-go, src/save/gates): a pickled list of calls, two logits (reuse, keep) each.
- SmoothCache's JSON (github.com/Roblox/SmoothCache): per kind of module, or per module, 1 to compute, 0 to reuse.
- Learning-to-Cache's routers (github.com/horseee/learning-to-cache, DiT/ckpt): a logit per module and call.
- DeepCache's parameters (github.com/horseee/DeepCache, `set_params`), as JSON.

Nothing of a file is run: of the pickle, an unpickler takes three names and no other.
"""

import argparse
import io
import json
import pickle  # noqa: S403 -- of other people's files, for `_GatesUnpickler` alone
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from explorer.errors import format_error
from explorer.masks.file_format import PrunerRecord
from explorer.masks.schedule import MAX_CALLS, Schedule, new_header
from explorer.models.model import Model
from explorer.pruners import BY_ITS_AUTHORS
from explorer.pruners.baselines import branch_of_package, deepcache_row
from explorer.pruners.schedule_configs import UniformConfig

MAX_BYTES = 64 * 2**20
ROUTER_THRESHOLD = 0.1  # of the sigmoid, below which Learning-to-Cache reuses: its sampling script's
KINDS = {"attn": "attn1", "attn1": "attn1", "mlp": "ff", "ff": "ff"}  # SmoothCache's names -> diffusers'


class Published(NamedTuple):
    """What a file says: who made it, in which units, and what is kept, bool (T, units)."""

    method: str
    granularity: Literal["stage", "layer", "module"]
    keep: np.ndarray


def read_published(file: Path, model: Model, steps: int = 50) -> Schedule:
    """Read a published schedule for a model; `steps` is for DeepCache's parameters, which are for any number.

    Raises ValueError, in one sentence, for any other file, and for one of another model.
    """
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"{file} has {size >> 20} MB; a schedule has less than {MAX_BYTES >> 20}")
        head = file.read_bytes()[:2]
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    if file.suffix == ".json":
        document = _read_json(file)
        of_deepcache = "cache_interval" in document
        found = _deepcache(file, document, model, steps) if of_deepcache else _smoothcache(file, document, model)
    else:
        found = (_routers if head == b"PK" else _dipgo_gates)(file, model)
    if len(found.keep) > MAX_CALLS:
        raise ValueError(f"{file} has {len(found.keep):,} calls; a schedule has at most {MAX_CALLS:,}")
    config = UniformConfig(steps=len(found.keep), granularity=found.granularity, order=0)
    graph = model.graph(found.granularity)
    if found.keep.shape[1] != len(graph.units) or not found.keep[0].all():
        units, own = found.keep.shape[1], len(graph.units)
        what = f"{units} units, and {model.id} has {own}" if units != own else "a first call that is not whole"
        raise ValueError(f"{file} has {what}; it was made for another model")
    pruner = PrunerRecord(name=found.method + BY_ITS_AUTHORS, config={"file": file.name})
    header = new_header(model.record, graph, config, pruner, len(found.keep))
    return Schedule(header, graph.close(found.keep)).with_reached_ratio(None)


# -- DiP-GO


def _dipgo_gates(file: Path, model: Model) -> Published:
    try:
        with file.open("rb") as opened:
            calls = _GatesUnpickler(opened).load()
        rows = [[float(logits[1]) > float(logits[0]) for logits in _in_running_order(call)] for call in calls]
    except ValueError:
        raise
    except Exception as error:  # whatever a damaged pickle leads to
        raise ValueError(f"{file} holds no gates of DiP-GO: {_first_line(error)}") from error
    return Published("dipgo", "stage", _rectangle(file, rows))


def _in_running_order(call: Mapping[Any, Any]) -> list[Any]:
    """Sort one call's gates: down blocks, the middle, up blocks, which they number from the outermost."""
    position = {"down": 0, "mid": 1, "up": 2}
    order = sorted(call, key=lambda key: (position[key[0]], -int(key[2]) if key[0] == "up" else int(key[2])))
    return [call[key] for key in order]


class _GatesUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        import torch

        known = {
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
            ("torch.storage", "_load_from_bytes"): _load_storage,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) not in known:
            raise ValueError(f"the file asks for {module}.{name}, which gates do not need; it is not read")
        return known[module, name]


def _load_storage(content: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


# -- JSON: DeepCache, and SmoothCache for DiT


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} holds no JSON: {_first_line(error)}") from error
    if not isinstance(document, dict) or not document:
        raise ValueError(f"{file} holds neither a schedule of SmoothCache nor parameters of DeepCache")
    return document


class _DeepCacheParams(BaseModel):
    """What DeepCache's `set_params` takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    cache_interval: int = Field(ge=1, le=1000)
    cache_branch_id: int = Field(0, ge=0, le=1000)
    skip_mode: Literal["uniform"] = "uniform"  # the only one that their code has


def _deepcache(file: Path, document: Mapping[str, Any], model: Model, steps: int) -> Published:
    try:
        params, graph = _DeepCacheParams.model_validate(document), model.graph("layer")
        branch = branch_of_package(graph, params.cache_branch_id)
        row = deepcache_row(graph, branch)
    except ValueError as error:
        raise ValueError(f"{file} holds no parameters of DeepCache for {model.id}: {format_error(error)}") from error
    keep = np.where(np.arange(steps)[:, None] % params.cache_interval == 0, True, row)
    return Published("deepcache", "layer", keep)


def _smoothcache(file: Path, document: Mapping[str, Any], model: Model) -> Published:
    """Read a row for each module, or for all of a kind; modules that have none are computed at every call."""
    if not all(name.startswith("transformer_blocks.") for name in model.graph("module").names):
        raise ValueError(f"{file} is for a transformer whose blocks have one stream, which {model.id} is not")
    try:
        rows = {str(name): [bool(one) for one in row] for name, row in document.items() if set(row) <= {0, 1}}
        names = [_smoothcache_name(unit, rows) for unit in model.graph("module").names]
        calls = len(next(iter(rows.values())))
    except (TypeError, IndexError, StopIteration) as error:
        raise ValueError(f"{file} is no schedule of SmoothCache: {_first_line(error)}") from error
    if len(rows) != len(document) or not rows.keys() <= {*names}:
        strange = next(iter((document.keys() - rows.keys()) | (rows.keys() - {*names})))
        raise ValueError(f"{file} has a row {strange[:60]!r} that fits no module of {model.id}, or is not of 0 and 1")
    columns = [rows[name] if name else [True] * calls for name in names]
    return Published("smoothcache", "module", _rectangle(file, columns).T)


def _smoothcache_name(unit: str, rows: Mapping[str, Any]) -> str:
    """Find the row of a unit: its own, or that of all modules of its kind; empty for none."""
    block, part = unit.split(".")[1], unit.rsplit(".", 1)[1]
    names = [name for name, kind in KINDS.items() if kind == part]
    return next((name for name in (*(f"{one}-{block}" for one in names), *names) if name in rows), "")


# -- Learning-to-Cache


def _routers(file: Path, model: Model) -> Published:
    """Read routers, one for each second call, the last call's first, attention and feed-forward of each block."""
    import torch

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # their settings, which are not used
            routers = torch.load(file, map_location="cpu", weights_only=True)["routers"]
        rows = [
            routers[f"{index}.prob"].detach().sigmoid() > ROUTER_THRESHOLD for index in reversed(range(len(routers)))
        ]
        keep = _rectangle(file, [row.tolist() for row in rows])
    except ValueError:
        raise
    except Exception as error:  # whatever torch raises, the file is not what it should be
        raise ValueError(f"{file} holds no routers of Learning-to-Cache: {_first_line(error)}") from error
    keep[::2] = True
    return Published("learning-to-cache", "module", keep)


def _rectangle(file: Path, rows: Sequence[Sequence[bool]]) -> np.ndarray:
    if not rows or len({len(row) for row in rows}) != 1 or not len(rows[0]):
        raise ValueError(f"{file} has rows of different lengths, or none")
    return np.array(rows, dtype=bool)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
