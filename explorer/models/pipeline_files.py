"""A diffusers pipeline on disk, a folder or one file: which it is, how many tokens a prompt has, and loading it.

Importing it loads no torch; loading a pipeline does.
"""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from explorer.models import hub
from explorer.models.memory import check_fits, stored_dtype
from explorer.models.model import Model
from explorer.models.pipeline_adapter import latent_size
from explorer.models.pipelines import PIPELINES

MAX_TEXT_LENGTH = 100_000  # transformers writes 1e30 where there is no limit


def is_pipeline(folder: Path) -> bool:
    """Say whether this is the folder of a diffusers pipeline."""
    try:
        return (folder / "model_index.json").is_file()
    except OSError:  # a name that no file can have
        return False


def is_single_file(file: Path) -> bool:
    """Say whether this is one file with the weights of a whole pipeline."""
    try:
        return file.suffix == ".safetensors" and file.is_file()
    except OSError:
        return False


def load_folder(
    folder: Path,
    id: str,
    weights: bool,
    device: str,
    dtype: str,
    variant: str = "",
    offload: bool = False,
    lora: Path | None = None,
) -> Model:
    """Load the model of a folder as `catalogue.load` does, with a folder of LoRA added to its weights."""
    pipeline = pipeline_class(folder)
    part = folder / PIPELINES[pipeline].denoiser
    if not weights:
        config, scheduler = read_json(part / "config.json"), read_json(folder / "scheduler" / "scheduler_config.json")
        vae = folder / "vae" / "config.json"
        parts = (_text_length(folder, pipeline), read_json(vae) if vae.is_file() else None)
        return build_architecture(id, pipeline, config, scheduler, *parts)
    chosen = hub.choose_variant(part, variant)
    dtype = stored_dtype(part, device, chosen) if dtype == "auto" else dtype
    check_fits(id, folder, dtype, device, chosen, offload)
    pipe = _load(
        *(pipeline, "from_pretrained", folder, device, dtype, offload, lora),
        variant=chosen or None,
        use_safetensors=True,
    )
    return _make_model(id, pipeline, pipe, folder, fingerprint(part, *filter(None, [lora])))


def load_single_file(
    file: Path, id: str, weights: bool, device: str, dtype: str, variant: str = "", offload: bool = False
) -> Model:
    """Load the model of a checkpoint in one file. The configurations are those beside it (`model_index.json`), else
    those of the repository on the hub that diffusers names for this kind of checkpoint."""
    if variant:
        raise ValueError(f"{file} is one file, which has no variant {variant!r}")
    folder = file.parent if is_pipeline(file.parent) else _configurations_for(file)
    if not weights:
        return load_folder(folder, id, False, device, dtype)
    pipeline = pipeline_class(folder)
    dtype = stored_dtype(file, device) if dtype == "auto" else dtype
    check_fits(id, file, dtype, "cpu" if offload else device)
    pipe = _load(pipeline, "from_single_file", file, device, dtype, offload, None, config=str(folder))
    return _make_model(id, pipeline, pipe, folder, fingerprint(file))


def _configurations_for(file: Path) -> Path:
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        repo = fetch_diffusers_config(load_file(file))["pretrained_model_name_or_path"]
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file} cannot be read as a checkpoint: {error}") from error
    return hub.path_in_cache(repo, weights=False) or hub.download(repo, weights=False)


def build_architecture(
    id: str, pipeline: str, config: dict, scheduler_config: dict, text_length: int, vae_config: dict | None = None
) -> Model:
    """Build a model without weights, on the meta device."""
    import diffusers

    from explorer.execution.macs import build_on_meta

    denoiser = build_on_meta(getattr(diffusers, config["_class_name"]), config)
    size = latent_size(denoiser, None if vae_config is None else SimpleNamespace(config=vae_config))
    return Model(id, pipeline, denoiser, scheduler_config, text_length, size=size)


def pipeline_class(folder: Path) -> str:
    """Read which pipeline a folder holds, as a name of PIPELINES; with code of its own, the class stands after the
    file. Siblings that draw from a picture (img2img, inpainting) are read as the pipeline that draws from noise.

    Raises ValueError for one that is not known.
    """
    index = read_json(folder / "model_index.json")
    name = index.get("_class_name") if isinstance(index, dict) else None
    name = name[-1] if isinstance(name, list) and name else name
    pipeline = name if name in list(PIPELINES) else _sibling_from_noise(str(name))
    if pipeline not in PIPELINES:
        raise ValueError(f"{folder} holds a {name}; known pipelines are {', '.join(PIPELINES)}")
    return pipeline


def _sibling_from_noise(name: str) -> str:
    """Find the pipeline that draws from noise with the parts of another, as diffusers' AutoPipeline does."""
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING, _get_task_class

    try:
        return _get_task_class(AUTO_TEXT2IMAGE_PIPELINES_MAPPING, name).__name__
    except ValueError:
        return ""


def read_json(file: Path) -> Any:
    """Read a JSON file. Raises ValueError where that fails."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _make_model(id: str, pipeline: str, pipe: Any, folder: Path, revision: str) -> Model:
    text_length, tokenizer = _text_length(folder, pipeline), getattr(pipe, "tokenizer", None)
    if tokenizer and tokenizer.model_max_length > MAX_TEXT_LENGTH:
        tokenizer.model_max_length = text_length
    denoiser = getattr(pipe, PIPELINES[pipeline].denoiser)
    model = Model(id, pipeline, denoiser, dict(pipe.scheduler.config), text_length, pipe)
    model.revision = revision
    return model


def _text_length(folder: Path, pipeline: str) -> int:
    """Read how many tokens a prompt has; where the tokenizer does not say, as many as its text encoder takes."""
    adapter = PIPELINES[pipeline]
    if fixed := adapter.text_length:
        own = folder / (adapter.text_tokenizer or "") / "tokenizer_config.json"
        length = read_json(own).get("model_max_length") if own.is_file() else None
        return min(fixed, length) if isinstance(length, int) else fixed
    config, encoder = folder / "tokenizer" / "tokenizer_config.json", folder / "text_encoder" / "config.json"
    if not config.is_file():
        return 0
    length = read_json(config).get("model_max_length")
    if not isinstance(length, int) or length > MAX_TEXT_LENGTH:
        length = read_json(encoder).get("max_position_embeddings", 77) if encoder.is_file() else 77
    return int(length)


def _load(
    pipeline: str,
    method: str,
    source: Path,
    device: str,
    dtype: str,
    offload: bool,
    lora: Path | None,
    **options: Any,
) -> Any:
    import diffusers
    import torch

    diffusers.utils.logging.set_verbosity_error()  # it advises to install what is not needed here
    diffusers.utils.logging.disable_progress_bar()
    options |= {"torch_dtype": getattr(torch, dtype), "local_files_only": True} | PIPELINES[pipeline].load_options
    try:
        pipe = getattr(getattr(diffusers, pipeline), method)(str(source), **options)
        if lora:
            pipe.load_lora_weights(str(lora), local_files_only=True)
            pipe.fuse_lora()
            pipe.unload_lora_weights()
            pipe.register_to_config(_name_or_path=str(lora))
        pipe.enable_model_cpu_offload(device=device) if offload else pipe.to(device)
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError, AttributeError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"{source} does not load as a {pipeline}: {reason}") from error
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe


def fingerprint(*sources: Path) -> str:
    """Name weights: the first digits of the SHA-256 over files, or over those of folders, such as the denoiser's."""
    digest = hashlib.sha256()
    for file in (one for part in sources for one in (sorted(part.glob("*.safetensors")) if part.is_dir() else [part])):
        with file.open("rb") as opened:
            while chunk := opened.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:12]
