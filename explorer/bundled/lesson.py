"""What the SuperNet tab teaches with: a run of few calls, and its SubNets that leave out the inner stages of calls.

A folder: `lesson.json`, which `studies.lesson` makes and the browser reads, and sheets of pictures. Loads no torch.
"""

from typing import Any

from explorer.models.catalogue import ASSETS

FOLDER = ASSETS / "lesson"
TABLE = "lesson.json"
SHEET = "{prompt}-{seed}-{part}.webp"
WIDTHS_SHEET = "widths.webp"
FIFTY_SHEET = "fifty.webp"
SCENES = (("strawberry", 2), ("fox", 0), ("octopus", 1))  # prompt and seed
RUN: dict[str, Any] = {"model": "emoji-unet", "sampler": "ddim", "steps": 5, "guidance": 3.0}


def request_values(prompt: str, seed: int, manual_schedule: str = "", granularity: str = "stage") -> dict[str, Any]:
    """List the values of a scene's `ExperimentRequest`: the lesson's run, where what is skipped hands back its last
    output."""
    settings = {"granularity": granularity, "order": 0}
    scene = {"prompt": prompt, "seed": seed, "manual_schedule": manual_schedule}
    return RUN | scene | {"method": "uniform", "settings": settings, "ratio": 0}
