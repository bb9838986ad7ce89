"""Turns what a user can get wrong into one sentence. Loads no torch."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError


def format_error(error: Exception) -> str:
    """Describe a user error in one sentence; an invalid field as `field: what is wrong (got value)`."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    value = repr(first["input"])
    got = f" (got {value if len(value) <= 60 else value[:57] + '...'})" if field else ""
    return f"{field}: {reason[:1].lower() + reason[1:]}{got}" if field else reason


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
