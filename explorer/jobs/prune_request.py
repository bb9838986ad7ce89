"""The request of a job: a method, its settings and prompts, and the state to resume from. Loads no torch."""

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
