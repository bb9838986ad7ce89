"""The SuperNet in training: every unit runs at every call, and a gate mixes what it computed with what it held.

    net = Mixture(denoiser, graph, NoiseEstimate.of(scheduler), Forecast(1))
    latents = trajectory.rollout(model, scheduler, 50, noise, conditioning, 7.5, net.at, Gates.of(own, graph))

With gates of 0 and 1 the values are those of `supernet.SuperNet` under the schedule; gradients flow through both sides
of each mixture and, from call to call, through what is held (Zhu et al., DiP-GO, NeurIPS 2024, section 3.2). Nothing is
detached. What the reference implementation leaves out: a unit that nobody reads still shows its reader what it would
hand on, so that a gate's gradient is that of its unit together with all that comes back with it.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._pytree import tree_map

from explorer.graph import BlockGraph, Forecast
from explorer.supernet import SAMPLE_ARGUMENT, NoiseEstimate, extrapolated, shadow

Held = Mapping[Any, tuple[tuple[int, Any], ...]]  # per unit (or WHOLE) its last computed values and their calls
WHOLE = "the noise estimate"


class Gates(NamedTuple):
    """Gates of a schedule, (T, U) each, differentiable, 0 or 1 in value; or (T, U, B), the same for all B pictures, so
    that each picture's gradient can be told from the others'."""

    own: torch.Tensor  # each unit's own
    live: torch.Tensor  # and read by somebody
    enters: torch.Tensor  # (T,) or (T, B): whether the denoiser's forward is entered at all
    looks: np.ndarray  # bool (T,): where, entered or not, the denoiser is run; elsewhere gates have no gradient

    @classmethod
    def of(cls, own: torch.Tensor, graph: BlockGraph, looks: np.ndarray | None = None) -> "Gates":
        """The cascade, inside the gradient: a unit is live as far as it and some chain of readers are kept."""
        demand: list[torch.Tensor | None] = [None] * len(graph.units)
        demand[-1] = torch.ones_like(own[:, -1])
        for column in reversed(range(len(graph.units))):
            unit = graph.units[column]
            passes_on = demand[column] if unit.transparent else demand[column] * own[:, column]
            for read in unit.reads:
                before = demand[read]  # one reader is enough: a + b - ab
                demand[read] = passes_on if before is None else before + passes_on - before * passes_on
        live = own * torch.stack(demand, dim=1)
        enters = 1 - (1 - live).prod(dim=1) if graph.units[-1].transparent else live[:, -1]
        return cls(own, live, enters, np.ones(len(own), dtype=bool) if looks is None else looks)


class Mixture:
    """`with net.at(call, gates, held) as held:` the denoiser's call inside mixes; what is held goes on to the next.

    The network is as it was between two calls, so that any of them may be run again at any time. Contexts (guidance
    in two passes) are not told apart.
    """

    def __init__(self, denoiser: torch.nn.Module, graph: BlockGraph, estimate: NoiseEstimate, forecast: Forecast):
        self.denoiser, self.graph, self.estimate, self.forecast = denoiser, graph, estimate, forecast
        self.held: dict[Any, tuple[tuple[int, Any], ...]] = {}
        self._sample_argument = SAMPLE_ARGUMENT.get(type(denoiser).__name__, "sample")
        self._inputs: dict[int, torch.Tensor] = {}

    @contextmanager
    def at(self, call: int, gates: Gates, held: Held) -> Iterator[Held]:
        """Inside, the denoiser makes its call number `call` under the gates, and changes what is yielded."""
        self.call, self.held = call, dict(held)
        self.own, self.live, self.enters = gates.own[call], gates.live[call], gates.enters[call]
        with ExitStack() as stack:
            if gates.looks[call]:
                for handle in self._hooks():
                    stack.callback(handle.remove)
            else:
                stack.callback(shadow(self.denoiser, "forward", self._hand_back))
            yield self.held
            self._inputs.clear()

    def _hand_back(self, *args: Any, **kwargs: Any) -> Any:
        """A call that is neither entered nor looked at."""
        sample = args[0] if args else kwargs[self._sample_argument]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        held = extrapolated(self.held[WHOLE], self.call, self.forecast.reach)
        return tree_map(lambda e: self.estimate.restated(e, sample, timestep), held)

    def _hooks(self) -> Iterator[Any]:
        last = len(self.graph.units) - 1
        for column, unit in enumerate(self.graph.units):
            if column == last and not unit.transparent:  # it decides on the whole call, so it is gated there
                continue
            modules = [self.denoiser.get_submodule(path) for path in self.graph.modules[column]]
            if unit.reuse == "residual":
                yield modules[0].register_forward_pre_hook(self._see(column), with_kwargs=True)
            yield modules[-1].register_forward_hook(self._mix_unit(column))
        yield self.denoiser.register_forward_hook(self._mix_call, with_kwargs=True)

    def _see(self, column: int) -> Any:
        def see(_module: Any, args: tuple, kwargs: dict) -> None:
            self._inputs[column] = args[0] if args else kwargs["hidden_states"]

        return see

    def _mix_unit(self, column: int) -> Any:
        adds_change = self.graph.units[column].reuse == "residual"

        def mix(_module: Any, _args: tuple, output: Any) -> Any:
            x = self._inputs.pop(column) if adds_change else None
            fresh = tree_map(lambda y: y - x, output) if adds_change else output
            if column not in self.held:  # call 0
                self.held[column] = ((self.call, fresh),)
                return output
            cached = extrapolated(self.held[column], self.call, self.forecast.reach)
            self._hold(column, fresh, cached, self.live[column])
            mixed = tree_map(lambda f, c: _mixed(self.own[column], f, c), fresh, cached)
            return tree_map(lambda y: x + y, mixed) if adds_change else mixed

        return mix

    def _mix_call(self, _module: Any, args: tuple, kwargs: dict, output: Any) -> Any:
        """Whole calls mix in the noise estimate: not entered, a call hands the last one back."""
        sample = args[0] if args else kwargs[self._sample_argument]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        fresh = tree_map(lambda y: self.estimate.reusable(y, sample, timestep), output)
        if WHOLE not in self.held:
            self.held[WHOLE] = ((self.call, fresh),)
            return output
        cached, enters = extrapolated(self.held[WHOLE], self.call, self.forecast.reach), self.enters
        self._hold(WHOLE, fresh, cached, enters)
        return tree_map(lambda y, e: _mixed(enters, y, self.estimate.restated(e, sample, timestep)), output, cached)

    def _hold(self, key: Any, fresh: Any, cached: Any, live: torch.Tensor) -> None:
        """What a live unit computed is held; a dead one's last value would have moved by as much, had it run."""
        *before, (call, value) = self.held[key]
        if live.detach().max() > 0.5:
            computed = tree_map(lambda f, c: _mixed(live, f, c), fresh, cached)
            self.held[key] = (*self.held[key], (self.call, computed))[-(self.forecast.order + 1) :]
        else:
            moved = tree_map(lambda v, f, c: v + _over(live, f) * (f - c), value, fresh, cached)
            self.held[key] = (*before, (call, moved))


def _mixed(gate: torch.Tensor, fresh: torch.Tensor, cached: torch.Tensor) -> torch.Tensor:
    share = _over(gate, fresh)
    return share * fresh + (1 - share) * cached


def _over(gate: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """One gate for all of `values`, or one a picture; guidance stacks the pictures twice."""
    if gate.ndim == 0:
        return gate
    return gate.repeat(len(values) // len(gate)).reshape(-1, *[1] * (values.ndim - 1)).to(values)
