"""The models there are, and loading them: rows of the catalogue by id, or anybody's folder.

Importing it loads no torch; asking for a model does.
"""

import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from explorer.model import FAMILIES, Model

ASSETS = Path(__file__).resolve().parent.parent / "assets"
EMBEDDED = ("emoji-unet", "emoji-dit", "emoji-ddpm")


@lru_cache
def _rows() -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in _read(ASSETS / "catalogue.json")}


def listing() -> list[dict[str, Any]]:
    """The catalogue, as the command `models` prints it. Needs no torch."""
    keys = ("id", "pipeline", "params", "macs_per_call")
    return [
        {key: row.get(key) for key in keys}
        | {"denoiser": row["denoiser"]["_class_name"], "embedded": row["id"] in EMBEDDED}
        | {"available": (path := _path_of(row)) is not None, "path": path and str(path)}
        for row in _rows().values()
    ]


def measure() -> None:
    """Fill in the catalogue's parameters and MACs from the architectures, about ten seconds."""
    rows = []
    for row in _rows().values():
        architecture = load(row["id"], weights=False).priced()
        rows.append(row | {"params": architecture.params, "macs_per_call": architecture.graph.macs_per_call})
    (ASSETS / "catalogue.json").write_text(json.dumps(rows, indent=1) + "\n")


def _path_of(row: dict[str, Any]) -> Path | None:
    """Where the weights lie on this machine, if they do."""
    from huggingface_hub import try_to_load_from_cache

    if row["id"] in EMBEDDED:
        return ASSETS / row["id"] if (ASSETS / row["id"] / "model_index.json").is_file() else None
    found = try_to_load_from_cache(row["repo"], "model_index.json", revision=row["revision"])
    return Path(found).parent if isinstance(found, str) else None


@lru_cache
def vocabulary(model_id: str) -> dict[str, Any]:
    """What an embedded model was taught: its `names`, and all `words` of its captions. Empty for other models."""
    file = ASSETS / model_id / "names.json"
    return _read(file) if model_id in EMBEDDED and file.is_file() else {}


def device() -> str:
    """Where the page and its workers compute: what EXPLORER_DEVICE says, else a GPU where PyTorch finds one."""
    import torch

    return os.environ.get("EXPLORER_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")


def load(id_or_path: str | Path, weights: bool = True, device: str = "cpu", dtype: str = "float32") -> Model:
    """A model of the catalogue, or a folder in the layout of one of the known diffusers pipelines.

    Without `weights` only the architecture is built, on the meta device. Raises ValueError, in one sentence, for an
    unknown name, an unknown kind of pipeline, or weights that are not here.
    """
    row = _rows().get(str(id_or_path)) or next((r for r in _rows().values() if r.get("repo") == str(id_or_path)), None)
    if row is None and not _is_pipeline(Path(id_or_path)):
        raise ValueError(
            f"{str(id_or_path)!r} is neither a model of the catalogue ({', '.join(_rows())}) nor a pipeline's folder"
        )
    if row is not None and not weights and row["id"] not in EMBEDDED:
        return _architecture(row["id"], row["pipeline"], row["denoiser"], row["scheduler"], row["tokens"])
    if row is None:
        return _from_folder(Path(id_or_path), None, weights, device, dtype)
    return _from_folder(_path_of(row) or _download(row), row["id"], weights, device, dtype)


def _is_pipeline(folder: Path) -> bool:
    try:
        return (folder / "model_index.json").is_file()
    except OSError:  # a name that no file can have
        return False


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _architecture(id: str, pipeline: str, config: dict, scheduler_config: dict, tokens: int) -> Model:
    import diffusers

    from explorer import cost

    denoiser = cost.on_meta(getattr(diffusers, config["_class_name"]), config)
    return Model(id, pipeline, denoiser, scheduler_config, tokens)


def _download(row: dict[str, Any]) -> Path:
    """Fetch safetensors weights from the hub, unless it is switched off or out of reach."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        return Path(snapshot_download(row["repo"], revision=row["revision"], allow_patterns=patterns))
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"the weights of {row['id']} ({row['repo']}) are not on this machine and the hub is out of reach; "
            f"its units, MACs, parameters and schedules still work: see the command cost"
        ) from error


def _from_folder(folder: Path, id: str | None, weights: bool, device: str, dtype: str) -> Model:
    pipeline = _read(folder / "model_index.json").get("_class_name")
    if pipeline not in FAMILIES:
        raise ValueError(f"{folder} holds a {pipeline}; known pipelines are {', '.join(FAMILIES)}")
    id = id or re.sub(r"[^\w.-]", "-", folder.resolve().name)
    part = folder / FAMILIES[pipeline].denoiser
    if not weights:
        config, scheduler = _read(part / "config.json"), _read(folder / "scheduler" / "scheduler_config.json")
        return _architecture(id, pipeline, config, scheduler, _tokens(folder))
    pipe = _pipe(folder, pipeline, device, dtype)
    denoiser = getattr(pipe, FAMILIES[pipeline].denoiser)
    model = Model(id, pipeline, denoiser, dict(pipe.scheduler.config), _tokens(folder), pipe)
    model.revision = _fingerprint(part)
    return model


def _tokens(folder: Path) -> int:
    config = folder / "tokenizer" / "tokenizer_config.json"
    return _read(config)["model_max_length"] if config.is_file() else 0


def _pipe(folder: Path, pipeline: str, device: str, dtype: str) -> Any:
    import diffusers
    import torch

    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"dtype {dtype!r} is unknown; choose float32, float16 or bfloat16")
    options = {"safety_checker": None} if pipeline == "StableDiffusionPipeline" else {}
    diffusers.utils.logging.set_verbosity_error()  # it advises to install what is not needed here
    diffusers.utils.logging.disable_progress_bar()
    try:
        pipe = getattr(diffusers, pipeline).from_pretrained(
            str(folder), torch_dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True, **options
        )
        pipe.to(device)
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{folder} does not load as a {pipeline}: {str(error).splitlines()[0]}") from error
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe


def revision(id: str) -> str | None:
    """Names the weights of an embedded model, without loading them; None where they are not here."""
    for part in (ASSETS / id).glob("*/diffusion_pytorch_model*.safetensors"):
        if part.parent.name != "vae":
            return _fingerprint(part.parent)
    return None


def _fingerprint(folder: Path) -> str:
    """Names the weights: the first digits of the SHA-256 over the files of the denoiser."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
