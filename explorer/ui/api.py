"""The two questions of the Explore tab for programs: `/plan` and `/draw`, with plain typed arguments."""

from base64 import b64encode
from collections.abc import Iterator

import gradio as gr

from explorer import experiment
from explorer.experiment import Question
from explorer.ui import address
from explorer.ui.components import user_errors


def publish() -> None:
    """Add both to the page that is being built."""
    gr.api(plan, api_name="plan", concurrency_limit=4)
    gr.api(draw, api_name="draw", concurrency_limit=4, concurrency_id="draw")


def plan(
    method: str = "uniform",
    ratio: float = 0.5,
    steps: int = 25,
    settings: dict = {},  # noqa: B006 -- gradio shows the default; it is only read
    model: str = "emoji-unet",
    sampler: str = "ddim",
    rival: str = "dpm++",
) -> dict:
    """What a schedule skips and what that costs, by arithmetic alone."""
    asked = locals()
    with user_errors() as said:
        question = Question(**asked, prompt="-")
        planned = vars(experiment.plan(address.offered(question)))
        return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in planned.items()}
    raise gr.Error(said[0])


def draw(
    prompt: str = "",
    method: str = "uniform",
    ratio: float = 0.5,
    steps: int = 25,
    seed: int = 0,
    settings: dict = {},  # noqa: B006 -- gradio shows the default; it is only read
    model: str = "emoji-unet",
    sampler: str = "ddim",
    rival: str = "dpm++",
    guidance: float = 7.5,
) -> Iterator[dict]:
    """The original, the pruned and the equal-compute picture, each as soon as it is finished (PNG, base64)."""
    asked = locals()
    with user_errors() as said:
        finished = {}
        for frame in experiment.compare(address.offered(Question(**asked))):
            if frame.done:
                finished[frame.role] = {**vars(frame), "picture": b64encode(frame.picture).decode()}
                yield dict(finished)
        return
    raise gr.Error(said[0])
