"""What a job will take, from its settings alone: MACs over a measured rate. Loads no torch.

Rough on purpose: the first step of a job says it better, and the page shows that from then on. The constants were
measured on emoji-unet, on one core of an AMD EPYC (`tests/bench/learning.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from explorer import catalogue, experiment

RATE = 20.7e9  # MACs a second
TIMESTEPS = 1000  # that a model was trained on
DIPGO, ECODIFF = 4.1, 5.3  # a step's cost for each picture, in runs of the whole network
BASE = 0.7e9  # bytes of a process with PyTorch and a small model
BACK = 0.1  # bytes for each MAC of a call, on the way back through one
HELD = 5.3e-3  # likewise, kept of each call by DiP-GO: what its units hold for the next one


@dataclass(frozen=True)
class Estimate:
    """Seconds on one core, and bytes."""

    seconds: float
    memory: float

    def sentence(self) -> str:
        if self.seconds < 5:
            return "It takes a moment, and the time to load the model."
        memory = f"{self.memory / 1e9:.1f} GB of memory"
        return f"About {duration(self.seconds)} on one core, and {memory}; its first step will say it better."


def duration(seconds: float) -> str:
    """12 s, 3 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _dipgo(config: Any) -> float:
    return config.last * config.batch * DIPGO


def _ecodiff(config: Any) -> float:
    return config.last * config.batch * ECODIFF


def _search(config: Any) -> float:
    return config.pictures * (1 + config.budget * (1 - config.ratio))


def _taylor(config: Any) -> float:
    walked = config.pictures * TIMESTEPS / config.stride * 3 / (2 if config.guidance > 1 else 1)
    return config.pictures + walked / config.steps


# full runs of the network, which each method makes
RUNS: Mapping[str, Callable[[Any], float]] = {
    "dipgo": _dipgo,
    "ecodiff": _ecodiff,
    "search": _search,
    "genetic": _search,
    "taylor": _taylor,
    "similarity": lambda config: config.pictures,
}


def estimate(model: str, method: str, settings: Mapping[str, Any]) -> Estimate:
    """Raises ValueError for settings or a model that there are not."""
    config = experiment.config_of(method, settings)
    row = next((row for row in catalogue.listing() if row["id"] == model), None)
    if row is None:
        raise ValueError(f"there is no model {model!r}; see the command models")
    if method not in RUNS:
        return Estimate(0.0, BASE)
    macs = row["macs_per_call"] * (2 if config.guidance > 1 and row["pipeline"] != "DDPMPipeline" else 1)
    seconds = RUNS[method](config) * config.steps * macs / RATE
    batch, held = getattr(config, "batch", 1), HELD * config.steps if method == "dipgo" else 0
    memory = BASE + 8 * row["params"] + batch * macs / 2 * (BACK + held)
    return Estimate(seconds, memory)
