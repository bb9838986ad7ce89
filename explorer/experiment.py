"""Read this first: a request, the schedule that it leads to, the pictures with and without it, what it costs and loses.

    request = ExperimentRequest(prompt="dog", method="uniform", ratio=0.5)
    plan(request)          # which unit runs at which call, and what that costs: arithmetic
    compare(request)       # the pictures: full run, pruned run, and a few-step sampler with the same MACs

Importing this loads no torch; the functions do.
"""

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from explorer.bundled import masks as bundled
from explorer.masks.block_graph import BlockGraph
from explorer.masks.result import PruningResult
from explorer.masks.schedule import Schedule
from explorer.masks.width import Widths
from explorer.masks.width_header import WidthHeader
from explorer.measures.table import PAGE_METRICS
from explorer.models import catalogue
from explorer.models.model import Model
from explorer.progress import Progress, run_to_completion
from explorer.pruners import PRUNERS, method_config
from explorer.pruners.schedule_configs import SamplerName
from explorer.pruners.worker_pool import WorkerPool
from explorer.sampling.generate import Frame, generate

if TYPE_CHECKING:
    import pandas as pd

    from explorer.evaluation.evaluate import Candidate, ReferenceRun, Sample

EMPTY_PROMPT = "Type what to draw."


class ExperimentRequest(BaseModel):
    """What to generate and what to leave out. Raises pydantic.ValidationError, which `errors.format_error`
    describes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = Field("emoji-unet", max_length=500)
    method: str = "uniform"
    settings: dict[str, Any] = {}  # the method's own fields: granularity, reuse, order, and more
    prompt: str = Field("dog", max_length=500)
    seed: int = Field(0, ge=0, le=2**32 - 1)
    steps: int = Field(25, ge=1, le=1000)
    sampler: SamplerName = "ddim"
    guidance: float = Field(7.5, ge=0, le=100)
    ratio: float = Field(0.5, ge=0, le=1)
    baseline_sampler: SamplerName = "dpm++"  # the few-step sampler with the same MACs
    manual_schedule: str = Field("", max_length=200_000)  # as `encoding.encode_bits` writes it

    @field_validator("prompt")
    @classmethod
    def _not_empty(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError(EMPTY_PROMPT)
        return prompt.strip()

    @model_validator(mode="after")
    def _known_method(self) -> "ExperimentRequest":
        method_config(self.method, self.settings)
        return self

    @property
    def config(self) -> Any:
        """The method's settings for this trajectory and ratio."""
        trajectory = {name: getattr(self, name) for name in ("steps", "sampler", "guidance", "seed", "ratio")}
        return method_config(self.method, self.settings, trajectory)


class Status(IntEnum):
    """What happens to a unit at a call."""

    COMPUTED = 0
    REUSED = 1
    DEAD = 2  # skipped, and no running unit reads it


@dataclass(frozen=True, eq=False)
class SchedulePlan:
    """What a schedule does, in plain numbers: T calls, U units."""

    schedule: Schedule  # which `compare` takes as its result
    graph: BlockGraph
    order: int  # of extrapolation: one less than the values that are combined
    units: tuple[str, ...]
    macs_share: np.ndarray  # (U,) of a call's MACs
    timesteps: np.ndarray  # (T,)
    status: np.ndarray  # (T, U) int8, a `Status`
    source_call: np.ndarray  # (T, U) int32: the call whose value it holds
    asked: float | None  # None where the method's settings name the schedule
    reached: float
    max_ratio: float
    kept: float
    macs_per_call: int
    macs_total: int
    macs_kept: int
    calls: int
    baseline_sampler: str
    baseline_steps: int
    baseline_kept: float
    removal_ratio: np.ndarray | None = None  # (T, U) share of the MACs removed once this unit is; None for a mask
    score: np.ndarray | None = None  # (T, U) what that order was built from

    @property
    def keep(self) -> np.ndarray:
        """bool (T, U): what is computed."""
        return self.schedule.keep


MODEL_LOCK = Lock()


@lru_cache(maxsize=4)
def _load(model_id: str, device: str, dtype: str, variant: str, offload: bool) -> Model:
    return catalogue.load(model_id, device=device, dtype=dtype, variant=variant, offload=offload)


def load_cached(
    model_id: str, device: str = "", dtype: str = "float32", variant: str = "", offload: bool = False
) -> Model:
    """Load a model once per process, on the default device. Callers that change it take `with_shared_weights()`."""
    with MODEL_LOCK:
        return _load(model_id, device or catalogue.default_device(), dtype, variant, offload)


def prune(
    model: Model,
    method: str,
    config: Any,
    prompts: Sequence[str] = (),
    state: Mapping[str, Any] | None = None,
    pool: WorkerPool | None = None,
) -> Generator[Progress, None, Any]:
    """Run a method: it returns a mask where its settings name one ratio, else an importance for all ratios.

    A `pool` of this model's workers shares the work that is divided into `config.num_tasks`; `state` is what a learning
    method yielded when it was stopped. Raises ValueError for a state where nothing is learned.
    """
    row = PRUNERS[method]
    if state is not None and not row.learns:
        raise ValueError(f"{method} learns nothing that it could resume from; run it again")
    options = ({"state": state} if row.learns else {}) | ({"pool": pool} if config.num_tasks > 1 else {})
    return row.run(model, prompts, config, **options)


def find_result(model: Model, request: ExperimentRequest) -> Any:
    """Find what the method of a request makes of its schedules: made at once, or bundled where it has to learn first.

    Raises ValueError where the method makes a smaller network instead of a schedule.
    """
    if PRUNERS[request.method].prunes == "widths":
        raise ValueError(f"method {request.method!r} makes a smaller network, not a schedule of calls")
    if not PRUNERS[request.method].needs_weights:
        return run_to_completion(prune(model, request.method, request.config))
    return bundled.find_schedule(model.id, request.method, request.sampler, request.steps, request.settings)


@lru_cache(maxsize=8)
def _widths_at(model_id: str, method: str, settings: str, ratio: float) -> Widths:
    return bundled.find_widths(model_id, method, json.loads(settings)).at(ratio)


def request_of_widths(model_id: str, header: WidthHeader, ratio: float, **others: Any) -> ExperimentRequest:
    """Make the request that a bundled file of widths answers at a ratio; `others`: prompt, seed, trajectory."""
    settings = {name: value for name, value in header.pruner.config.items() if name not in ("ratio", "seed")}
    return ExperimentRequest(model=model_id, method=header.pruner.name, settings=settings, ratio=ratio, **others)


def widths_at(request: ExperimentRequest) -> Widths:
    """Find what is left of the network of a request, as was learned beforehand; needs no torch."""
    return _widths_at(request.model, request.method, json.dumps(request.settings, sort_keys=True), request.ratio)


def mask_at(model: Model, request: ExperimentRequest, result: PruningResult | None = None) -> Any:
    """Decide the mask of a request; a manual schedule replaces its decisions, closed.

    What a file holds (`result`) takes the place of the method's own result.
    """
    if result is None and PRUNERS[request.method].prunes == "widths":
        return widths_at(request)
    mask = (result or find_result(model, request)).at(request.ratio)
    return mask.with_manual_keep(request.manual_schedule) if request.manual_schedule else mask


def plan(request: ExperimentRequest, result: PruningResult | None = None) -> SchedulePlan:
    """Compute which unit runs at which call, and its cost; `result` as in `mask_at`.

    Raises ValueError for an impossible request.
    """
    from explorer.sampling.schedulers import equal_nfe_steps, make_scheduler

    model = load_cached(request.model)
    result = result or find_result(model, request)
    schedule = mask_at(model, request, result)
    header, keep, kept = schedule.header, schedule.keep, schedule.macs_fraction
    graph, calls = header.graph, header.calls
    scheduler = make_scheduler(request.sampler, model.scheduler_config)
    scheduler.set_timesteps(request.steps)
    reused = graph.needed(keep) & keep.any(axis=1, keepdims=True)
    computed_calls = np.where(keep, np.arange(calls)[:, None], 0)
    baseline_steps, baseline_calls = equal_nfe_steps(request.baseline_sampler, model.scheduler_config, kept * calls)
    return SchedulePlan(
        schedule=schedule,
        graph=graph,
        order=header.order if schedule.coefficients is None else schedule.coefficients.shape[1] - 2,
        units=graph.names,
        macs_share=graph.macs / graph.macs_per_call,
        timesteps=scheduler.timesteps.double().numpy(),
        status=np.where(keep, Status.COMPUTED, np.where(reused, Status.REUSED, Status.DEAD)).astype(np.int8),
        source_call=np.maximum.accumulate(computed_calls, axis=0).astype(np.int32),
        removal_ratio=getattr(result, "removal_ratio", None),
        score=getattr(result, "score", None),
        asked=header.ratio.asked,
        reached=1 - kept,
        max_ratio=header.max_ratio,
        kept=kept,
        macs_per_call=graph.macs_per_call,
        macs_total=graph.macs_per_call * calls,
        macs_kept=int(graph.cost(keep).sum()),
        calls=calls,
        baseline_sampler=request.baseline_sampler,
        baseline_steps=baseline_steps,
        baseline_kept=baseline_calls / calls,
    )


def evaluate(
    model: Model,
    reference: "ReferenceRun",
    candidates: Sequence["Candidate"],
    samples: Sequence["Sample"],
    out: Path,
    real: Path | None = None,
    **options: Any,
) -> Generator[Progress, None, "pd.DataFrame"]:
    """Generate and measure all candidates on the same samples; returns the summary. See `evaluation.evaluate`.

    `real` is a folder of real pictures, for KID and FID by Inception's features.
    """
    from explorer.evaluation.evaluate import evaluate as run_evaluation
    from explorer.evaluation.scorers import Scorers
    from explorer.evaluation.statistics import summarize

    scorers = Scorers.of(model, real)
    rows = yield from run_evaluation(model, reference, candidates, samples, out, scorers=scorers, **options)
    return summarize(rows, scorers.real)


def compare(
    request: ExperimentRequest, result: PruningResult | None = None, with_baseline: bool = True
) -> Iterator[Frame]:
    """Generate the full run, the pruned run and the few-step baseline, from the same noise, call by call; `result` as
    in `mask_at`."""
    from explorer.sampling.schedulers import equal_nfe_steps, num_function_evals

    model = load_cached(request.model)
    mask = mask_at(model, request, result)
    calls = num_function_evals(request.sampler, model.scheduler_config, request.steps)
    budget = mask.macs_fraction * calls
    baseline_steps, _ = equal_nfe_steps(request.baseline_sampler, model.scheduler_config, budget)
    runs: Mapping[str, tuple[str, int, Any]] = {
        "original": (request.sampler, request.steps, None),
        "pruned": (request.sampler, request.steps, mask),
    } | ({"baseline": (request.baseline_sampler, baseline_steps, None)} if with_baseline else {})
    original = None
    for role, (sampler, steps, applied) in runs.items():
        for frame, pictures in generate(
            model, [request.prompt], [request.seed], sampler, steps, request.guidance, applied
        ):
            losses: dict[str, Any] = {}
            if pictures is not None and original is not None:
                losses = {metric.name: float(metric.on_pictures(pictures, original)) for metric in PAGE_METRICS}
            yield replace(frame, role=role, **losses)
        original = pictures if original is None else original
