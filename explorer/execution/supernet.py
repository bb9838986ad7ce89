"""Running a denoiser under a schedule: skipped units hand back what they computed at an earlier call.

    with SuperNet(denoiser, graph, keep, NoiseEstimate.of(scheduler), Forecast(1), scheduler):
        pipe("dog")

One of the two files that touch a network. Forwards are replaced on the instances and put back on the way out, also
when an exception passes. See Zhu et al., DiP-GO, NeurIPS 2024, section 3.2, for the SuperNet; we cache at the producer,
which is the same thing.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map

from explorer.graph import BlockGraph, Forecast

SAMPLE_ARGUMENT = {"DiTTransformer2DModel": "hidden_states"}  # the others call it `sample`


@dataclass(frozen=True)
class NoiseEstimate:
    """What a denoiser's output means: x = alpha x0 + sigma epsilon, and the output is one of `KINDS` of it."""

    kind: str
    sigma_of_t: np.ndarray | None = None  # sigma / alpha for each training timestep, (1000,)

    KINDS = ("epsilon", "v_prediction", "sample", "flow_prediction")

    @classmethod
    def of(cls, scheduler: Any) -> "NoiseEstimate":
        """Read from a diffusers scheduler. Raises ValueError for a prediction type that is not known."""
        if type(scheduler).__name__.startswith("FlowMatch"):
            return cls("flow_prediction")
        kind = scheduler.config.get("prediction_type", "epsilon")
        if kind not in cls.KINDS:
            raise ValueError(f"prediction type {kind!r} is unknown; known are {', '.join(cls.KINDS)}")
        alphas = scheduler.alphas_cumprod.double().cpu().numpy()
        return cls(kind, np.sqrt((1 - alphas) / alphas))

    def _levels(self, timestep: Any) -> tuple[float, float]:
        """alpha and sigma at a timestep; between two training timesteps sigma / alpha is linear, as in Euler's."""
        t = float(torch.as_tensor(timestep).flatten()[0])
        ratio = float(np.interp(t, np.arange(len(self.sigma_of_t)), self.sigma_of_t))
        alpha = (1 + ratio**2) ** -0.5
        return alpha, ratio * alpha

    def reusable(self, output: torch.Tensor, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        """The quantity a later call may reuse: epsilon, or a flow's velocity as it is."""
        if self.kind in ("epsilon", "flow_prediction"):
            return output
        alpha, sigma = self._levels(timestep)
        x, y = sample.double(), output.double()
        return alpha * y + sigma * x if self.kind == "v_prediction" else (x - alpha * y) / sigma

    def restated(self, quantity: torch.Tensor, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        """That quantity as the output of a call at `timestep` with the input `sample`."""
        if self.kind in ("epsilon", "flow_prediction"):
            return quantity
        alpha, sigma = self._levels(timestep)
        x0 = (sample.double() - sigma * quantity) / alpha
        return (alpha * quantity - sigma * x0 if self.kind == "v_prediction" else x0).to(sample.dtype)

    def clean(self, output: torch.Tensor, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        """The estimate of x0 behind an output: what a preview decodes. A flow's timestep counts thousandths."""
        if self.kind == "flow_prediction":
            return sample - float(torch.as_tensor(timestep).flatten()[0]) / 1000 * output
        alpha, sigma = self._levels(timestep)
        return ((sample - sigma * self.reusable(output, sample, timestep)) / alpha).to(sample.dtype)


def extrapolated(values: Sequence[tuple[int, Any]], call: int, reach: int | None = None) -> Any:
    """The polynomial through computed values (call, value), continued to `call`, but at most `reach` calls; of a single
    value, that value."""
    if len(values) == 1:
        return values[0][1]
    call = call if reach is None else min(call, values[-1][0] + reach)
    calls = [known for known, _ in values]
    weights = [np.prod([(call - c) / (k - c) for c in calls if c != k]) for k in calls]  # Lagrange
    return tree_map(
        lambda *leaves: sum(float(w) * leaf for w, leaf in zip(weights, leaves, strict=True)),
        *(value for _, value in values),
    )


class History:
    """The last computed values of one quantity. `at(call)` continues the polynomial through them; order 0: the last."""

    def __init__(self, forecast: Forecast):
        self.values: deque[tuple[int, Any]] = deque(maxlen=forecast.order + 1)
        self.reach = forecast.reach

    def push(self, call: int, value: Any) -> None:
        self.values.append((call, value))

    def at(self, call: int) -> Any:
        return extrapolated(self.values, call, self.reach)


def shadow(owner: Any, name: str, replacement: Callable) -> Callable[[], None]:
    """Put a method of the instance in front of its class's. Returns what takes it away again: an instance attribute
    that was there before comes back."""
    before = vars(owner).get(name)
    owner.__dict__[name] = replacement

    def undo() -> None:
        if before is None:
            del owner.__dict__[name]
        else:
            owner.__dict__[name] = before

    return undo


class SuperNet:
    """`with SuperNet(denoiser, graph, keep, estimate)`: calls of `denoiser` follow the schedule `keep` (T, U).

    Calls are counted per context and start again at `reset()`, which `scheduler.set_timesteps` triggers when a
    scheduler is given. Raises ValueError when the sampler makes another number of calls than the schedule has rows,
    and RuntimeError when the denoiser runs under a schedule already.
    """

    def __init__(
        self,
        denoiser: torch.nn.Module,
        graph: BlockGraph,
        keep: np.ndarray,
        estimate: NoiseEstimate,
        forecast: Forecast = Forecast(),
        scheduler: Any = None,
    ):
        self.denoiser, self.graph, self.scheduler = denoiser, graph, scheduler
        self.keep, self.estimate, self.forecast = keep, estimate, forecast
        self.demanded = graph.demanded(self.keep)
        self.runs = self.keep & self.demanded
        self.enters = self.runs.any(axis=1)  # (T,) whether the denoiser's forward is entered at all
        skipped = self.enters[:, None] & ~self.runs
        self.gated = skipped.any(axis=0)  # (U,) the others never need a gate
        self.reused_later = np.logical_or.accumulate(skipped[::-1])[::-1]  # (T, U) at this call or after it
        self.context = "default"
        self._sample_argument = SAMPLE_ARGUMENT.get(type(denoiser).__name__, "sample")
        self._undo: list[Callable[[], None]] = []
        self.reset()

    # -- counting calls

    def reset(self) -> None:
        """Forget everything: the next call of each context is call 0."""
        self.calls: dict[str, int] = defaultdict(int)  # calls made, per context
        self._histories: dict[tuple[Any, str], History] = defaultdict(lambda: History(self.forecast))
        self._inputs: dict[tuple[int, str], torch.Tensor] = {}

    @contextmanager
    def in_context(self, name: str) -> Iterator[None]:
        """Calls inside have a count and caches of their own (guidance in two passes, say)."""
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
        for column in np.flatnonzero(self.gated):
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
        replacement = update_wrapper(make(original), original)  # callers look at signatures
        replacement.supernet = self
        self._undo.append(shadow(owner, name, replacement))

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
        """Whole calls: when no unit runs, the denoiser is not entered and its last noise estimate is handed back."""
        remembers = not self.enters.all()

        def forward(*args: Any, **kwargs: Any) -> Any:
            call, context = self._next_call(), self.context
            if self.enters[call] and not remembers:
                return original(*args, **kwargs)
            sample = args[0] if args else kwargs[self._sample_argument]
            timestep = args[1] if len(args) > 1 else kwargs["timestep"]
            history = self._histories["denoiser", context]
            if self.enters[call]:
                output = original(*args, **kwargs)
                history.push(call, tree_map(lambda y: self.estimate.reusable(y, sample, timestep), output))
                return output
            return tree_map(lambda e: self.estimate.restated(e, sample, timestep), history.at(call))

        return forward

    def _unit_forward(self, column: int, is_first: bool, is_last: bool) -> Callable[[Callable], Callable]:
        """A unit of one or more modules in a row: the first takes the input in, the last hands the output on."""
        adds_change = self.graph.units[column].reuse == "residual"

        def make(original: Callable) -> Callable:
            def forward(*args: Any, **kwargs: Any) -> Any:
                call, key = self._call, (column, self.context)
                if is_first and adds_change:
                    self._inputs[key] = args[0] if args else kwargs["hidden_states"]
                if self.runs[call, column]:
                    output = original(*args, **kwargs)
                    if is_last and self.reused_later[call, column]:
                        x = self._inputs[key] if adds_change else None
                        self._histories[key].push(call, tree_map(lambda y: y - x, output) if adds_change else output)
                    return output
                value = self._skipped(call, key)
                if adds_change:
                    value = tree_map(lambda change: self._inputs[key] + change, value)
                return value if is_last else tree_leaves(value)[0]  # what the rest of the unit takes in is not read

            return forward

        return make

    def _skipped(self, call: int, key: tuple[int, str]) -> Any:
        """What a unit hands on without running; a dead unit's value is read by nobody, so it is not extrapolated."""
        history = self._histories[key]
        return history.at(call) if self.demanded[call, key[0]] else history.values[-1][1]


@contextmanager
def outputs_of(
    denoiser: torch.nn.Module, graph: BlockGraph, columns: list[int], see: Callable[[int, torch.Tensor], None]
) -> Iterator[None]:
    """Inside, `see(index, output)` is told the output of each of the units `columns` whenever it ran."""

    def hook(index: int) -> Callable:
        return lambda _module, _inputs, output: see(index, tree_leaves(output)[0])  # a down stage hands out skips too

    last = [denoiser.get_submodule(graph.modules[column][-1]) for column in columns]
    handles = [module.register_forward_hook(hook(index)) for index, module in enumerate(last)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def counted(denoiser: torch.nn.Module) -> Iterator[Callable[[], int]]:
    """How often a denoiser was called since, it and all copies that are made of it meanwhile."""
    made = [0]

    def count(*_: Any) -> None:
        made[0] += 1

    hook = denoiser.register_forward_pre_hook(count)
    try:
        yield lambda: made[0]
    finally:
        hook.remove()
