"""What can be asked of an executor: work by name, each a generator of items that go from process to process."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from safetensors.numpy import load, save

from explorer import experiment
from explorer.features import Similarity
from explorer.files import bytes_of, contiguous
from explorer.masks import Importance
from explorer.team import Make
from explorer.widths import WidthImportance, found_in
from explorer.work import Progress

BEAT = 1.0  # seconds


def _planned(question: experiment.Question, path: str = "") -> Iterator[experiment.Plan]:
    """What `experiment.plan` says; the file at `path` takes the place of the method."""
    yield experiment.plan(question, found_in(path) if path else None)


def _compared(question: experiment.Question, path: str = "", rival: bool = True) -> Iterator[experiment.Frame]:
    """What `experiment.compare` says; `path` as above."""
    yield from experiment.compare(question, found_in(path) if path else None, rival)


def _measured(question: experiment.Question) -> Iterator[Progress | Similarity]:
    from explorer.similarity import measure

    model, trajectory = experiment.loaded(question.model), (question.sampler, question.steps, question.guidance)
    found = yield from measure(model, [question.prompt], question.seed, *trajectory)
    yield found


def _pruned(
    method: str,
    model: str,
    settings: Mapping[str, Any],
    prompts: Sequence[str] = (),
    state: bytes | None = None,
    workers: int = 1,
) -> Iterator[dict[str, Any]]:
    """Steps in plain values, {done, total, message, numbers, state, picture}, and while one takes long what `_beating`
    says; in the end {file}, the bytes of a mask or importance. `state` is what an earlier step handed out: with it the
    work goes on exactly from there. So many `workers` share it at most."""
    from explorer.jobs.processes import hired  # here, because processes do works
    from explorer.supernet import counted

    config, subject = experiment.config_of(method, settings), experiment.loaded(model)
    with hired(min(workers, config.pieces), model) as team, counted(subject.denoiser) as calls:
        work = experiment.prune(subject, method, config, prompts, load(state) if state else None, team)
        found = yield from _beating(work, calls)
    yield {"file": bytes_of(_decided(found, config.ratio))}


def _beating(work: Generator[Progress, None, Any], calls: Callable[[], int]) -> Generator[dict[str, Any], None, Any]:
    """The steps of a method in plain values; in between, every BEAT seconds, {calls, of}: how many calls of the network
    the next step has made, and how many the last one took (0 before the first, and where others make them)."""
    before, of = calls(), 0
    with ThreadPoolExecutor(1) as thread:
        while True:
            step = thread.submit(next, work)
            while not wait([step], BEAT).done:
                yield {"calls": calls() - before, "of": of}
            before, of = calls(), calls() - before
            try:
                told = step.result()
            except StopIteration as stop:
                return stop.value
            yield told._asdict() | {"numbers": dict(told.numbers), "state": told.state and save(contiguous(told.state))}


def _decided(found: Any, ratio: float | None) -> Any:
    """An importance's mask at a ratio that was asked for."""
    return found if ratio is None or not isinstance(found, (Importance, WidthImportance)) else found.at(ratio)


@dataclass(frozen=True)
class Errand:
    """What a team is asked to answer items by; the same id, the same errand."""

    id: str
    make: Make = field(compare=False)
    given: tuple[Any, ...] = field(compare=False)


@lru_cache(maxsize=2)  # a search has two at most: its steps, and what it is tried on
def _made(errand: Errand, *subject: str) -> Callable[..., Any]:
    return errand.make(experiment.loaded(*subject), *errand.given)


def _piece(subject: tuple[str, str, str], errand: Errand, item: tuple[Any, ...]) -> Iterator[Any]:
    """One answer; `subject` is the model, its device and its dtype. See `explorer.team`."""
    yield _made(errand, *subject)(*item)


WORKS: MappingProxyType[str, Callable[..., Iterator[Any]]] = MappingProxyType(
    {"plan": _planned, "compare": _compared, "measure": _measured, "prune": _pruned, "piece": _piece}
)
