"""What a job asks for: a method, its settings and prompts, and from where it resumes. Loads no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PruneRequest:
    """One attempt at a job, in plain values that are sent to other processes."""

    method: str
    model: str
    settings: Mapping[str, Any]
    prompts: Sequence[str] = ()
    state: bytes | None = None  # what an earlier step yielded: with it the work continues exactly from there
    workers: int = 1  # that share it at most
    scheduler: str = ""  # whose workers they are; empty: processes of this machine
