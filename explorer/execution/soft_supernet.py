"""The SuperNet in training: every unit runs at every call, and a gate mixes what it computed with its cached value.

    net = SoftSuperNet(denoiser, graph, Prediction.of(scheduler), Extrapolation(1))
    latents = rollout(model, scheduler, 50, noise, conditioning, 7.5, net.at, ScheduleGates.of(own, graph))

With gates of 0 and 1 the values are those of `supernet.SuperNet` under the schedule; gradients flow through both sides
of each mixture and, from call to call, through the caches (Zhu et al., DiP-GO, NeurIPS 2024, section 3.2). Nothing is
detached. What the reference implementation leaves out: a unit that is not needed still shows its reader what it would
hand on, so that a gate's gradient is that of its unit together with all that comes back with it.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from explorer.execution.call_wrapping import argument_reader, override_method
from explorer.execution.feature_cache import add_streams, copy_tensors, extrapolate, map_tensors
from explorer.execution.prediction import Prediction
from explorer.masks.block_graph import BlockGraph, Extrapolation

CacheState = Mapping[
    Any, tuple[tuple[int, Any], ...]
]  # per unit (or NOISE_KEY) its last computed values and their calls
NOISE_KEY = "noise estimate"


class ScheduleGates(NamedTuple):
    """Gates of a schedule, (T, U) each, differentiable, 0 or 1 in value; or (T, U, B), the same for all B pictures, so
    that each picture's gradient can be told from the others'."""

    own: torch.Tensor  # each unit's own
    live: torch.Tensor  # and needed by a unit that runs
    runs_forward: torch.Tensor  # (T,) or (T, B): whether the denoiser's forward is entered at all
    evaluated_calls: np.ndarray  # bool (T,): where the denoiser runs, entered or not; elsewhere gates have no gradient

    @classmethod
    def of(cls, own: torch.Tensor, graph: BlockGraph, evaluated_calls: np.ndarray | None = None) -> "ScheduleGates":
        """Apply the cascade inside the gradient: a unit is live as far as it and some chain of readers are kept."""
        needed: dict[int, torch.Tensor] = {len(graph.units) - 1: torch.ones_like(own[:, -1])}
        for column in reversed(range(len(graph.units))):
            unit = graph.units[column]
            passes_on = needed[column] if unit.passes_input else needed[column] * own[:, column]
            for read in unit.reads:
                before = needed.get(read)  # one reader is enough: a + b - ab
                needed[read] = passes_on if before is None else before + passes_on - before * passes_on
        live = own * torch.stack([needed[column] for column in range(len(graph.units))], dim=1)
        runs_forward = 1 - (1 - live).prod(dim=1) if graph.units[-1].passes_input else live[:, -1]
        evaluated_calls = np.ones(len(own), dtype=bool) if evaluated_calls is None else evaluated_calls
        return cls(own, live, runs_forward, evaluated_calls)


class SoftSuperNet:
    """`with net.at(call, gates, cached) as cached:` the denoiser's call inside mixes; the caches pass to the next
    call.

    The network is unchanged between two calls, so that any of them may be run again at any time. Contexts (guidance in
    two passes) are not told apart.
    """

    def __init__(
        self, denoiser: torch.nn.Module, graph: BlockGraph, prediction: Prediction, extrapolation: Extrapolation
    ):
        self.denoiser, self.graph, self.prediction, self.extrapolation = denoiser, graph, prediction, extrapolation
        self.cached: dict[Any, tuple[tuple[int, Any], ...]] = {}
        self._read_sample, self._read_timestep = (argument_reader(denoiser, name) for name in graph.arguments)
        self._inputs: dict[int, list[torch.Tensor]] = {}

    @contextmanager
    def at(self, call: int, gates: ScheduleGates, cached: CacheState) -> Iterator[CacheState]:
        """Have the denoiser make its call number `call` under the gates, which changes the caches that are yielded."""
        self.call, self.cached = call, dict(cached)
        self.own, self.live, self.runs_forward = gates.own[call], gates.live[call], gates.runs_forward[call]
        with ExitStack() as stack:
            if gates.evaluated_calls[call]:
                for handle in self._hooks():
                    stack.callback(handle.remove)
            else:
                stack.callback(override_method(self.denoiser, "forward", self._skip_call))
            yield self.cached
            self._inputs.clear()

    def _skip_call(self, *args: Any, **kwargs: Any) -> Any:
        """Hand back the last noise estimate at a call that is neither entered nor evaluated."""
        sample, timestep = self._read_sample(args, kwargs), self._read_timestep(args, kwargs)
        value = self._extrapolate(NOISE_KEY)
        return map_tensors(lambda e: self.prediction.from_epsilon(e, sample, timestep), value)

    def _hooks(self) -> Iterator[Any]:
        last = len(self.graph.units) - 1
        for column, unit in enumerate(self.graph.units):
            if column == last and not unit.passes_input:  # it decides on the whole call, so it is gated there
                continue
            modules = [self.denoiser.get_submodule(path) for path in self.graph.modules[column]]
            if unit.reuse == "residual":
                yield modules[0].register_forward_pre_hook(self._record_inputs(column, modules[0]), with_kwargs=True)
            yield modules[-1].register_forward_hook(self._mix_unit(column))
        yield self.denoiser.register_forward_hook(self._mix_call, with_kwargs=True)

    def _record_inputs(self, column: int, module: torch.nn.Module) -> Any:
        readers = [argument_reader(module, name) for name in self.graph.streams[column] or ("",)]

        def record(_module: Any, args: tuple, kwargs: dict) -> None:
            self._inputs[column] = [read(args, kwargs) for read in readers]

        return record

    def _mix_unit(self, column: int) -> Any:
        is_residual = self.graph.units[column].reuse == "residual"

        def mix(_module: Any, _args: tuple, output: Any) -> Any:
            streams = self._inputs.pop(column) if is_residual else []
            fresh = add_streams(output, streams, -1) if is_residual else output
            if column not in self.cached:  # call 0
                self.cached[column] = ((self.call, copy_tensors(fresh)),)  # others may change it in place
                return output
            cached = self._extrapolate(column)
            self._update_cache(column, fresh, cached, self.live[column])
            mixed = map_tensors(lambda f, c: _mix(self.own[column], f, c), fresh, cached)
            return add_streams(mixed, streams) if is_residual else mixed

        return mix

    def _mix_call(self, _module: Any, args: tuple, kwargs: dict, output: Any) -> Any:
        """Mix whole calls in the noise estimate: a call that is not entered hands the last one back."""
        sample, timestep = self._read_sample(args, kwargs), self._read_timestep(args, kwargs)
        fresh = map_tensors(lambda y: self.prediction.to_epsilon(y, sample, timestep), output)
        if NOISE_KEY not in self.cached:
            self.cached[NOISE_KEY] = ((self.call, copy_tensors(fresh)),)
            return output
        cached, gate = self._extrapolate(NOISE_KEY), self.runs_forward
        self._update_cache(NOISE_KEY, fresh, cached, gate)
        return map_tensors(
            lambda y, e: _mix(gate, y, self.prediction.from_epsilon(e, sample, timestep)), output, cached
        )

    def _extrapolate(self, key: Any) -> Any:
        return extrapolate(self.cached[key], self.call, self.extrapolation.max_extrapolation)

    def _update_cache(self, key: Any, fresh: Any, cached: Any, live: torch.Tensor) -> None:
        """Cache what a live unit computed; a dead one's last value would have moved by as much, had it run."""
        *before, (call, value) = self.cached[key]
        if live.detach().max() > 0.5:
            computed = map_tensors(lambda f, c: _mix(live, f, c), fresh, cached)
            self.cached[key] = (*self.cached[key], (self.call, computed))[-(self.extrapolation.order + 1) :]
        else:
            moved = map_tensors(lambda v, f, c: v + _expand(live, f) * (f - c), value, fresh, cached)
            self.cached[key] = (*before, (call, moved))


def _mix(gate: torch.Tensor, fresh: torch.Tensor, cached: torch.Tensor) -> torch.Tensor:
    share = _expand(gate, fresh)
    return share * fresh + (1 - share) * cached


def _expand(gate: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Expand one gate for all of `values`, or one per picture; guidance stacks the pictures twice."""
    if gate.ndim == 0:
        return gate
    return gate.repeat(len(values) // len(gate)).reshape(-1, *[1] * (values.ndim - 1)).to(values)
