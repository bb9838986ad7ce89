"""Prompts: the names that a model knows, and which of them are for choosing a schedule and which for judging it.

Whatever is tuned (a search, the spacing of a sampler, an optimizer) sees the search names only, so that what it is
judged by is new to it. Loads no torch.
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import Tokenizer

from explorer.models.catalogue import EMBEDDED, embedded_folder, list_models, vocabulary
from explorer.models.pipelines import PIPELINES

if TYPE_CHECKING:
    from explorer.models.model import Model

SEARCH_STRIDE = 4  # every fourth name is for searching
MAX_PROMPTS, MAX_CHARACTERS = 100_000, 500
Purpose = Literal["search", "evaluation"]


def model_names(model: "Model") -> list[str]:
    """List the names that a model knows: what an embedded one was taught, a class-conditional one's labels.

    An unconditional model has one empty prompt. Raises ValueError where only the user can say.
    """
    if known := vocabulary(model.id).get("names"):
        return known
    if labels := getattr(model.pipe, "labels", None):
        return list({number: label for label, number in reversed(labels.items())}.values())[::-1]
    if not hasattr(model.pipe, "tokenizer"):
        return [""]
    raise ValueError(f"{model.id} has no list of names of its own; give a file of prompts, one per line")


def split_names(model: "Model", purpose: Purpose) -> list[str]:
    """Select the model's names for one purpose."""
    return split(model_names(model), purpose)


def training_names(model_id: str) -> list[str]:
    """List what a model was taught to generate; empty where that is not known, or nothing in particular."""
    return [name for name in vocabulary(model_id).get("names", []) if name]


def uses_prompt(model_id: str) -> bool:
    """Say whether a model heeds the prompt; an unconditional one does not."""
    pipeline = _pipeline_of(model_id)
    return pipeline is None or PIPELINES[pipeline].uses_prompt


def has_names(model_id: str) -> bool:
    """Say whether `model_names` may have an answer, without loading the model: not for one of texts that is listed."""
    pipeline = _pipeline_of(model_id)
    return bool(vocabulary(model_id)) or pipeline is None or PIPELINES[pipeline].has_names


def _pipeline_of(model_id: str) -> str | None:
    return next((row["pipeline"] for row in list_models() if row["id"] == model_id), None)


def unknown_words(model_id: str, prompt: str) -> list[str]:
    """Find the words of a prompt that are in no training caption; none where the captions are not known."""
    known = set(vocabulary(model_id).get("words", []))
    words = re.findall(r"\w+", prompt.lower())
    return [word for word in dict.fromkeys(words) if known and word not in known]


def unread_part(model_id: str, prompt: str) -> str:
    """Find the end of a prompt that is too long for the model to read; empty where all is read, or it is not known."""
    tokenizer, limit = _tokenizer(model_id) if model_id in EMBEDDED else (None, 0)
    if tokenizer is None:
        return ""
    offsets = tokenizer.encode(prompt).offsets
    return prompt[offsets[limit - 2][1] :].strip() if len(offsets) > limit else ""  # the last token says that it ends


@lru_cache(maxsize=8)
def _tokenizer(model_id: str) -> tuple[Any, int]:
    """Load an embedded model's tokenizer, and how many tokens it keeps; None for a model without."""
    folder = embedded_folder(model_id) / "tokenizer"
    if not (folder / "tokenizer.json").is_file():
        return None, 0
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["model_max_length"]


def split(prompts: list[str], purpose: Purpose) -> list[str]:
    """Select the prompts for one purpose; where there are very few, all are for both."""
    if len(prompts) < SEARCH_STRIDE:
        return prompts
    search = prompts[::SEARCH_STRIDE]
    return search if purpose == "search" else [name for name in prompts if name not in set(search)]


def repeat_to(prompts: Sequence[str], count: int) -> list[str]:
    """Repeat prompts in turn until there are `count` (with other noise, as every picture has its own seed)."""
    return [prompts[index % len(prompts)] for index in range(count)]


def read_prompts(file: Path) -> list[str]:
    """Read a text file, one prompt per line. Raises ValueError where there are none, or too many or too long ones."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as a text of prompts: {error}") from error
    prompts = [line for line in lines if line]
    if not prompts:
        raise ValueError(f"{file} must hold 1 to {MAX_PROMPTS} prompts, one per line, and holds none")
    check_prompts(prompts, str(file))
    return prompts


def check_prompts(prompts: Sequence[str], source: str) -> None:
    """Raise ValueError for too many or too long prompts; `source` names where they come from."""
    if len(prompts) > MAX_PROMPTS:
        raise ValueError(f"{source} must hold 1 to {MAX_PROMPTS} prompts, one per line, and holds {len(prompts)}")
    if longest := next((line for line in prompts if len(line) > MAX_CHARACTERS), None):
        raise ValueError(f"{source} holds a prompt of more than {MAX_CHARACTERS} characters: {longest[:40]}...")
