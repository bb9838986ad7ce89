"""Read this first: a question, the schedule that answers it, the pictures with and without it, what it costs and loses.

    question = Question(prompt="dog", method="uniform", ratio=0.5)
    plan(question)         # which block runs at which call, and what that costs: arithmetic
    compare(question)      # the pictures: full run, pruned run, and a few-step sampler for the same MACs

Importing this loads no torch; the functions do.
"""

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from explorer import catalogue, shipped
from explorer.drawing import Frame, draw, under
from explorer.graph import BlockGraph
from explorer.masks import Importance, Mask, Result
from explorer.model import FAMILIES, Model
from explorer.pruners.configs import CONFIGS, WIDTHS, ScheduleConfig
from explorer.team import Team
from explorer.widths import Found, WidthImportance, Widths
from explorer.work import Progress, finished

if TYPE_CHECKING:
    import pandas as pd

    from explorer.evidence.evaluation import Contender, Full, Pair


class Question(BaseModel):
    """What to draw and what to leave out of it. Raises pydantic.ValidationError; `sentence` puts it in one sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = Field("emoji-unet", max_length=500)
    method: str = "uniform"
    settings: dict[str, Any] = {}  # the method's own fields: granularity, reuse, order, and more
    prompt: str = Field("dog", max_length=500)
    seed: int = Field(0, ge=0, le=2**32 - 1)
    steps: int = Field(25, ge=1, le=1000)
    sampler: str = Field("ddim", max_length=20)
    guidance: float = Field(7.5, ge=0, le=100)
    ratio: float = Field(0.5, ge=0, le=1)
    rival: str = Field("dpm++", max_length=20)  # the sampler that stands beside it with the same MACs
    keep: str = Field("", max_length=200_000)  # a schedule by hand, as `letters.packed` writes it

    @field_validator("prompt")
    @classmethod
    def _not_empty(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("please say what to draw; the prompt is empty")
        return prompt.strip()

    @model_validator(mode="after")
    def _known_method(self) -> "Question":
        config_of(self.method, self.settings)
        return self

    @property
    def config(self) -> ScheduleConfig:
        """The method's settings for this trajectory and ratio."""
        trajectory = {name: getattr(self, name) for name in ("steps", "sampler", "guidance", "seed", "ratio")}
        return config_of(self.method, self.settings, trajectory)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a schedule does, in plain numbers: T calls, U units."""

    graph: BlockGraph
    order: int  # of extrapolation
    units: tuple[str, ...]
    shares: np.ndarray  # (U,) of a call's MACs
    timesteps: np.ndarray  # (T,)
    fate: np.ndarray  # (T, U) int8: 0 computed, 1 reused, 2 dead (skipped, and nobody reads it)
    source: np.ndarray  # (T, U) int32: the call whose value it holds
    asked: float | None  # none where the method's settings name the schedule
    reached: float
    max_ratio: float
    kept: float
    macs_per_call: int
    macs_total: int
    macs_kept: int
    calls: int
    rival_sampler: str
    rival_steps: int
    rival_kept: float
    goes: np.ndarray | None = None  # (T, U) share of the MACs gone once this unit has; none for a single mask
    score: np.ndarray | None = None  # (T, U) what that order was built from


def config_of(method: str, settings: Mapping[str, Any], trajectory: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The validated settings of a method, and of the trajectory what it asks for. Raises ValueError for an unknown
    method or a bad field."""
    known = CONFIGS | WIDTHS
    if method not in known:
        raise ValueError(f"method {method!r} is unknown; choose one of {', '.join(known)}")
    wanted = {name: value for name, value in trajectory.items() if name in known[method].model_fields}
    return known[method](**wanted | dict(settings))


def sentence(error: Exception) -> str:
    """Any user error as one sentence; a field's error as `field: what is wrong`."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    said = first["msg"].removeprefix("Value error, ")
    shown = repr(first["input"])
    got = f" (got {shown if len(shown) <= 60 else shown[:57] + '...'})" if field else ""
    return f"{field}: {said[:1].lower() + said[1:]}{got}" if field else said


LOADING = Lock()


@lru_cache(maxsize=4)
def _load(model_id: str, device: str, dtype: str) -> Model:
    return catalogue.load(model_id, device=device, dtype=dtype)


def loaded(model_id: str, device: str = "", dtype: str = "float32") -> Model:
    """A model of this process, loaded once, where the page computes. Who runs it under a schedule takes a `twin()`."""
    with LOADING:
        return _load(model_id, device or catalogue.device(), dtype)


def prune(
    model: Model,
    method: str,
    config: ScheduleConfig,
    prompts: Sequence[str] = (),
    state: Mapping[str, Any] | None = None,
    team: Team | None = None,
) -> Generator[Progress, None, Result]:
    """Run a method: a mask where its settings name one ratio, else an importance that serves all. A `team` of this
    model shares the work that falls into `config.pieces`; `state` is what a learning method handed out when it was
    stopped. Raises ValueError for a state where nothing is learned."""
    from explorer.pruners import PRUNERS

    if state is not None and not config.LEARNS:
        raise ValueError(f"{method} learns nothing that it could go on with; run it anew")
    given = ({"state": state} if config.LEARNS else {}) | ({"team": team} if config.pieces > 1 else {})
    return PRUNERS[method](model, prompts, config, **given)


def answer(model: Model, question: Question) -> Result:
    """What its method says to a question: made at once, or looked up where a method has to learn first.

    Raises ValueError where the method makes a smaller network instead of a schedule.
    """
    if question.method in WIDTHS:
        raise ValueError(f"method {question.method!r} makes a smaller network, not a schedule of calls")
    if not question.config.RUNS_MODEL:
        return finished(prune(model, question.method, question.config))
    return shipped.find(model.id, question.method, question.sampler, question.steps, question.settings)


def mask_for(model: Model, question: Question) -> Mask:
    """The schedule that a question asks for."""
    return _chosen(answer(model, question), question)


@lru_cache(maxsize=8)
def _widths(model_id: str, method: str, settings: str, ratio: float) -> Widths:
    return shipped.find_widths(model_id, method, json.loads(settings)).at(ratio)


def widths_for(question: Question) -> Widths:
    """What is left of the network that a question asks for, as was learned beforehand; needs no torch."""
    return _widths(question.model, question.method, json.dumps(question.settings, sort_keys=True), question.ratio)


def pruned(model: Model, question: Question, found: Found | None = None) -> tuple[Model, Mask | None, float]:
    """What a question draws with, a smaller network or the whole one under a mask, and the share of MACs kept; what a
    file holds (`found`) takes the place of what the method says."""
    if found is None:
        found = widths_for(question) if question.method in WIDTHS else answer(model, question)
    found = found.at(question.ratio) if isinstance(found, WidthImportance) else found
    if isinstance(found, Widths):
        return _narrowed(model, found), None, found.kept_macs
    mask = _chosen(found, question)
    return model, mask, mask.kept


@lru_cache(maxsize=4)
def _narrowed(model: Model, widths: Widths) -> Model:
    return widths.narrowed(model)


def _chosen(result: Result, question: Question) -> Mask:
    """The mask of the moment; a schedule made by hand takes its place, closed."""
    mask = result.at(question.ratio) if isinstance(result, Importance) else result
    return mask.by_hand(question.keep) if question.keep else mask


def apply(pipe: Any, mask: Mask) -> AbstractContextManager:
    """`with apply(pipe, mask):` around ordinary calls of a diffusers pipeline. Raises ValueError if it does not fit.

    The pipeline must be sampled with as many calls as the mask has rows, and its denoiser have the mask's units.
    """
    family = FAMILIES.get(type(pipe).__name__)
    if family is None:
        raise ValueError(f"{type(pipe).__name__} is not a known pipeline; known are {', '.join(FAMILIES)}")
    return under(mask, getattr(pipe, family.denoiser), pipe.scheduler)


def plan(question: Question, found: Result | None = None) -> Plan:
    """Which unit runs at which call, and its cost; `found` as above. Raises ValueError for what cannot be asked."""
    from explorer import trajectory

    model = loaded(question.model)
    result = found or answer(model, question)
    order = result if isinstance(result, Importance) else None
    mask = _chosen(result, question)
    graph, calls = mask.header.graph, mask.header.calls
    scheduler = trajectory.sampler(question.sampler, model.scheduler_config)
    scheduler.set_timesteps(question.steps)
    reused = graph.demanded(mask.keep) & mask.keep.any(axis=1, keepdims=True)
    rows = np.where(mask.keep, np.arange(calls)[:, None], 0)
    rival_steps, rival_calls = trajectory.equal_steps(question.rival, model.scheduler_config, mask.kept * calls)
    total = graph.macs_per_call * calls
    return Plan(
        graph=graph,
        order=mask.header.order,
        units=graph.names,
        shares=graph.macs / graph.macs_per_call,
        timesteps=scheduler.timesteps.double().numpy(),
        fate=np.where(mask.keep, 0, np.where(reused, 1, 2)).astype(np.int8),
        source=np.maximum.accumulate(rows, axis=0).astype(np.int32),
        goes=order and order.goes,
        score=order and order.score,
        asked=mask.header.ratio.asked,
        reached=1 - mask.kept,
        max_ratio=mask.header.max_ratio,
        kept=mask.kept,
        macs_per_call=graph.macs_per_call,
        macs_total=total,
        macs_kept=int(graph.cost(mask.keep).sum()),
        calls=calls,
        rival_sampler=question.rival,
        rival_steps=rival_steps,
        rival_kept=rival_calls / calls,
    )


def evaluate(
    model: Model,
    full: "Full",
    contenders: Sequence["Contender"],
    pairs: Sequence["Pair"],
    out: Path,
    real: Path | None = None,
    **options: Any,
) -> Generator[Progress, None, "pd.DataFrame"]:
    """Draw and measure everybody on the same pictures; returns the summary. See `evidence.evaluation.evaluate`.

    `real` is a folder of real pictures, for KID and FID by Inception's features.
    """
    from explorer.evidence.evaluation import evaluate as measured
    from explorer.evidence.jury import Jury
    from explorer.evidence.summary import summary

    jury = Jury.of(model, real)
    rows = yield from measured(model, full, contenders, pairs, out, jury=jury, **options)
    return summary(rows, jury.real)


def compare(question: Question, found: Found | None = None, rival: bool = True) -> Iterator[Frame]:
    """The full run, the pruned run and the few-step rival, from the same noise, call by call; `found` as above."""
    from explorer import trajectory
    from explorer.metrics import IMAGE_MEASURES

    model = loaded(question.model)
    subject, mask, kept = pruned(model, question, found)
    calls = trajectory.calls_of(question.sampler, model.scheduler_config, question.steps)
    rival_steps, _ = trajectory.equal_steps(question.rival, model.scheduler_config, kept * calls)
    runs = {
        "original": (model, question.sampler, question.steps, None),
        "pruned": (subject, question.sampler, question.steps, mask),
    } | ({"rival": (model, question.rival, rival_steps, None)} if rival else {})
    original = None
    for role, (drawing, sampler, steps, schedule) in runs.items():
        frames = draw(drawing, [question.prompt], [question.seed], sampler, steps, question.guidance, schedule)
        for frame, pictures in frames:
            losses = {}
            if pictures is not None and original is not None:
                losses = {name: float(measure(pictures, original)) for name, measure in IMAGE_MEASURES.items()}
            yield replace(frame, role=role, **losses)
        original = pictures if original is None else original
