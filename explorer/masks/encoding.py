"""Tables as letters: what an address bears, and what the page reads."""

import base64

import numpy as np


def packed(keep: np.ndarray) -> str:
    """A schedule (T, U) in letters that an address bears: its bits, row by row, in URL-safe base64."""
    return base64.urlsafe_b64encode(np.packbits(keep).tobytes()).decode().rstrip("=")


def unpacked(text: str, shape: tuple[int, int]) -> np.ndarray:
    """bool `shape`: the way back. Raises ValueError for letters that are no schedule of this shape."""
    size = shape[0] * shape[1]
    try:
        bits = np.frombuffer(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True), np.uint8)
    except ValueError as error:
        raise ValueError(f"the schedule made by hand is not in base64: {error}") from error
    if len(bits) != -(-size // 8):
        raise ValueError(f"the schedule made by hand does not have {shape[0]} calls of {shape[1]} units")
    return np.unpackbits(bits)[:size].reshape(shape).astype(bool)


def floats(values: np.ndarray) -> str:
    """32-bit floats in base64, as the page reads them."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()
