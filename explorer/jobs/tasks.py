"""The tasks of executors: generator functions whose arguments and items can be sent from process to process."""

from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

from safetensors.numpy import load, save

from explorer import experiment
from explorer.jobs.executors.pools import worker_pool
from explorer.jobs.prune_request import PruneRequest
from explorer.masks.file_format import RatioError, contiguous, to_bytes
from explorer.masks.result import PruningResult
from explorer.masks.result import load as load_result
from explorer.measures.similarity_file import Similarity
from explorer.models import catalogue, own_config
from explorer.progress import Progress
from explorer.pruners import method_config
from explorer.pruners.furthest import furthest_ratios

HEARTBEAT_S = 1.0


def plan(
    request: experiment.ExperimentRequest, path: str = "", at_most: bool = False
) -> Iterator[experiment.SchedulePlan]:
    """Yield `experiment.plan`; the file at `path` takes the place of the method. With `at_most`, a ratio that cannot be
    reached becomes the largest whole percent that can, and stays in `asked`."""
    result = load_result(path) if path else None
    try:
        yield experiment.plan(request, result)
    except RatioError as error:
        if not at_most:
            raise
        largest = request.model_copy(update={"ratio": int(100 * error.largest) / 100})
        yield replace(experiment.plan(largest, result), asked=request.ratio)


def compare(
    request: experiment.ExperimentRequest, result: PruningResult | str | None = None, with_baseline: bool = True
) -> Iterator[experiment.Frame]:
    """Yield the frames of `experiment.compare`; `result`, or the file of that path, takes the place of the method."""
    result = load_result(result) if isinstance(result, str) and result else result or None
    yield from experiment.compare(request, result, with_baseline)


def measure(request: experiment.ExperimentRequest) -> Iterator[Progress | Similarity]:
    """Yield progress, and then how similar the features of a request's calls are."""
    from explorer.measures.feature_similarity import measure as measure_features

    trajectory = (request.sampler, request.steps, request.guidance)
    model = experiment.load_cached(request.model)
    yield (yield from measure_features(model, [request.prompt], request.seed, *trajectory))


def describe_model(source: str) -> Iterator[dict[str, Any]]:
    """Yield `catalogue.describe`: the row of a model that an operator adds."""
    yield catalogue.describe(source)


def describe_architecture(source: str, config: Mapping[str, Any] | None, steps: int) -> Iterator[dict[str, Any]]:
    """Yield what the architecture alone says, without weights: of a `config` that `own_config.read_config` checked, or
    of a model of the catalogue."""
    model = own_config.build(config) if config else catalogue.load(source, weights=False)
    architecture = model.architecture()
    graph = architecture.graph
    yield {
        "model": model.id,
        "denoiser": model.record.denoiser,
        "params": architecture.params,
        "macs_per_call": graph.macs_per_call,
        "macs_attention": architecture.macs_attention,
        "units": [[name, int(macs)] for name, macs in zip(graph.names, graph.macs, strict=True)],
        "furthest": furthest_ratios(model, steps),
    }


def prune(request: PruneRequest) -> Iterator[dict[str, Any]]:
    """Yield steps in plain values, {done, total, message, metrics, state, picture}, and during a long one heartbeats;
    at the end {file}, the bytes of a mask or importance."""
    from explorer.execution.recording import count_calls

    config, model = method_config(request.method, request.settings), experiment.load_cached(request.model)
    workers, state = min(request.workers, config.num_tasks), load(request.state) if request.state else None
    with worker_pool(workers, request.scheduler, request.model) as pool, count_calls(model.denoiser) as num_calls:
        work = experiment.prune(model, request.method, config, request.prompts, state, pool)
        result = yield from _with_heartbeat(work, num_calls)
    yield {"file": to_bytes(result if config.ratio is None else result.at(config.ratio))}


def _with_heartbeat(
    work: Generator[Progress, None, Any], num_calls: Callable[[], int]
) -> Generator[dict[str, Any], None, Any]:
    """Yield the steps of a method in plain values, and meanwhile every HEARTBEAT_S {calls, of}: the calls of the
    network that the next step has made, and those of the last one.

    The latter are 0 before the first step, and where other processes make the calls.
    """
    before, of = num_calls(), 0
    with ThreadPoolExecutor(1) as thread:
        while True:
            step = thread.submit(next, work)
            while not wait([step], HEARTBEAT_S).done:
                yield {"calls": num_calls() - before, "of": of}
            before, of = num_calls(), num_calls() - before
            try:
                progress = step.result()
            except StopIteration as stop:
                return stop.value
            state = progress.state and save(contiguous(progress.state))
            yield progress._asdict() | {"metrics": dict(progress.metrics), "state": state}
