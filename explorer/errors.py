"""Turns what a user can get wrong into one sentence. Loads no torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

REASONS = {  # pydantic's kinds of errors, in words
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be above {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be below {lt:g}",
    "string_too_long": "must have at most {max_length:,} characters",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "literal_error": "must be {expected}",
    "dict_type": "must be a table of names and values",
    "missing": "is missing",
}
UNKNOWN_FIELD = "extra_forbidden"
MAX_VALUE = 60  # characters of a value that are repeated


def format_error(error: Exception) -> str:
    """Describe a user error in one sentence; an invalid field as `field must be ..., not value`."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    field, kind, context = ".".join(map(str, first["loc"])), first["type"], first.get("ctx", {})
    if kind == "value_error":  # a check of ours, whose words are a sentence
        return str(first["msg"]).removeprefix("Value error, ")
    if kind == UNKNOWN_FIELD:
        return f"there is no setting {field!r}"
    reason = REASONS[kind].format(**context) if kind in REASONS else f"is wrong: {first['msg']}"
    return f"{field} {reason}" if kind == "missing" else f"{field} {reason}, not {_shorten(first['input'])}"


def _shorten(value: Any) -> str:
    text = "nothing" if value is None else f"{len(value):,}" if _is_long(value) else repr(value)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."


def _is_long(value: Any) -> bool:
    return isinstance(value, str) and len(value) > MAX_VALUE


@contextmanager
def oom_as_value_error(batch: int) -> Iterator[None]:
    """Turn PyTorch's out-of-memory errors inside into a ValueError that says what to change."""
    try:
        yield
    except RuntimeError as error:  # of which torch.OutOfMemoryError is one
        if "memory" not in f"{error}":
            raise
        raise ValueError(
            f"there is not enough memory for {batch} images at once; use a smaller batch, or checkpointing=sqrt"
        ) from error
