"""The models and how they are loaded. The only file that knows diffusers pipelines.

Importing it loads no torch; asking for a model does.
"""

import copy
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.graph import BlockGraph, Granularity, Reuse, describe
from explorer.masks import ModelRecord

if TYPE_CHECKING:
    import torch

    from explorer.cost import Architecture

ASSETS = Path(__file__).resolve().parent.parent / "assets"
EMBEDDED = ("emoji-unet",)


@dataclass(frozen=True)
class Family:
    """What differs between pipelines: where the denoiser lives, and how a prompt becomes the denoiser's inputs."""

    denoiser: str  # attribute of the pipeline and folder on disk
    encode: Callable[[Any, list[str], bool], dict[str, Any]]  # (pipe, prompts, guided) -> keyword arguments of a call
    conditional_first: bool = False  # which half of a guided batch comes first


def _encode_sd(pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
    positive, negative = pipe.encode_prompt(prompts, pipe.device, 1, guided)
    return {"encoder_hidden_states": _cat([negative, positive]) if guided else positive}


def _encode_sdxl(pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
    encoded = pipe.encode_prompt(prompts, device=pipe.device, do_classifier_free_guidance=guided)
    positive, negative, pooled, negative_pooled = encoded
    size = pipe.default_sample_size * pipe.vae_scale_factor
    width = pipe.text_encoder_2.config.projection_dim
    ids = pipe._get_add_time_ids((size, size), (0, 0), (size, size), positive.dtype, width).to(pipe.device)
    ids = ids.repeat(len(prompts) * (2 if guided else 1), 1)
    text, pooled = (_cat([negative, positive]), _cat([negative_pooled, pooled])) if guided else (positive, pooled)
    return {"encoder_hidden_states": text, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}


def _encode_dit(pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
    import torch

    unknown = [prompt for prompt in prompts if prompt not in pipe.labels]
    if unknown:
        raise ValueError(f"this model draws classes, and {unknown[0]!r} is not one of its {len(pipe.labels)}")
    labels = torch.tensor([pipe.labels[prompt] for prompt in prompts], device=pipe.device)
    return {"class_labels": _cat([labels, torch.full_like(labels, 1000)]) if guided else labels}  # 1000: no class


def _encode_nothing(pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
    return {}


def _cat(tensors: list[Any]) -> Any:
    import torch

    return torch.cat(tensors)


FAMILIES = {
    "StableDiffusionPipeline": Family("unet", _encode_sd),
    "StableDiffusionXLPipeline": Family("unet", _encode_sdxl),
    "DiTPipeline": Family("transformer", _encode_dit, conditional_first=True),
    "DDPMPipeline": Family("unet", _encode_nothing),
}


class Model:
    """A denoiser with all that drawing needs. Without weights (`pipe` None) it still has units, MACs and parameters."""

    def __init__(self, id: str, pipeline: str, denoiser: Any, scheduler_config: dict, tokens: int, pipe: Any = None):
        self.id, self.pipeline, self.denoiser, self.pipe = id, pipeline, denoiser, pipe
        self.scheduler_config, self.tokens = scheduler_config, tokens
        self.family, self.size = FAMILIES[pipeline], denoiser.config.sample_size
        self.revision: str | None = None
        self._priced: dict[tuple[str, str], Architecture] = {}

    # -- arithmetic

    def priced(self, granularity: Granularity = "layer", reuse: Reuse = "output") -> "Architecture":
        """Units with MACs and parameters. Raises ValueError for an unknown class or granularity."""
        from explorer import cost

        if (granularity, reuse) not in self._priced:
            skeleton = cost.on_meta(type(self.denoiser), dict(self.denoiser.config))
            graph = describe(self.denoiser, granularity, reuse)
            self._priced[granularity, reuse] = cost.price(skeleton, graph, self.size, self.tokens)
        return self._priced[granularity, reuse]

    def graph(self, granularity: Granularity = "layer", reuse: Reuse = "output") -> BlockGraph:
        return self.priced(granularity, reuse).graph

    @property
    def record(self) -> ModelRecord:
        """How a mask file names this model."""
        dtype = str(self.denoiser.dtype).removeprefix("torch.")
        return ModelRecord(id=self.id, revision=self.revision, denoiser=type(self.denoiser).__name__, dtype=dtype)

    # -- drawing

    def noise(self, seeds: Sequence[int]) -> tuple["torch.Tensor", list["torch.Generator"]]:
        """Latents (B, C, H, W), one seed each, and the generators for a sampler that goes on drawing noise."""
        import torch

        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        shape = (1, self.denoiser.config.in_channels, self.size, self.size)
        drawn = [torch.randn(shape, generator=generator, dtype=self.denoiser.dtype) for generator in generators]
        return torch.cat(drawn).to(self.denoiser.device), generators

    def encode(self, prompts: Sequence[str], guidance: float) -> dict[str, Any]:
        """The denoiser's conditioning inputs for a batch of prompts; doubled when guidance is above 1."""
        import torch

        self._need_weights()
        with torch.no_grad():
            return self.family.encode(self.pipe, list(prompts), guidance > 1)

    def denoise(self, x: "torch.Tensor", t: Any, conditioning: dict, guidance: float) -> "torch.Tensor":
        """The guided output of one call, (B, C, H, W): u + g (c - u), Ho & Salimans 2021, eq. 6 in g = w + 1."""
        guided = guidance > 1 and bool(conditioning)
        x = _cat([x, x]) if guided else x
        if self.family.conditional_first:
            t = t.expand(len(x)).to(x.device)
        output = self.denoiser(x, timestep=t, **conditioning, return_dict=False)[0]
        output = output[:, : x.shape[1]]  # DiT predicts a variance as well
        if not guided:
            return output
        first, second = output.chunk(2)
        given, empty = (first, second) if self.family.conditional_first else (second, first)
        return empty + guidance * (given - empty)

    def decode(self, latents: "torch.Tensor") -> "torch.Tensor":
        """Pictures (B, 3, H, W) in [0, 1], on the CPU."""
        import torch

        with torch.no_grad():
            if vae := getattr(self.pipe, "vae", None):
                if vae.dtype == torch.float16 and vae.config.force_upcast:
                    vae.to(torch.float32)
                latents = latents.to(vae.dtype)
                latents = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
            return (latents / 2 + 0.5).clamp(0, 1).float().cpu()

    def twin(self) -> "Model":
        """A model that shares these weights but none of the modules, so that two schedules can run side by side."""
        shared = {id(tensor): tensor for tensor in (*self.denoiser.parameters(), *self.denoiser.buffers())}
        other = copy.copy(self)
        other.denoiser = copy.deepcopy(self.denoiser, shared)
        return other

    def _need_weights(self) -> None:
        if self.pipe is None:
            raise ValueError(
                f"the weights of {self.id} are not here; its units, MACs, parameters and schedules still are"
            )


@lru_cache
def _rows() -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in json.loads((ASSETS / "catalogue.json").read_text())}


def listing() -> list[dict[str, Any]]:
    """The catalogue, as the command `models` prints it. Needs no torch."""
    keys = ("id", "pipeline", "params", "macs_per_call")
    return [
        {key: row.get(key) for key in keys}
        | {"denoiser": row["denoiser"]["_class_name"], "embedded": row["id"] in EMBEDDED}
        | {"available": (path := _path_of(row)) is not None, "path": path and str(path)}
        for row in _rows().values()
    ]


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
    return json.loads(file.read_text()) if model_id in EMBEDDED and file.is_file() else {}


def load(id_or_path: str | Path, weights: bool = True, device: str = "cpu", dtype: str = "float32") -> Model:
    """A model of the catalogue, or a folder in the layout of one of the known diffusers pipelines.

    Without `weights` only the architecture is built, on the meta device. Raises ValueError, in one sentence, for an
    unknown name, an unknown kind of pipeline, or weights that are not here.
    """
    row = _rows().get(str(id_or_path)) or next((r for r in _rows().values() if r.get("repo") == str(id_or_path)), None)
    if row is None and not (Path(id_or_path) / "model_index.json").is_file():
        raise ValueError(
            f"{str(id_or_path)!r} is neither a model of the catalogue ({', '.join(_rows())}) nor a pipeline's folder"
        )
    if row is not None and not weights:
        return _architecture(row["id"], row["pipeline"], row["denoiser"], row["scheduler"], row["tokens"])
    if row is None:
        return _from_folder(Path(id_or_path), None, weights, device, dtype)
    return _from_folder(_path_of(row) or _download(row), row["id"], weights, device, dtype)


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
    pipeline = json.loads((folder / "model_index.json").read_text()).get("_class_name")
    if pipeline not in FAMILIES:
        raise ValueError(f"{folder} holds a {pipeline}; known pipelines are {', '.join(FAMILIES)}")
    id = id or re.sub(r"[^\w.-]", "-", folder.resolve().name)
    part = folder / FAMILIES[pipeline].denoiser
    if not weights:
        config = json.loads((part / "config.json").read_text())
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        return _architecture(id, pipeline, config, scheduler, _tokens(folder))
    pipe = _pipe(folder, pipeline, device, dtype)
    denoiser = getattr(pipe, FAMILIES[pipeline].denoiser)
    model = Model(id, pipeline, denoiser, dict(pipe.scheduler.config), _tokens(folder), pipe)
    model.revision = _fingerprint(part)
    return model


def _tokens(folder: Path) -> int:
    config = folder / "tokenizer" / "tokenizer_config.json"
    return json.loads(config.read_text())["model_max_length"] if config.is_file() else 0


def _pipe(folder: Path, pipeline: str, device: str, dtype: str) -> Any:
    import diffusers
    import torch

    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"dtype {dtype!r} is unknown; choose float32, float16 or bfloat16")
    options = {"safety_checker": None} if pipeline == "StableDiffusionPipeline" else {}
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


def _fingerprint(folder: Path) -> str:
    """Names the weights: the first digits of the SHA-256 over the files of the denoiser."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
