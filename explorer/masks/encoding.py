"""Encodes tables as text: for an address of the page, and for the browser. Loads no torch."""

import base64

import numpy as np


def encode_bits(keep: np.ndarray) -> str:
    """Encode a schedule, bool (T, U), as URL-safe base64 of its bits, row by row."""
    return base64.urlsafe_b64encode(np.packbits(keep).tobytes()).decode().rstrip("=")


def decode_bits(text: str, shape: tuple[int, int]) -> np.ndarray:
    """Decode what `encode_bits` wrote: bool `shape`. Raises ValueError for any text that is no schedule of this
    shape."""
    size = shape[0] * shape[1]
    try:
        bits = np.frombuffer(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True), np.uint8)
    except ValueError as error:
        raise ValueError(f"the manual schedule is not in base64: {error}") from error
    if len(bits) != -(-size // 8):
        raise ValueError(f"the manual schedule does not have {shape[0]} calls of {shape[1]} units")
    return np.unpackbits(bits)[:size].reshape(shape).astype(bool)


def encode_floats(values: np.ndarray) -> str:
    """Encode numbers as little-endian 32-bit floats in base64."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()
