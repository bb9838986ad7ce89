"""The models there are, and loading them: rows of the catalogue, what an operator adds, or any diffusers pipeline.

Importing it loads no torch; loading a model does.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from explorer.models import hub, pipeline_files
from explorer.models.flow_adapters import FlowAdapter
from explorer.models.memory import BYTES, check_fits, count_parameters
from explorer.models.model import Model
from explorer.models.pipeline_files import read_json
from explorer.settings import settings

ASSETS = Path(__file__).resolve().parent.parent.parent / "assets"
ROWS = Path(__file__).with_name("catalogue.json")
EMBEDDED_LICENSE = "apache-2.0"
EMBEDDED = ("emoji-unet", "emoji-dit", "emoji-flux", "emoji-flux-turbo", "emoji-ddpm")
RUN = ("sampler", "steps", "guidance")  # what `own_run` says
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@lru_cache
def _rows() -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_json(ROWS)}


_added: dict[str, dict[str, Any]] = {}  # the rows of `add`


def list_models() -> list[dict[str, Any]]:
    """List the catalogue and the models that were added to it, as the command `models` prints them. Needs no torch.

    `gated`: the hub asks for a login and for consent to the license. `dtype`: what the weights are best loaded in;
    `weights_gb`: what they take then, with text encoders and VAE, in 10^9 bytes. `run`: sampler, steps and guidance
    that the model was made for, None where any will do.
    """
    rows = [
        {key: row.get(key) for key in ("id", "pipeline", "params", "macs_per_call")}
        | {"denoiser": row["denoiser"]["_class_name"], "embedded": row["id"] in EMBEDDED}
        | {"license": row.get("license", EMBEDDED_LICENSE), "gated": row.get("gated", False)}
        | {"dtype": (dtype := row.get("dtype", "float32")), "run": own_run(row["id"]) or None}
        | {"weights_gb": round((row["params"] + row["other_params"]) * BYTES[dtype] / 1e9, 3)}
        | {"available": (path := _path_of(row)) is not None, "path": path and str(path)}
        for row in _rows().values()
    ]
    return [*rows, *_added.values()]


def available_models() -> list[str]:
    """List the ids of the models whose weights are on this machine."""
    return [row["id"] for row in list_models() if row["available"]]


def own_run(model_id: str) -> dict[str, Any]:
    """Read the sampler, steps and guidance that a listed model was made for; empty where any will do."""
    row = _rows().get(model_id) or _added.get(model_id, {})
    return dict(row.get("run") or {})


def describe(source: str) -> dict[str, Any]:
    """Fetch a model that an operator names (EXPLORER_MODELS) and make its row of `list_models`; loads no weights.

    Raises ValueError, in one sentence, as `load` does, and for a name that another model has.
    """
    path, model = _fetch(source), load(source, weights=False)
    if model.id in _rows() and not _row_of(source):
        raise ValueError(f"{source} has the name of a model of the catalogue, {model.id}; rename the folder")
    check_fits(model.id, path, "float32", default_device())  # as the page loads it
    architecture = model.architecture()
    return {
        "id": model.id,
        "pipeline": model.pipeline,
        "params": architecture.params,
        "macs_per_call": architecture.graph.macs_per_call,
        "denoiser": type(model.denoiser).__name__,
        "embedded": model.id in EMBEDDED,
        "license": None,
        "gated": False,
        "dtype": "float32",
        "run": {"sampler": "euler"} if isinstance(model.adapter, FlowAdapter) else None,
        "weights_gb": round(count_parameters(path) * BYTES["float32"] / 1e9, 3),
        "available": True,
        "path": str(path),
    }


def add(row: dict[str, Any]) -> None:
    """Have `list_models` list a row of `describe`, in this process. Raises ValueError for a name that another has."""
    if row["id"] in _rows():  # it was fetched, and that is all
        return
    if _added.setdefault(row["id"], row)["path"] != row["path"]:
        raise ValueError(f"{row['path']} and {_added[row['id']]['path']} have one name; rename one of the folders")


def measure() -> None:
    """Fill in the catalogue's parameters and MACs from the architectures, about ten seconds."""
    rows = []
    for row in _rows().values():
        architecture = load(row["id"], weights=False).architecture()
        params, path = architecture.params, _path_of(row)
        others = count_parameters(path) - params if row["id"] in EMBEDDED and path else row["other_params"]
        counts = {"other_params": others, "params": params, "macs_per_call": architecture.graph.macs_per_call}
        rows.append(row | counts)
    ROWS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _path_of(row: Mapping[str, Any], variant: str = "") -> Path | None:
    """Find where the weights are on this machine, if they are."""
    if row["id"] in EMBEDDED:
        folder = embedded_folder(row["id"])
        return folder if (folder / "model_index.json").is_file() and (ASSETS / row["id"]).is_dir() else None
    return hub.path_in_cache(row["repo"], row["revision"], variant=variant)


def id_of_pipeline(pipe: Any) -> str | None:
    """Find the id under which `load` knows the model of a diffusers pipeline; None where it was not loaded."""
    source = str(pipe.config.get("_name_or_path") or "")
    if cached := re.search(r"models--(.+?)--(.+?)[/\\]snapshots", source):  # the hub's cache
        source = "/".join(cached.groups())
    row = _row_of(source)
    return row["id"] if row else _id_of_source(source) if source else None


def _id_of_source(source: str) -> str:
    """Name the model of a folder, or of a repository of the hub, owner/name."""
    name = source if HUB_ID.fullmatch(source) and not Path(source).exists() else Path(source).resolve().name
    return re.sub(r"[^\w.-]", "-", name.removesuffix(".safetensors"))


def vocabulary(model_id: str) -> dict[str, Any]:
    """Read what an embedded model was taught: its `names`, and all `words` of its captions. Empty for other models."""
    return _read_vocabulary(model_id) if model_id in EMBEDDED else {}


@lru_cache
def _read_vocabulary(model_id: str) -> dict[str, Any]:
    file = embedded_folder(model_id) / "names.json"
    return read_json(file) if file.is_file() else {}


_device_override = ""


def override_device(device: str) -> None:
    """Have this process compute on `device`, whatever EXPLORER_DEVICE says; empty: no longer."""
    global _device_override
    _device_override = device


def default_device() -> str:
    """Choose where this process computes: what EXPLORER_DEVICE says, else a GPU where PyTorch finds one."""
    if chosen := _device_override or settings().device:
        return chosen
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load(
    id_or_path: str | Path,
    weights: bool = True,
    device: str = "cpu",
    dtype: str = "float32",
    variant: str = "",
    offload: bool = False,
) -> Model:
    """Load a model of the catalogue, one that an operator added (EXPLORER_MODELS), or a known diffusers pipeline: a
    folder, a checkpoint in one .safetensors file, or a repository of the hub (owner/name).

    dtype: `auto` is the type that the weights are stored in, but on a CPU float32 in place of float16. variant: of the
    weights, such as fp16; default: the usual ones, or the only ones. offload: a part of the pipeline is on `device`
    only while it computes, else in main memory; needs accelerate. What is not on this machine is downloaded. Without
    `weights` only the architecture is built, on the meta device.
    Raises ValueError, in one sentence, for an unknown name, an unknown kind of pipeline, weights that are not here, or
    more of them than memory is free.
    """
    name = _source_of(str(id_or_path))
    row = _row_of(name)
    if row and row["id"] not in EMBEDDED and not weights:
        described = (row["pipeline"], row["denoiser"], row["scheduler"], row["text_length"])
        return pipeline_files.build_architecture(row["id"], *described)
    path = _fetch(name, variant)
    given = (path, row["id"] if row else _id_of_source(name), weights, device, dtype, variant, offload)
    if path.is_file():
        return pipeline_files.load_single_file(*given)
    return pipeline_files.load_folder(*given, lora=_lora_of(row))


def _fetch(name: str, variant: str = "") -> Path:
    """Find the folder or file of what `load` takes, downloaded if need be. Raises ValueError where there is none."""
    path = Path(name)
    if row := _row_of(name):
        return _path_of(row, variant) or _download(row, variant)
    if pipeline_files.is_pipeline(path) or pipeline_files.is_single_file(path):
        return path
    if HUB_ID.fullmatch(name):
        return hub.path_in_cache(name, variant=variant) or hub.download(name, variant=variant)
    raise ValueError(
        f"{name!r} is neither a model of the catalogue ({', '.join(_rows())}) nor a pipeline's folder or file, "
        "nor the name of a repository, owner/name"
    )


def _source_of(name: str) -> str:
    """Find the folder or repository of a model that an operator added, by its id; else return the name."""
    sources = [source for source in settings().models if not _row_of(source)]
    return next((source for source in sources if _id_of_source(source) == name), name)


def find_id(name: str) -> str | None:
    """Find the id of the model of the catalogue that has this id or this name on the hub; None where it lists none."""
    row = _row_of(name)
    return row["id"] if row else None


def typical_row(denoiser: str) -> Mapping[str, Any]:
    """Find the first model of the hub that has this class of denoiser: its pipeline, scheduler and text length.

    Raises ValueError where the catalogue lists none.
    """
    for row in _rows().values():
        if row["denoiser"]["_class_name"] == denoiser and "scheduler" in row:
            return row
    raise ValueError(f"no model of the catalogue has a {denoiser}")


def _row_of(name: str) -> Mapping[str, Any] | None:
    return _rows().get(name) or next((row for row in _rows().values() if row.get("repo") == name), None)


def _download(row: Mapping[str, Any], variant: str) -> Path:
    if row["id"] in EMBEDDED:
        raise ValueError(
            f"{row['id']} is one of the embedded models, which are in the project's folder assets/; it is not here"
        )
    try:
        return hub.download(row["repo"], row["revision"], f"{row['id']} ({row['repo']})", variant=variant)
    except ValueError as error:
        rest = "its units, MACs, parameters and schedules still work: see the command cost"
        raise ValueError(f"{error}; {rest}") from error


def embedded_folder(id: str) -> Path:
    """Name the folder of an embedded model's pipeline: its own, or that of the model that it is LoRA of."""
    return ASSETS / _rows()[id].get("lora_of", id)


def _lora_of(row: Mapping[str, Any] | None) -> Path | None:
    return ASSETS / row["id"] if row and "lora_of" in row else None


def weights_revision(id: str) -> str | None:
    """Name the weights of an embedded model, without loading them; None where they are not here."""
    for part in embedded_folder(id).glob("*/diffusion_pytorch_model*.safetensors"):
        if part.parent.name != "vae":
            return pipeline_files.fingerprint(part.parent, *filter(None, [_lora_of(_row_of(id))]))
    return None
