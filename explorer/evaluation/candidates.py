"""What is compared in an evaluation: candidates, the reference run, and the samples that all of them generate."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from explorer.masks.block_graph import Extrapolation
from explorer.masks.result import Applicable
from explorer.masks.schedule import Schedule
from explorer.masks.width import Widths
from explorer.models.model import Model
from explorer.sampling.schedulers import num_function_evals

if TYPE_CHECKING:
    from explorer.evaluation.package_caches import PackageCache


class Sample(NamedTuple):
    """One picture to generate."""

    prompt: str
    seed: int


def make_samples(prompts: Sequence[str], count: int, seed: int = 0) -> list[Sample]:
    """Make `count` samples: the prompts in turn and again, each picture with a seed of its own."""
    if not prompts:
        raise ValueError("an evaluation needs at least one prompt")
    return [Sample(prompts[index % len(prompts)], seed + index) for index in range(count)]


@dataclass(frozen=True)
class ReferenceRun:
    """The full run that candidates are compared with."""

    sampler: str = "ddim"
    steps: int = 50
    guidance: float = 7.5


@dataclass(frozen=True)
class Candidate:
    """One way of generating: a sampler with its steps and settings, under a schedule, with widths, or neither."""

    method: str
    sampler: str
    steps: int
    ratio: float | None = None  # as requested
    settings: dict[str, Any] = field(default_factory=dict)  # what else distinguishes it from others of its method
    solver: dict[str, Any] = field(default_factory=dict)
    mask: Schedule | None = None
    widths: Widths | None = None
    cache: "PackageCache | None" = None  # of another package; its settings stand in `settings`

    @property
    def result(self) -> Applicable | None:
        """What is applied to the model."""
        return self.mask or self.widths or self.cache

    @property
    def key(self) -> str:
        """Identifies it in a file: the same candidate has the same key, another one another."""
        parts = [self.method, self.sampler, self.steps, self.ratio, self.settings, self.solver]
        digest = ""
        if self.mask is not None:
            order, max_extrapolation = Extrapolation.of(self.mask.header)
            how = bytes([order]) + (b"" if max_extrapolation is None else f"{max_extrapolation}".encode())
            learned = b"" if self.mask.coefficients is None else self.mask.coefficients.tobytes()
            digest = sha256(self.mask.keep.tobytes() + how + learned).hexdigest()
        if self.widths is not None:
            digest += sha256(b"".join(keep.tobytes() for keep in self.widths.keep.values())).hexdigest()
        text = json.dumps(parts, sort_keys=True) + digest
        return f"{self.method}-{sha256(text.encode()).hexdigest()[:12]}"

    def check_fits(self, model: Model, reference: ReferenceRun) -> None:
        """Raise ValueError, before anything is generated, for a mask of something else or an impossible number of
        steps."""
        num_function_evals(self.sampler, model.scheduler_config, self.steps, self.solver)
        if self.mask is not None:
            self.mask.check_calls(model, num_function_evals(reference.sampler, model.scheduler_config, reference.steps))
            if (self.sampler, self.steps) != (reference.sampler, reference.steps):
                raise ValueError(f"the schedule of {self.method} is for the full run's sampler and steps")

    def costs(self, model: Model, calls: int) -> dict[str, Any]:
        """Return what it is, and its MACs per picture compared with the full run's `calls` whole calls."""
        pruned = model if self.widths is None else model.prune_widths(self.widths)
        per_call = model.graph().macs_per_call
        own = num_function_evals(self.sampler, model.scheduler_config, self.steps, self.solver)
        kept = own / calls if self.mask is None else self.mask.macs_fraction
        kept *= pruned.graph().macs_per_call / per_call
        return {
            "key": self.key,
            "model": model.id,
            "method": self.method,
            "ratio": self.ratio,
            "settings": json.dumps(self.settings | self.solver, sort_keys=True),
            "sampler": self.sampler,
            "steps": self.steps,
            "kept": kept,
            "macs": kept * calls * per_call,
            "params": pruned.architecture().params,
        }
