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


def path_in_cache(repo: str, revision: str | None = None, weights: bool = True, variant: str = "") -> Path | None:
    """Find where a repository is on this machine, if it was downloaded to the end; its configurations without
    `weights`, or its weights of one `variant`."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "model_index.json", revision=revision)
    return Path(found).parent if isinstance(found, str) and _is_complete(Path(found), weights, variant) else None


def _is_complete(index: Path, weights: bool, variant: str) -> bool:
    """Say whether every part that `model_index.json` names is there, with all of its weights on request."""
    document = json.loads(index.read_text(encoding="utf-8"))
    components = {name: value for name, value in document.items() if isinstance(value, list) and name[0] != "_"}
    parts = [index.parent / name for name, value in components.items() if any(value) and name not in NOT_LOADED]
    for part in parts:
        if not part.is_dir():
            return False
        if not weights:
            continue
        names = one_set([file.name for file in part.iterdir()], variant)
        if (part / "config.json").exists() and not [name for name in names if variant in ("", _parse(name))]:
            return False
        for shards in part.glob("*.safetensors.index.json"):
            sharded = set(json.loads(shards.read_text(encoding="utf-8"))["weight_map"].values())
            if not all((part / name).exists() for name in sharded):
                return False
    return True


def download(repo: str, revision: str | None = None, title: str = "", weights: bool = True, variant: str = "") -> Path:
    """Fetch a pipeline, with a progress bar; of its weights only those that are loaded, or none, and no code.

    title: what messages call it; default: its name.
    Raises ValueError, in one sentence, where that is switched off or fails.
    """
    import httpx
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
    from tqdm.auto import tqdm

    what = "weights" if weights else "configurations"
    missing = f"the {what} of {title or repo} are not on this machine and the hub"
    if constants.HF_HUB_OFFLINE:
        raise ValueError(f"{missing} cannot be reached (HF_HUB_OFFLINE)")
    try:
        httpx.head(constants.ENDPOINT, timeout=PROBE_TIMEOUT_S)  # one try; the hub's own client makes six
        files = choose_files(HfApi().list_repo_files(repo, revision=revision), weights, variant)
        # not the hub's own bar, which the command line switches off with those of other libraries
        return Path(snapshot_download(repo, revision=revision, allow_patterns=files, tqdm_class=tqdm))
    except GatedRepoError as error:
        agree = f"agree to it on {constants.ENDPOINT}/{repo}, and log in (hf auth login, or HF_TOKEN)"
        raise ValueError(f"{missing} gives them only to accounts that agreed to their license; {agree}") from error
    except RepositoryNotFoundError as error:
        raise ValueError(f"{missing} has no such repository, or shows it only after a login") from error
    except (OfflineModeIsEnabled, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise ValueError(f"{missing} cannot be reached") from error


def choose_files(files: Sequence[str], weights: bool = True, variant: str = "") -> list[str]:
    """Choose what a pipeline is loaded from: configurations, vocabularies, and one set of weights in each folder."""
    chosen = [file for file in files if file.endswith((".json", ".txt", ".model"))]
    found = defaultdict(list)
    for file in files if weights else []:
        folder, _, name = file.rpartition("/")
        # whole checkpoints in one file stand outside of the folders
        if folder and folder not in NOT_LOADED and WEIGHTS.fullmatch(name):
            found[folder].append(name)
    for folder, names in found.items():
        chosen += [f"{folder}/{name}" for name in one_set(names, variant)]
    return chosen


def one_set(names: Sequence[str], variant: str = "") -> list[str]:
    """Choose one set among the files of weights of a network: those of a variant where there are any, else the usual
    ones, else those of the first variant."""
    weights = [name for name in names if WEIGHTS.fullmatch(name)]
    variants = {_parse(name) for name in weights}
    wanted = variant if variant in variants else min(variants, default="")
    return [name for name in weights if _parse(name) == wanted]


def choose_variant(folder: Path, variant: str = "") -> str:
    """Find which variant of its weights, such as fp16, a network is loaded from; empty: the usual ones.

    Raises ValueError where the one that is asked for is not there, and where none is there in a safe format.
    """
    names = one_set([file.name for file in folder.glob("*.safetensors")], variant)
    if not names:
        others = [file.name for file in folder.glob("*.bin")]
        found = f"only {others[0]}, which runs code when it is read; save it as safetensors" if others else "no weights"
        raise ValueError(f"{folder} holds {found}")
    found = _parse(names[0])
    if variant not in ("", found):
        raise ValueError(f"{folder} holds no weights of the variant {variant!r}, only {found or 'the usual ones'}")
    return found


def _parse(name: str) -> str:
    """Read which variant a file of weights belongs to; empty for the usual ones."""
    match = WEIGHTS.fullmatch(name)
    return (match["variant"] or "") if match else ""
