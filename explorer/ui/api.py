"""The questions of the Explore tab for programs: `/generate`, `/mask` and `/cost`, with plain typed arguments."""

from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import gradio as gr

from explorer.experiment import Plan, Question
from explorer.jobs.executors import PLACES, Executor
from explorer.letters import packed
from explorer.ui import address
from explorer.ui.components import user_errors

COSTS = ("calls", "asked", "reached", "max_ratio", "kept", "macs_per_call", "macs_total", "macs_kept")
COSTS += ("rival_sampler", "rival_steps", "rival_kept")
TABLES = ("units", "shares", "timesteps", "fate", "source")


class Api:
    """The questions; `executor` does the work."""

    def __init__(self, executor: Executor):
        self.executor = executor

    def _planned(self, asked: Mapping[str, Any]) -> Plan:
        with user_errors() as said:
            return next(self.executor.run(uuid4().hex, "plan", address.offered(Question(**asked, prompt="-"))))
        raise gr.Error(said[0])

    def cost(
        self,
        method: str = "uniform",
        ratio: float = 0.5,
        steps: int = 25,
        settings: dict = {},  # noqa: B006 -- gradio shows the default; it is only read
        model: str = "emoji-unet",
        sampler: str = "ddim",
        rival: str = "dpm++",
        keep: str = "",
    ) -> dict:
        """What a schedule costs, and which few-step sampler costs the same; `keep` is a schedule made by hand."""
        asked = {name: value for name, value in locals().items() if name in Question.model_fields}
        return _costs(self._planned(asked))

    def mask(
        self,
        method: str = "uniform",
        ratio: float = 0.5,
        steps: int = 25,
        settings: dict = {},  # noqa: B006 -- gradio shows the default; it is only read
        model: str = "emoji-unet",
        sampler: str = "ddim",
        rival: str = "dpm++",
        keep: str = "",
    ) -> dict:
        """Which unit runs at which call: `fate` (calls x units), and the schedule in letters, as `keep` takes it."""
        asked = {name: value for name, value in locals().items() if name in Question.model_fields}
        plan = self._planned(asked)
        tables = {name: getattr(plan, name) for name in TABLES}
        tables = {name: value.tolist() if hasattr(value, "tolist") else list(value) for name, value in tables.items()}
        return _costs(plan) | tables | {"keep": packed(plan.fate == 0)}

    def generate(
        self,
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
        keep: str = "",
    ) -> Iterator[dict]:
        """The original, the pruned and the equal-compute picture, each as soon as it is finished (PNG, base64)."""
        asked = {name: value for name, value in locals().items() if name in Question.model_fields}
        with user_errors() as said:
            finished = {}
            for frame in self.executor.run(uuid4().hex, "compare", address.offered(Question(**asked))):
                if frame.done:
                    finished[frame.role] = {**vars(frame), "picture": b64encode(frame.picture).decode()}
                    yield dict(finished)
            return
        raise gr.Error(said[0])


def publish(executor: Executor) -> None:
    """Add them to the page that is being built."""
    api = Api(executor)
    gr.api(api.cost, api_name="cost", concurrency_limit=4)
    gr.api(api.mask, api_name="mask", concurrency_limit=4)
    gr.api(api.generate, api_name="generate", concurrency_limit=PLACES, concurrency_id="draw")


def _costs(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in COSTS}
