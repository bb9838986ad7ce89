"""Runs a denoiser under a schedule: skipped units hand back what they computed at an earlier call.

    with SuperNet(denoiser, graph, keep, Prediction.of(scheduler), Extrapolation(1), scheduler):
        pipe("dog")

Forwards are replaced on the instances and put back on the way out, also when an exception passes. See Zhu et al.,
DiP-GO, NeurIPS 2024, section 3.2, for the SuperNet; we cache what the unit that is reused hands on, which is the same.
"""

import inspect
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from explorer.execution.prediction import Prediction
from explorer.masks.block_graph import BlockGraph, Extrapolation

Context = str  # of calls that have a count and caches of their own


def extrapolate(values: Sequence[tuple[int, Any]], call: int, max_extrapolation: int | None = None) -> Any:
    """Continue the polynomial through computed values (call, value) to `call`, but for at most so many calls.

    A value is a tensor or a tree of tensors. A single value is returned as it is.
    """
    if len(values) == 1:
        return values[0][1]
    call = call if max_extrapolation is None else min(call, values[-1][0] + max_extrapolation)
    calls = [known for known, _ in values]
    weights = [np.prod([(call - c) / (k - c) for c in calls if c != k]) for k in calls]  # Lagrange
    return tree_map(
        lambda *leaves: sum(float(w) * leaf for w, leaf in zip(weights, leaves, strict=True)),
        *(value for _, value in values),
    )


class FeatureCache:
    """The last computed values of one quantity, and how to extrapolate them."""

    def __init__(self, extrapolation: Extrapolation):
        self.values: deque[tuple[int, Any]] = deque(maxlen=extrapolation.order + 1)
        self.max_extrapolation = extrapolation.max_extrapolation

    def push(self, call: int, value: Any) -> None:
        self.values.append((call, value))

    def at(self, call: int) -> Any:
        return extrapolate(self.values, call, self.max_extrapolation)


def override_method(owner: Any, name: str, replacement: Callable) -> Callable[[], None]:
    """Put a method of the instance in front of its class's. Returns what undoes it: an instance attribute that was
    there before comes back."""
    before = vars(owner).get(name)
    owner.__dict__[name] = replacement

    def undo() -> None:
        if before is None:
            del owner.__dict__[name]
        else:
            owner.__dict__[name] = before

    return undo


def argument_reader(function: Callable, name: str = "") -> Callable[[tuple, dict], Any]:
    """Make a function that reads an argument of a call of `function`, passed by position or by name; default: the
    first.

    Raises ValueError where `function` has no such argument.
    """
    parameters = list(inspect.signature(function).parameters)
    name = name or parameters[0]
    position = parameters.index(name)
    return lambda args, kwargs: kwargs[name] if name in kwargs else args[position]


def add_streams(values: Any, streams: Sequence[torch.Tensor], sign: int = 1) -> Any:
    """Add to each tensor of `values`, in order, the stream that belongs to it; `sign` -1 subtracts."""
    leaves, form = tree_flatten(values)
    pairs = zip(leaves, streams, strict=True)
    return tree_unflatten([stream + leaf if sign > 0 else leaf - stream for leaf, stream in pairs], form)


class SuperNet:
    """`with SuperNet(denoiser, graph, keep, prediction)`: calls of `denoiser` follow the schedule `keep`, bool (T, U).

    Calls are counted per context and start again at `reset()`, which `scheduler.set_timesteps` triggers when a
    scheduler is given. Raises ValueError when the sampler makes another number of calls than the schedule has rows,
    and RuntimeError when the denoiser runs under a schedule already.
    """

    def __init__(
        self,
        denoiser: torch.nn.Module,
        graph: BlockGraph,
        keep: np.ndarray,
        prediction: Prediction,
        extrapolation: Extrapolation = Extrapolation(),
        scheduler: Any = None,
    ):
        self.denoiser, self.graph, self.scheduler = denoiser, graph, scheduler
        self.keep, self.prediction, self.extrapolation = keep, prediction, extrapolation
        self.needed = graph.needed(self.keep)
        self.runs = self.keep & self.needed
        self.runs_forward = self.runs.any(axis=1)  # (T,) whether the denoiser's forward is entered at all
        skipped = self.runs_forward[:, None] & ~self.runs
        self.has_gate = skipped.any(axis=0)  # (U,) the others never need a gate
        self.needs_cache = np.logical_or.accumulate(skipped[::-1])[::-1]  # (T, U) skipped at this call or after it
        self.context: Context = "default"
        self._undo: list[Callable[[], None]] = []
        self.reset()

    # -- counting calls

    def reset(self) -> None:
        """Forget everything: the next call of each context is call 0."""
        self.calls: dict[Context, int] = defaultdict(int)  # calls made, per context
        self._caches: dict[tuple[Any, Context], FeatureCache] = defaultdict(lambda: FeatureCache(self.extrapolation))
        self._inputs: dict[tuple[int, Context], list[torch.Tensor]] = {}

    @contextmanager
    def in_context(self, name: Context) -> Iterator[None]:
        """Give the calls inside a count and caches of their own (guidance in two passes, say)."""
        before, self.context = self.context, name
        try:
            yield
        finally:
            self.context = before

    @property
    def _call(self) -> int:
        return self.calls[self.context] - 1

    def _next_call(self) -> int:
        if self.calls[self.context] >= len(self.keep):
            raise ValueError(f"the sampler calls the denoiser more often than the schedule's {len(self.keep)} calls")
        self.calls[self.context] += 1
        return self._call

    # -- attaching and detaching

    def __enter__(self) -> "SuperNet":
        if "forward" in vars(self.denoiser) and hasattr(self.denoiser.forward, "supernet"):
            raise RuntimeError("this denoiser runs under a schedule already; leave that context first")
        self.reset()
        self._replace(self.denoiser, "forward", self._denoiser_forward)
        for column in np.flatnonzero(self.has_gate):
            modules = [self.denoiser.get_submodule(path) for path in self.graph.modules[column]]
            for module in modules:
                ends = (module is modules[0], module is modules[-1])
                self._replace(module, "forward", self._unit_forward(int(column), *ends))
        if self.scheduler is not None:
            self._replace(self.scheduler, "set_timesteps", self._set_timesteps)
        return self

    def __exit__(self, exception_type: Any, *_: Any) -> None:
        made = {count for count in self.calls.values() if count not in (0, len(self.keep))}
        while self._undo:
            self._undo.pop()()
        self.reset()
        if made and exception_type is None:
            raise ValueError(f"the sampler made {made.pop()} calls, but the schedule has {len(self.keep)}")

    def _replace(self, owner: Any, name: str, make: Callable[[Callable], Callable]) -> None:
        original = getattr(owner, name)
        replacement: Any = update_wrapper(make(original), original)  # callers look at signatures
        replacement.supernet = self
        self._undo.append(override_method(owner, name, replacement))

    def _set_timesteps(self, original: Callable) -> Callable:
        def set_timesteps(*args: Any, **kwargs: Any) -> None:
            original(*args, **kwargs)
            self.reset()
            if len(self.scheduler.timesteps) != len(self.keep):
                raise ValueError(
                    f"the sampler makes {len(self.scheduler.timesteps)} calls, but the schedule has {len(self.keep)}"
                )

        return set_timesteps

    # -- running

    def _denoiser_forward(self, original: Callable) -> Callable:
        """Skip whole calls: when no unit runs, the denoiser is not entered and hands back its last noise estimate."""
        caches_noise = not self.runs_forward.all()
        read_sample, read_timestep = (argument_reader(original, name) for name in self.graph.arguments)

        def forward(*args: Any, **kwargs: Any) -> Any:
            call, context = self._next_call(), self.context
            if self.runs_forward[call] and not caches_noise:
                return original(*args, **kwargs)
            sample, timestep = read_sample(args, kwargs), read_timestep(args, kwargs)
            cache = self._caches["denoiser", context]
            if self.runs_forward[call]:
                output = original(*args, **kwargs)
                cache.push(call, tree_map(lambda y: self.prediction.to_epsilon(y, sample, timestep), output))
                return output
            return tree_map(lambda e: self.prediction.from_epsilon(e, sample, timestep), cache.at(call))

        return forward

    def _unit_forward(self, column: int, is_first: bool, is_last: bool) -> Callable[[Callable], Callable]:
        """Gate a unit of one or more modules in a row: the first takes the input in, the last hands the output on."""
        is_residual = self.graph.units[column].reuse == "residual"

        def make(original: Callable) -> Callable:
            readers = [argument_reader(original, name) for name in self.graph.streams[column] or ("",)]

            def forward(*args: Any, **kwargs: Any) -> Any:
                call, key = self._call, (column, self.context)
                if is_first and is_residual:
                    self._inputs[key] = [read(args, kwargs) for read in readers]
                if self.runs[call, column]:
                    output = original(*args, **kwargs)
                    if is_last and self.needs_cache[call, column]:
                        value = add_streams(output, self._inputs[key], -1) if is_residual else output
                        self._caches[key].push(call, value)
                    return output
                value = self._cached(call, key)
                if is_residual:
                    value = add_streams(value, self._inputs[key])
                return value if is_last else tree_leaves(value)[0]  # the rest of the unit does not read its input

            return forward

        return make

    def _cached(self, call: int, key: tuple[int, Context]) -> Any:
        """Return the value of a unit that is skipped; a dead unit's value is not read, so it is not extrapolated."""
        cache = self._caches[key]
        return cache.at(call) if self.needed[call, key[0]] else cache.values[-1][1]


@contextmanager
def record_outputs(
    denoiser: torch.nn.Module, graph: BlockGraph, columns: list[int], record: Callable[[int, torch.Tensor], None]
) -> Iterator[None]:
    """Call `record(index, output)` inside whenever one of the units `columns` has run."""

    def hook(index: int) -> Callable:
        return lambda _module, _inputs, output: record(
            index, tree_leaves(output)[0]
        )  # a down stage hands out skips too

    last = [denoiser.get_submodule(graph.modules[column][-1]) for column in columns]
    handles = [module.register_forward_hook(hook(index)) for index, module in enumerate(last)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def count_calls(denoiser: torch.nn.Module) -> Iterator[Callable[[], int]]:
    """Yield a function that says how often a denoiser was called since, with all copies that are made of it
    meanwhile."""
    made = [0]

    def count(*_: Any) -> None:
        made[0] += 1

    hook = denoiser.register_forward_pre_hook(count)
    try:
        yield lambda: made[0]
    finally:
        hook.remove()
