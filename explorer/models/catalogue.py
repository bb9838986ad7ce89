"""The models there are, and loading them: rows of the catalogue by id, or any folder of a diffusers pipeline.

Importing it loads no torch; loading a model does.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from explorer.models import hub
from explorer.models.model import Model
from explorer.models.pipelines import PIPELINES
from explorer.settings import settings

ASSETS = Path(__file__).resolve().parent.parent.parent / "assets"
ROWS = Path(__file__).with_name("catalogue.json")
EMBEDDED = ("emoji-unet", "emoji-dit", "emoji-ddpm")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
MAX_TEXT_LENGTH = 100_000  # transformers writes 1e30 where there is no limit


@lru_cache
def _rows() -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in _read_json(ROWS)}


def list_models() -> list[dict[str, Any]]:
    """List the catalogue, as the command `models` prints it. Needs no torch."""
    keys = ("id", "pipeline", "params", "macs_per_call")
    return [
        {key: row.get(key) for key in keys}
        | {"denoiser": row["denoiser"]["_class_name"], "embedded": row["id"] in EMBEDDED}
        | {"available": (path := _path_of(row)) is not None, "path": path and str(path)}
        for row in _rows().values()
    ]


def available_models() -> list[str]:
    """List the ids of the models whose weights are on this machine."""
    return [row["id"] for row in list_models() if row["available"]]


def measure() -> None:
    """Fill in the catalogue's parameters and MACs from the architectures, about ten seconds."""
    rows = []
    for row in _rows().values():
        architecture = load(row["id"], weights=False).architecture()
        rows.append(row | {"params": architecture.params, "macs_per_call": architecture.graph.macs_per_call})
    ROWS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _path_of(row: Mapping[str, Any]) -> Path | None:
    """Find where the weights are on this machine, if they are."""
    if row["id"] in EMBEDDED:
        return ASSETS / row["id"] if (ASSETS / row["id"] / "model_index.json").is_file() else None
    return hub.path_in_cache(row["repo"], row["revision"])


def id_of_pipeline(pipe: Any) -> str | None:
    """Find the id under which `load` knows the model of a diffusers pipeline; None where it was not loaded."""
    source = str(pipe.config.get("_name_or_path") or "")
    if cached := re.search(r"models--(.+?)--(.+?)[/\\]snapshots", source):  # the hub's cache
        source = "/".join(cached.groups())
    row = next((row for row in _rows().values() if row.get("repo") == source), None)
    return row["id"] if row else _id_of_source(source) if source else None


def _id_of_source(source: str) -> str:
    """Name the model of a folder, or of a repository of the hub, owner/name."""
    name = source if HUB_ID.fullmatch(source) and not Path(source).exists() else Path(source).resolve().name
    return re.sub(r"[^\w.-]", "-", name)


def vocabulary(model_id: str) -> dict[str, Any]:
    """Read what an embedded model was taught: its `names`, and all `words` of its captions. Empty for other models."""
    return _read_vocabulary(model_id) if model_id in EMBEDDED else {}


@lru_cache
def _read_vocabulary(model_id: str) -> dict[str, Any]:
    file = ASSETS / model_id / "names.json"
    return _read_json(file) if file.is_file() else {}


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


def load(id_or_path: str | Path, weights: bool = True, device: str = "cpu", dtype: str = "float32") -> Model:
    """Load a model of the catalogue, or a folder or hub repository (owner/name) that holds a known diffusers pipeline.

    What is not on this machine is downloaded. Without `weights` only the architecture is built, on the meta device.
    Raises ValueError, in one sentence, for an unknown name, an unknown kind of pipeline, or weights that are not here.
    """
    name = str(id_or_path)
    row = _rows().get(name) or next((row for row in _rows().values() if row.get("repo") == name), None)
    if row is None:
        if _is_pipeline(Path(id_or_path)):
            return _load_folder(Path(id_or_path), None, weights, device, dtype)
        if HUB_ID.fullmatch(name):
            folder = hub.path_in_cache(name) or hub.download(name)
            return _load_folder(folder, _id_of_source(name), weights, device, dtype)
        raise ValueError(
            f"{name!r} is neither a model of the catalogue ({', '.join(_rows())}) nor a pipeline's folder, "
            "nor the name of a repository, owner/name"
        )
    if not weights and row["id"] not in EMBEDDED:
        return _build_architecture(row["id"], row["pipeline"], row["denoiser"], row["scheduler"], row["text_length"])
    return _load_folder(_path_of(row) or _download(row), row["id"], weights, device, dtype)


def _is_pipeline(folder: Path) -> bool:
    try:
        return (folder / "model_index.json").is_file()
    except OSError:  # a name that no file can have
        return False


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _build_architecture(id: str, pipeline: str, config: dict, scheduler_config: dict, text_length: int) -> Model:
    import diffusers

    from explorer.execution.macs import build_on_meta

    denoiser = build_on_meta(getattr(diffusers, config["_class_name"]), config)
    return Model(id, pipeline, denoiser, scheduler_config, text_length)


def _download(row: Mapping[str, Any]) -> Path:
    if row["id"] in EMBEDDED:
        raise ValueError(
            f"{row['id']} is one of the embedded models, which are in the project's folder assets/; it is not here"
        )
    try:
        return hub.download(row["repo"], row["revision"], f"{row['id']} ({row['repo']})")
    except ValueError as error:
        rest = "its units, MACs, parameters and schedules still work: see the command cost"
        raise ValueError(f"{error}; {rest}") from error


def _load_folder(folder: Path, id: str | None, weights: bool, device: str, dtype: str) -> Model:
    pipeline = _pipeline_class(folder)
    id = id or _id_of_source(str(folder))
    part = folder / PIPELINES[pipeline].denoiser
    if not weights:
        config, scheduler = _read_json(part / "config.json"), _read_json(folder / "scheduler" / "scheduler_config.json")
        return _build_architecture(id, pipeline, config, scheduler, _text_length(folder))
    pipe = _load_pipeline(folder, pipeline, device, dtype)
    denoiser = getattr(pipe, PIPELINES[pipeline].denoiser)
    model = Model(id, pipeline, denoiser, dict(pipe.scheduler.config), _text_length(folder), pipe)
    model.revision = _fingerprint(part)
    return model


def _pipeline_class(folder: Path) -> str:
    """Read which pipeline a folder holds; with code of its own, the class stands after the file.

    Raises ValueError for one that is not known.
    """
    index = _read_json(folder / "model_index.json")
    pipeline = index.get("_class_name") if isinstance(index, dict) else None
    pipeline = pipeline[-1] if isinstance(pipeline, list) and pipeline else pipeline
    if pipeline not in list(PIPELINES):
        raise ValueError(f"{folder} holds a {pipeline}; known pipelines are {', '.join(PIPELINES)}")
    return str(pipeline)


def _text_length(folder: Path) -> int:
    """Read how many tokens a prompt has; where the tokenizer does not say, as many as its text encoder takes."""
    config, encoder = folder / "tokenizer" / "tokenizer_config.json", folder / "text_encoder" / "config.json"
    if not config.is_file():
        return 0
    length = _read_json(config).get("model_max_length")
    if not isinstance(length, int) or length > MAX_TEXT_LENGTH:
        length = _read_json(encoder).get("max_position_embeddings", 77) if encoder.is_file() else 77
    return int(length)


def _load_pipeline(folder: Path, pipeline: str, device: str, dtype: str) -> Any:
    import diffusers
    import torch

    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"dtype {dtype!r} is unknown; choose float32, float16 or bfloat16")
    diffusers.utils.logging.set_verbosity_error()  # it advises to install what is not needed here
    diffusers.utils.logging.disable_progress_bar()
    options = PIPELINES[pipeline].load_options | {"variant": hub.only_variant(folder / PIPELINES[pipeline].denoiser)}
    try:
        pipe = getattr(diffusers, pipeline).from_pretrained(
            str(folder), torch_dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True, **options
        )
        pipe.to(device)
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{folder} does not load as a {pipeline}: {str(error).splitlines()[0]}") from error
    if (tokenizer := getattr(pipe, "tokenizer", None)) and tokenizer.model_max_length > MAX_TEXT_LENGTH:
        tokenizer.model_max_length = _text_length(folder)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe


def weights_revision(id: str) -> str | None:
    """Name the weights of an embedded model, without loading them; None where they are not here."""
    for part in (ASSETS / id).glob("*/diffusion_pytorch_model*.safetensors"):
        if part.parent.name != "vae":
            return _fingerprint(part.parent)
    return None


def _fingerprint(folder: Path) -> str:
    """Name the weights: the first digits of the SHA-256 over the files of the denoiser."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
