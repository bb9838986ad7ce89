"""Runs a denoiser under a schedule: skipped units hand back what they computed at an earlier call.

    with SuperNet(denoiser, graph, keep, Prediction.of(scheduler), Extrapolation(1), scheduler):
        pipe("dog")

Calls of the denoiser and of the units that are skipped pass through here (see `call_wrapping`) until the way out, also
when an exception passes. See Zhu et al., DiP-GO, NeurIPS 2024, section 3.2, for the SuperNet; we cache what the unit
that is reused hands on, which is the same.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from explorer.execution.call_wrapping import (
    CallWrapping,
    argument_reader,
    is_wrapped,
    override_method,
    run_uncompiled,
)
from explorer.execution.feature_cache import WHOLE, FeatureCaches, add_streams, describe_batch, map_tensors
from explorer.execution.prediction import Prediction
from explorer.masks.block_graph import BlockGraph, Extrapolation

MIN_SIMILARITY = 0.99  # of latents and what a denoiser is given of them, which may be scaled
Context = str  # of calls that have a count and caches of their own


class SuperNet:
    """`with SuperNet(denoiser, graph, keep, prediction)`: calls of `denoiser` follow the schedule `keep`, bool (T, U).

    Calls are counted per context and start again at `reset()`, which `scheduler.set_timesteps` triggers when a
    scheduler is given. Raises ValueError when the sampler makes another number of calls than the schedule has rows,
    and RuntimeError when the denoiser runs under a schedule already.

    entry: what the pipeline calls, where that is not the denoiser but its compiled form. pipe: the pipeline, which may
    run a part of the scheduler's timesteps, or be interrupted. cond_first: which half of a guided batch saw the prompt,
    and stays when guidance is switched off in the middle of a run; None: not known. coefficients: of a `Schedule`.
    """

    def __init__(
        self,
        denoiser: torch.nn.Module,
        graph: BlockGraph,
        keep: np.ndarray,
        prediction: Prediction,
        extrapolation: Extrapolation = Extrapolation(),
        scheduler: Any = None,
        *,
        coefficients: np.ndarray | None = None,
        entry: torch.nn.Module | None = None,
        pipe: Any = None,
        cond_first: bool | None = None,
    ):
        self.denoiser, self.graph, self.scheduler = denoiser, graph, scheduler
        self.entry, self.pipe, self.cond_first = denoiser if entry is None else entry, pipe, cond_first
        self.keep, self.prediction, self.extrapolation = keep, prediction, extrapolation
        self.coefficients = coefficients
        self.needed = graph.needed(self.keep)
        self.runs = self.keep & self.needed
        self.runs_forward = self.runs.any(axis=1)  # (T,) whether the denoiser's forward is entered at all
        skipped = self.runs_forward[:, None] & ~self.runs
        self.has_gate = skipped.any(axis=0)  # (U,) the others never need a gate
        self.needs_cache = np.logical_or.accumulate(skipped[::-1])[::-1]  # (T, U) skipped at this call or after it
        self.context: Context = "default"
        self._wrappings: list[CallWrapping] = []  # the entry's first
        self._undo: list[Callable[[], None]] = []
        self.reset()

    # -- counting calls

    def reset(self) -> None:
        """Forget everything: the next call of each context is call 0."""
        self.calls: dict[Context, int] = defaultdict(int)  # calls made, per context
        self._caches = self._new_caches()
        self._inputs: dict[tuple[int, Context], list[torch.Tensor]] = {}
        self._batches: dict[Context, tuple[int, Any]] = {}  # of the last call: its size, and what else must stay
        self._first_input: torch.Tensor | None = None
        self._first_timestep: Any = None

    def _new_caches(self) -> FeatureCaches:
        return FeatureCaches(self.extrapolation, self.coefficients)

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
        if self.pipe is not None and not self.calls[self.context]:
            self._check_pipe()
        self.calls[self.context] += 1
        return self._call

    def _check_pipe(self) -> None:
        """Raise ValueError, before the first call, where the pipeline's run is not the schedule's."""
        if self.pipe.scheduler is not self.scheduler:
            raise ValueError("the pipeline has been given another scheduler; apply the schedule after that")
        # strength, `denoising_end` and others leave timesteps out; the older pipelines have no such attribute
        calls = getattr(self.pipe, "_num_timesteps", None) or len(self.scheduler.timesteps)
        if calls != len(self.keep):
            raise ValueError(
                f"the pipeline makes {calls} calls, but the schedule has {len(self.keep)}; "
                f"choose other steps, or make a schedule of {calls} calls"
            )

    # -- attaching and detaching

    def __enter__(self) -> "SuperNet":
        if is_wrapped(self.denoiser) or is_wrapped(self.entry):
            raise RuntimeError("this denoiser runs under a schedule already; leave that context first")
        self.reset()
        self._wrap(self.entry, self._denoiser_call())
        for column in np.flatnonzero(self.has_gate):
            modules = [self.denoiser.get_submodule(path) for path in self.graph.modules[column]]
            for module in modules:
                ends = (module is modules[0], module is modules[-1])
                self._wrap(module, self._unit_call(int(column), module, *ends))
        self._uncompile_around_gates()
        if hasattr(self.denoiser, "cache_context"):  # by which FLUX's pipeline names its two passes of guidance
            named = partial(self._cache_context, self.entry.cache_context)
            self._undo.append(override_method(self.entry, "cache_context", named))
        if self.scheduler is not None:
            self._override("set_timesteps", self._set_timesteps)
            if self.prediction.reads_input:
                self._override("step", self._step)
        return self

    @contextmanager
    def _cache_context(self, original: Any, name: str, **kwargs: Any) -> Iterator[None]:
        with self.in_context(name), original(name, **kwargs):
            yield

    def _override(self, name: str, replacement: Callable) -> None:
        """Have a method of the scheduler pass through `replacement`, which gets the method first."""
        method = getattr(self.scheduler, name)

        @wraps(method)  # a function, which is not copied with a scheduler's state, as Panorama does
        def passed_through(*args: Any, **kwargs: Any) -> Any:
            return replacement(method, *args, **kwargs)

        self._undo.append(override_method(self.scheduler, name, passed_through))

    def _wrap(self, module: torch.nn.Module, wrapper: Callable) -> None:
        self._wrappings.append(CallWrapping(module, wrapper))
        self._undo.append(self._wrappings[-1].undo)

    def _uncompile_around_gates(self) -> None:
        """Run the blocks around a gate as if nobody had compiled them: a gate decides anew at each call."""
        gated = [path for column in np.flatnonzero(self.has_gate) for path in self.graph.modules[column]]
        parents = {path.rsplit(".", depth)[0] for path in gated for depth in range(1, path.count(".") + 1)}
        for module in map(self.denoiser.get_submodule, sorted(parents.difference(gated))):
            if not isinstance(module, torch.nn.ModuleList):
                self._wrap(module, partial(run_uncompiled, module))

    def __exit__(self, exception_type: Any, *_: Any) -> None:
        made = {count for count in self.calls.values() if count not in (0, len(self.keep))}
        is_displaced = self._wrappings[0].is_displaced
        while self._undo:
            self._undo.pop()()
        self._wrappings.clear()
        self.reset()
        if is_displaced and exception_type is None:
            raise RuntimeError("the denoiser's class was changed within the context; what it made since is not pruned")
        if made and exception_type is None and not getattr(self.pipe, "_interrupt", False):
            raise ValueError(f"the sampler made {made.pop()} calls, but the schedule has {len(self.keep)}")

    def _set_timesteps(self, original: Callable, *args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        self.reset()
        calls = len(self.scheduler.timesteps)
        if self.pipe is None and calls != len(self.keep):
            raise ValueError(f"the sampler makes {calls} calls, but the schedule has {len(self.keep)}")

    def _step(self, original: Callable, *args: Any, **kwargs: Any) -> Any:
        """Make a step of the scheduler. Raises ValueError after the first call where the latents were not the first
        channels of the denoiser's input, of which the noise estimate is made (Marigold's are the last)."""
        latents = kwargs["sample"] if "sample" in kwargs else args[2]
        if self._first_input is not None and self._first_input.shape[1] > latents.shape[1]:
            x = self._first_input[: len(latents), : latents.shape[1]].flatten()
            if torch.cosine_similarity(x.double(), latents.flatten().double(), dim=0) < MIN_SIMILARITY:
                raise ValueError(
                    "which channels of the denoiser's input are the latents is not known, so that its "
                    f"{self.prediction.kind} cannot be reused; a model that predicts epsilon can be"
                )
        self._first_input = None
        return original(*args, **kwargs)

    # -- running

    def _denoiser_call(self) -> Callable:
        """Skip whole calls: when no unit runs, the denoiser is not entered and hands back its last noise estimate."""
        caches_noise = not self.runs_forward.all()
        read_sample, read_timestep = (argument_reader(self.denoiser, name) for name in self.graph.arguments)

        def call_denoiser(original: Callable, *args: Any, **kwargs: Any) -> Any:
            for wrapping in self._wrappings:
                wrapping.reattach()
            call, context = self._next_call(), self.context
            if self.has_gate.any():
                original = partial(run_uncompiled, self.denoiser, original)
            sample, timestep = read_sample(args, kwargs), read_timestep(args, kwargs)
            self._check_timestep(call, timestep)
            self._fit_caches(sample)
            if self.prediction.reads_input and not call:
                self._first_input = sample
            if self.runs_forward[call] and not caches_noise:
                return original(*args, **kwargs)
            cache = self._caches[WHOLE, context]
            if self.runs_forward[call]:
                output = original(*args, **kwargs)
                cache.push(call, map_tensors(lambda y: self.prediction.to_epsilon(y, sample, timestep), output))
                return output
            value = cache.at(call, sample)
            return map_tensors(lambda e: self.prediction.from_epsilon(e, sample, timestep), value)

        return call_denoiser

    def _check_timestep(self, call: int, timestep: Any) -> None:
        """Raise ValueError at the second call of a pipeline that calls the denoiser more than once per step."""
        if call == 0:
            self._first_timestep = timestep
        if call != 1 or self.pipe is None or self.context != "default":
            return
        first, second = (float(torch.as_tensor(t).flatten()[0]) for t in (self._first_timestep, timestep))
        if first == second and not _repeats(self.scheduler.timesteps):
            raise ValueError(
                f"a {type(self.pipe).__name__} calls the denoiser more than once at timestep {first:g}, and a schedule "
                "has one row per timestep"
            )

    def _fit_caches(self, sample: torch.Tensor) -> None:
        """Keep, of what is cached, the half that saw the prompt where guidance has just been switched off.

        Raises ValueError for any other change within a run.
        """
        batch, kind = len(sample), (tuple(sample.shape[1:]), sample.dtype, sample.device)
        before, kind_before = self._batches.get(self.context, (batch, kind))
        self._batches[self.context] = batch, kind
        if (before, kind_before) == (batch, kind):
            return
        if kind != kind_before or before != 2 * batch or self.cond_first is None:
            raise ValueError(
                f"the denoiser's input changed within a run, from {describe_batch(before, kind_before)} to "
                f"{describe_batch(batch, kind)}; what was computed at earlier calls does not fit it"
            )
        half = slice(0, batch) if self.cond_first else slice(batch, None)
        for (_, context), cache in self._caches.items():
            if context == self.context:
                cache.change(lambda value: value[half])

    def _unit_call(self, column: int, module: torch.nn.Module, is_first: bool, is_last: bool) -> Callable:
        """Gate a unit of one or more modules in a row: the first takes the input in, the last hands the output on."""
        is_residual = self.graph.units[column].reuse == "residual"
        readers = [argument_reader(module, name) for name in self.graph.streams[column] or ("",)]

        def call_unit(original: Callable, *args: Any, **kwargs: Any) -> Any:
            call, key = self._call, (column, self.context)
            if is_first and is_residual:
                inputs = [read(args, kwargs) for read in readers]
                self._inputs[key] = [one.clone() for one in inputs] if self.runs[call, column] else inputs
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

        return call_unit

    def _cached(self, call: int, key: tuple[int, Context]) -> Any:
        """Return the value of a unit that is skipped; a dead unit's value is not read, so it is not extrapolated."""
        cache = self._caches[key]
        return cache.at(call) if self.needed[call, key[0]] else cache.values[-1][1]


def _repeats(timesteps: torch.Tensor) -> bool:
    """Say whether a sampler calls the denoiser twice at a timestep, as PNDM and Heun do."""
    return bool((timesteps[1:] == timesteps[:-1]).any())
