"""Repositories of the Hugging Face hub that hold a diffusers pipeline: what is here, and fetching what is not."""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from explorer.models.pipelines import PIPELINES

PROBE_TIMEOUT_S = 10.0
# unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors
WEIGHTS = re.compile(r"[\w-]+?(?:\.(?P<variant>[\w-]+?))?(?:-\d+-of-\d+)?\.safetensors")

NOT_LOADED = {part for adapter in PIPELINES.values() for part, given in adapter.load_options.items() if given is None}


def path_in_cache(repo: str, revision: str | None = None, weights: bool = True) -> Path | None:
    """Find where a repository is on this machine, if it was downloaded to the end; its configurations without
    `weights`."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "model_index.json", revision=revision)
    return Path(found).parent if isinstance(found, str) and _is_complete(Path(found), weights) else None


def _is_complete(index: Path, weights: bool) -> bool:
    """Say whether every part that `model_index.json` names is there, with all of its weights on request."""
    document = json.loads(index.read_text(encoding="utf-8"))
    components = {name: value for name, value in document.items() if isinstance(value, list) and name[0] != "_"}
    parts = [index.parent / name for name, value in components.items() if any(value) and name not in NOT_LOADED]
    for part in parts:
        if not part.is_dir():
            return False
        if not weights:
            continue
        if (part / "config.json").exists() and not any(part.glob("*.safetensors")):
            return False
        for shards in part.glob("*.safetensors.index.json"):
            names = set(json.loads(shards.read_text(encoding="utf-8"))["weight_map"].values())
            if not all((part / name).exists() for name in names):
                return False
    return True


def download(repo: str, revision: str | None = None, title: str = "", weights: bool = True) -> Path:
    """Fetch a pipeline, with a progress bar; of its weights only those that are loaded, or none, and no code.

    title: what messages call it; default: its name.
    Raises ValueError, in one sentence, where that is switched off or fails.
    """
    import httpx
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
    from tqdm.auto import tqdm

    what = "weights" if weights else "configurations"
    missing = f"the {what} of {title or repo} are not on this machine and the hub"
    if constants.HF_HUB_OFFLINE:
        raise ValueError(f"{missing} cannot be reached (HF_HUB_OFFLINE)")
    try:
        httpx.head(constants.ENDPOINT, timeout=PROBE_TIMEOUT_S)  # one try; the hub's own client makes six
        files = choose_files(HfApi().list_repo_files(repo, revision=revision), weights)
        # not the hub's own bar, which the command line switches off with those of other libraries
        return Path(snapshot_download(repo, revision=revision, allow_patterns=files, tqdm_class=tqdm))
    except RepositoryNotFoundError as error:
        raise ValueError(f"{missing} has no such repository, or shows it only after a login") from error
    except (OfflineModeIsEnabled, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise ValueError(f"{missing} cannot be reached") from error


def choose_files(files: Sequence[str], weights: bool = True) -> list[str]:
    """Choose what a pipeline is loaded from: configurations, vocabularies, and one set of weights in each folder."""
    chosen = [file for file in files if file.endswith((".json", ".txt", ".model"))]
    found = defaultdict(list)
    for file in files if weights else []:
        folder, _, name = file.rpartition("/")
        # whole checkpoints in one file stand outside of the folders
        if folder and folder not in NOT_LOADED and WEIGHTS.fullmatch(name):
            found[folder].append(name)
    for folder, names in found.items():
        chosen += [f"{folder}/{name}" for name in one_set(names)]
    return chosen


def one_set(names: Sequence[str]) -> list[str]:
    """Choose one set among the files of weights of a network: the usual ones, else those of a variant."""
    weights = [name for name in names if WEIGHTS.fullmatch(name)]
    return [name for name in weights if _parse(name) == _variant_of(weights)]


def only_variant(folder: Path) -> str | None:
    """Find the variant of the weights in a folder of one network, such as fp16; None where the usual ones are there.

    Raises ValueError where there are none in a safe format.
    """
    names = [file.name for file in folder.glob("*.safetensors") if WEIGHTS.fullmatch(file.name)]
    if not names:
        others = [file.name for file in folder.glob("*.bin")]
        found = f"only {others[0]}, which runs code when it is read; save it as safetensors" if others else "no weights"
        raise ValueError(f"{folder} holds {found}")
    return _variant_of(names)


def _variant_of(names: Sequence[str]) -> str | None:
    variants = {_parse(name) for name in names}
    return None if None in variants else min(variant for variant in variants if variant)


def _parse(name: str) -> str | None:
    """Read which variant a file of weights belongs to."""
    match = WEIGHTS.fullmatch(name)
    return match["variant"] if match else None
