"""Estimates what a job will take, from its settings alone: MACs over a measured rate. Loads no torch.

Rough on purpose: the first step of a job gives a better estimate, which the page shows from then on. The constants were
measured on emoji-unet, on one core of an AMD EPYC (`tests/bench/learning.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from explorer.models.catalogue import list_models, own_run
from explorer.models.memory import run_memory
from explorer.models.pipelines import PIPELINES
from explorer.pruners import PRUNERS, method_config, methods_for
from explorer.settings import settings as environment

MACS_PER_SECOND = 20.7e9
BASE_BYTES = 0.7e9  # of a process with PyTorch and a small model
BACKWARD_BYTES_PER_MAC = 0.1  # of a call, in the backward pass through one
CACHED_BYTES_PER_MAC = 5.3e-3  # likewise, kept of each call by DiP-GO: what its units cache for the next one


@dataclass(frozen=True)
class Estimate:
    """Seconds on one core, and bytes."""

    seconds: float
    memory: float
    params: int = 0  # of the network

    def describe(self) -> str:
        """Describe it in a sentence."""
        if self.seconds < 5:
            return "It takes a moment, plus the time to load the model."
        memory = f"{self.memory / 1e9:.1f} GB of memory"
        about = f"About {format_duration(self.seconds)} on one core, and {memory}; updated after the first step."
        fits = bool(environment().scheduler) or self.memory <= run_memory()  # other machines may be larger
        return about if fits else f"{about} {_too_large(self.params)}"


def _too_large(params: int) -> str:
    free = ", ".join(methods_for("schedule", needs_weights=False))
    return (
        f"A job may use {run_memory() / 1e9:.1f} GB here, so it will probably end without a result: the network has "
        f"{params / 1e6:,.0f} million parameters. What still works: a smaller batch, methods that generate nothing "
        f"({free}), workers on a larger machine (EXPLORER_SCHEDULER)."
    )


def format_duration(seconds: float) -> str:
    """Write a duration as 12 s, 3 min or 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def estimate(model: str, method: str, settings: Mapping[str, Any]) -> Estimate:
    """Estimate a job. Raises ValueError for unknown settings and for an unknown model."""
    config = method_config(method, settings, own_run(model))
    row = next((row for row in list_models() if row["id"] == model), None)
    if row is None:
        raise ValueError(f"there is no model {model!r}; see the command models")
    cost = PRUNERS[method].cost
    if cost is None:
        return Estimate(0.0, BASE_BYTES)
    macs = row["macs_per_call"] * (2 if config.guidance > 1 and PIPELINES[row["pipeline"]].uses_prompt else 1)
    seconds = cost(config) * config.steps * macs / MACS_PER_SECOND
    cached = CACHED_BYTES_PER_MAC * config.steps if method == "dipgo" else 0
    batch = getattr(config, "batch", 1)
    memory = BASE_BYTES + 8 * row["params"] + batch * macs / 2 * (BACKWARD_BYTES_PER_MAC + cached)
    return Estimate(seconds, memory, row["params"])
