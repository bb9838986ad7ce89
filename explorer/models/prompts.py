"""What to draw: the names a model knows, and which of them are for choosing a schedule and which for judging it.

Whatever is tuned (a search, the spacing of a sampler, an optimizer) sees the search names only, so that what it is
judged by is new to it. Loads no torch.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from explorer import catalogue

EVERY = 4  # one of so many names is for searching
MOST_PROMPTS, MOST_CHARACTERS = 100_000, 500


def names(model: Any) -> list[str]:
    """What a model can be asked for: what an embedded one was taught, a class-conditional one's labels.

    An unconditional model has one empty prompt. Raises ValueError where only the user can say.
    """
    if known := catalogue.vocabulary(model.id).get("names"):
        return known
    if labels := getattr(model.pipe, "labels", None):
        return list({number: label for label, number in reversed(labels.items())}.values())[::-1]
    if not hasattr(model.pipe, "tokenizer"):
        return [""]
    raise ValueError(f"{model.id} has no list of names of its own; say what to draw in a file, one prompt a line")


def chosen(model: Any, purpose: Literal["search", "evaluation"]) -> list[str]:
    """The model's names for one purpose."""
    return part(names(model), purpose)


def known_names(model_id: str) -> list[str]:
    """What a model was taught to draw; empty where that is not known, or nothing in particular. Needs no torch."""
    return [name for name in catalogue.vocabulary(model_id).get("names", []) if name]


def heeded(model_id: str) -> bool:
    """Whether a model draws what the prompt says; an embedded one that is asked for nothing does not."""
    return catalogue.vocabulary(model_id).get("names") != [""]


def unknown_words(model_id: str, prompt: str) -> list[str]:
    """Words of a prompt that never stood in a training caption; empty where the captions are not known."""
    known = set(catalogue.vocabulary(model_id).get("words", []))
    words = re.findall(r"\w+", prompt.lower())
    return [word for word in dict.fromkeys(words) if known and word not in known]


def part(known: list[str], purpose: Literal["search", "evaluation"]) -> list[str]:
    """Those of the prompts that are for one purpose; where there are very few, all are for both."""
    searched = known[::EVERY]
    if len(known) < EVERY:
        return known
    return searched if purpose == "search" else [name for name in known if name not in set(searched)]


def cycled(prompts: Sequence[str], count: int) -> list[str]:
    """`count` prompts: all in turn, then again (with other noise, as every picture has its own seed)."""
    return [prompts[index % len(prompts)] for index in range(count)]


def read(file: Path) -> list[str]:
    """The prompts of a text file, one a line. Raises ValueError where there are none, or too many or too long ones."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as a text of prompts: {error}") from error
    prompts = [line for line in lines if line]
    if not prompts:
        raise ValueError(f"{file} must hold 1 to {MOST_PROMPTS} prompts, one a line, and holds none")
    return refuse_too_many(prompts, str(file))


def refuse_too_many(prompts: Sequence[str], where: str) -> Sequence[str]:
    """The prompts themselves; `where` they stand, for the sentence. Raises ValueError for too many or too long ones."""
    if len(prompts) > MOST_PROMPTS:
        raise ValueError(f"{where} must hold 1 to {MOST_PROMPTS} prompts, one a line, and holds {len(prompts)}")
    if longest := next((line for line in prompts if len(line) > MOST_CHARACTERS), None):
        raise ValueError(f"{where} holds a prompt of more than {MOST_CHARACTERS} characters: {longest[:40]}...")
    return prompts
