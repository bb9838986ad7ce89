"""Settings of the methods that learn, in three sizes: a quick look, the good default, and as published."""

from collections.abc import Mapping
from typing import Any

from explorer.pruners.schedule_configs import PUBLISHED

QUICK, GOOD, AS_PUBLISHED = "quick look", "good", "as published"
# Diff-Pruning uses every timestep (section 4); EcoDiff's SDXL configuration: 100 prompts, 100 steps of 4, L1 on logits.
PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "dipgo": {
        QUICK: {"iterations": 12, "batch": 2, "validate_every": 4},
        GOOD: {},
        AS_PUBLISHED: PUBLISHED,
    },
    "taylor": {
        QUICK: {"num_images": 8, "stride": 10},
        GOOD: {},
        AS_PUBLISHED: {"stride": 1},
    },
    "ecodiff": {
        QUICK: {"iterations": 12, "warmup_steps": 4, "batch": 2, "num_images": 24},
        GOOD: {},
        AS_PUBLISHED: {
            "algorithm": "hard_concrete",
            "iterations": 100,
            "num_images": 100,
            "steps": 50,
            "penalty": "l1",
            "penalty_weight": 0.5,
        },
    },
}
