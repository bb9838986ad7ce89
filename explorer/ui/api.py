"""The requests of the Explore tab for programs: `/generate`, `/mask` and `/cost`, with plain typed arguments."""

from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from explorer.experiment import ExperimentRequest, SchedulePlan
from explorer.jobs import tasks
from explorer.masks.encoding import encode_bits
from explorer.ui import url_state
from explorer.ui.budgets import ENDING
from explorer.ui.components import user_errors
from explorer.ui.runs import VisitorRuns

COSTS = (
    *("calls", "asked", "reached", "max_ratio", "kept", "macs_per_call", "macs_total", "macs_kept"),
    *("baseline_sampler", "baseline_steps", "baseline_kept"),
)
TABLES = ("units", "macs_share", "timesteps", "status", "source_call")


class Api:
    """The endpoints."""

    def __init__(self, runs: VisitorRuns):
        self.runs = runs

    def _plan(self, arguments: Mapping[str, Any]) -> SchedulePlan:
        with user_errors() as sentences:
            for plan in self.runs.alone(arguments["request"])(tasks.plan, _request(arguments, prompt="-")):
                return plan
            sentences.append(ENDING)  # the page closed its processes
        raise gr.Error(sentences[0], print_exception=False)

    def cost(
        self,
        request: gr.Request,
        method: str = "uniform",
        ratio: float = 0.5,
        steps: int = 25,
        settings: dict = {},  # noqa: B006 -- gradio shows the default; it is only read
        model: str = "emoji-unet",
        sampler: str = "ddim",
        baseline_sampler: str = "dpm++",
        manual_schedule: str = "",
    ) -> dict:
        """Compute what a schedule costs, and which few-step sampler costs the same.

        `manual_schedule` is one as `/mask` returns it.
        """
        return _costs(self._plan(locals()))

    def mask(
        self,
        request: gr.Request,
        method: str = "uniform",
        ratio: float = 0.5,
        steps: int = 25,
        settings: dict = {},  # noqa: B006 -- gradio shows the default; it is only read
        model: str = "emoji-unet",
        sampler: str = "ddim",
        baseline_sampler: str = "dpm++",
        manual_schedule: str = "",
    ) -> dict:
        """Compute which unit runs at which call: `status` (calls x units): 0 computed, 1 reused, 2 dead.

        `manual_schedule` is the schedule as the other endpoints take it.
        """
        plan = self._plan(locals())
        tables = {name: getattr(plan, name) for name in TABLES}
        tables = {name: value.tolist() if hasattr(value, "tolist") else list(value) for name, value in tables.items()}
        return _costs(plan) | tables | {"manual_schedule": encode_bits(plan.keep)}

    def generate(
        self,
        request: gr.Request,
        prompt: str = "",
        method: str = "uniform",
        ratio: float = 0.5,
        steps: int = 25,
        seed: int = 0,
        settings: dict = {},  # noqa: B006 -- gradio shows the default; it is only read
        model: str = "emoji-unet",
        sampler: str = "ddim",
        baseline_sampler: str = "dpm++",
        guidance: float = 7.5,
        manual_schedule: str = "",
    ) -> Iterator[dict]:
        """Generate the original, the pruned and the equal-compute picture, each as soon as it is done (PNG, base64)."""
        arguments = locals()
        with user_errors() as sentences:
            finished = {}
            for frame in self.runs.alone(request)(tasks.compare, _request(arguments)):
                if frame.done:
                    finished[frame.role] = {**vars(frame), "picture": b64encode(frame.picture).decode()}
                    yield dict(finished)
            return
        raise gr.Error(sentences[0], print_exception=False)


def publish(runs: VisitorRuns) -> None:
    """Add the endpoints to the page that is being built."""
    api = Api(runs)
    for endpoint in (api.cost, api.mask, api.generate):
        gr.api(endpoint, api_name=endpoint.__name__)


def _request(arguments: Mapping[str, Any], **others: Any) -> ExperimentRequest:
    """Make the request of an endpoint's arguments. Raises ValueError for what is not valid, or not offered."""
    given = {name: value for name, value in arguments.items() if name in ExperimentRequest.model_fields}
    return url_state.check_offered(ExperimentRequest(**given | others))


def _costs(plan: SchedulePlan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in COSTS}
