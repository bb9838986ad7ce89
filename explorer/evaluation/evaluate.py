"""What each candidate costs and what it loses, picture by picture, all from the same noise.

    work = evaluate(model, ReferenceRun(), candidates, samples, Path("trial.parquet"))   # yields progress, returns rows

Batch after batch, every candidate generates the same (prompt, seed) samples, so that differences are paired and the
noise of the machine is the same for all. Rows are written at once; `resume` continues an interrupted evaluation.
"""

import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from explorer.evaluation.candidates import Candidate, ReferenceRun, Sample
from explorer.evaluation.inception import load_inception
from explorer.evaluation.results import Results
from explorer.evaluation.scorers import Scorers
from explorer.masks.file_format import replace_atomically
from explorer.measures import metrics
from explorer.measures.table import REFERENCE_METRICS
from explorer.models.model import Model
from explorer.progress import Progress
from explorer.pruners.worker_pool import WorkerPool
from explorer.sampling.generate import generate
from explorer.sampling.schedulers import num_function_evals

CONVERGED_STEPS = 500


def evaluate(
    model: Model,
    reference: ReferenceRun,
    candidates: Sequence[Candidate],
    samples: Sequence[Sample],
    out: Path,
    converged_steps: int = CONVERGED_STEPS,
    batch: int = 8,
    resume: bool = False,
    scorers: Scorers | None = None,
    keep: Path | None = None,
    image_dir: Path | None = None,
    pool: WorkerPool | None = None,
) -> Generator[Progress, None, pd.DataFrame]:
    """Generate every sample with the full run and with every candidate, measure, and write rows to `out` (.parquet).

    The full run has not converged either: distances are given to it and, as `converged_..`, to a run of
    `converged_steps` steps (0: none). `scorers` (default: the model's own) score the pictures. With a folder to `keep`
    them in, those two runs are not generated again for candidates that come later; in an `image_dir` every picture is
    kept (`image_files`). What fails becomes a row with an `error`. A `pool` generates several batches at the same time:
    the same rows, except for seconds, which are those of a busy machine. Raises ValueError for candidates that do not
    fit the model, and for a file that holds something else.
    """
    if len(samples) < 2:
        raise ValueError(f"an evaluation needs at least two pictures for an interval, got {len(samples)}")
    for candidate in candidates:
        candidate.check_fits(model, reference)
    scorers = scorers or Scorers.of(model)
    results = Results.open(
        out,
        model.record,
        _about(reference, converged_steps, batch, scorers, pool),
        resume,
        [
            *scorers.missing,
            *(metric.missing for metric in REFERENCE_METRICS),
        ],
    )
    repeated = Candidate("full", reference.sampler, reference.steps)  # a second time: the floor of all distances
    all_candidates = list({candidate.key: candidate for candidate in (repeated, *candidates)}.values())
    batches = [list(samples[start : start + batch]) for start in range(0, len(samples), batch)]
    missing = [[one.key for one in all_candidates if not results.has(one.key, some)] for some in batches]
    items = [(number, *item) for number, item in enumerate(zip(batches, missing, strict=True)) if item[1]]
    names = {one.key: f"{one.method} {one.ratio or ''}".strip() for one in all_candidates}
    given = (reference, converged_steps, all_candidates)
    if pool is None:
        rows_of_items: Any = starmap(BatchEvaluator(model, *given, scorers, keep, image_dir).rows, items)
    else:
        rows_of_items = pool.bind(evaluate_batch, *given, scorers.inception is not None, keep, image_dir)(items)
    for (number, _, keys), rows_of_candidates in zip(items, rows_of_items, strict=True):
        for key, rows in zip(keys, rows_of_candidates, strict=True):
            results.add(rows, number)
            yield Progress(results.num_rows, len(all_candidates) * len(samples), names[key])
        results.write()
    return results.frame()


def _about(
    reference: ReferenceRun, converged_steps: int, batch: int, scorers: Scorers, pool: WorkerPool | None
) -> dict[str, Any]:
    """Describe with what rows are measured, so that a file is continued with the same only."""
    about = {"reference": asdict(reference), "converged_steps": converged_steps, "batch": batch}
    about |= {"judge": scorers.name, "workers": 1 if pool is None else pool.size}
    real = scorers.real
    checksum = "" if real is None else f"{len(real)} pictures, {float(real.double().sum()):.6g}"
    return about | {"real": scorers.inception and checksum}


class BatchEvaluator:
    """Generates one batch after another with all candidates, and scores the pictures."""

    def __init__(
        self,
        model: Model,
        reference: ReferenceRun,
        converged_steps: int,
        candidates: Sequence[Candidate],
        scorers: Scorers,
        *folders: Path | None,
    ):
        self.model, self.reference, self.converged_steps = model, reference, converged_steps
        self.scorers, (self.keep, self.image_dir) = scorers, folders
        self.calls = num_function_evals(reference.sampler, model.scheduler_config, reference.steps)
        self.candidates = {candidate.key: candidate for candidate in candidates}

    def rows(self, number: int, samples: list[Sample], keys: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows of each candidate that is named, of batch `number`."""
        references = self._references(samples)
        for key in keys:
            file = self.image_dir and self.image_dir / f"{key}-{number:03}.safetensors"
            yield self._rows_of(self.candidates[key], samples, references, file)

    def _references(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """Generate the pictures that others are compared with, by the prefix of the columns."""
        parts = [self.model.record.model_dump(), asdict(self.reference), self.converged_steps, samples]
        digest = sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        file = self.keep and self.keep / f"{digest}.safetensors"
        if file and file.exists():
            return load_file(file)
        prompts, seeds = zip(*samples, strict=True)
        steps = {"": self.reference.steps} | ({"converged_": self.converged_steps} if self.converged_steps else {})
        pictures: dict[str, torch.Tensor] = {}
        for prefix, count in steps.items():
            run = (self.model, prompts, seeds, self.reference.sampler, count, self.reference.guidance)
            *_, (_, last) = generate(*run, previews=1)
            assert last is not None  # the last frame has the pictures
            pictures[prefix] = last
        if file:
            _save(file, {prefix: values.contiguous() for prefix, values in pictures.items()})
        return pictures

    def _rows_of(
        self, candidate: Candidate, samples: list[Sample], references: dict[str, torch.Tensor], file: Path | None
    ) -> list[dict[str, Any]]:
        """Make one row per sample, in their order; the pictures go to `file`."""
        rows, generated = [], []
        for part, batch in _generate(self.model, self.reference, candidate, samples):
            about = candidate.costs(self.model, self.calls) | batch.costs
            which = [samples.index(sample) for sample in part]
            scores: dict[str, Any] = {}
            if batch.pictures is not None:
                scores |= _losses(batch.pictures, {prefix: values[which] for prefix, values in references.items()})
                scores |= self.scorers.score(batch.pictures, [sample.prompt for sample in part])
            for index, sample in enumerate(part):
                rows.append(sample._asdict() | about | {name: value[index] for name, value in scores.items()})
            generated.append(batch.pictures)
        complete = [pictures for pictures in generated if pictures is not None]
        if file and len(complete) == len(generated):
            pixels = (torch.cat(complete) * 255).round().byte().permute(0, 2, 3, 1).contiguous()
            _save(file, {"pictures": pixels})
        return rows


def evaluate_batch(
    model: Model,
    reference: ReferenceRun,
    converged_steps: int,
    candidates: Sequence[Candidate],
    with_inception: bool,
    *folders: Path | None,
) -> Callable[..., list[list[dict[str, Any]]]]:
    """Make `BatchEvaluator.rows`, as lists, for a worker pool."""
    scorers = replace(Scorers.of(model), inception=load_inception() if with_inception else None)
    evaluator = BatchEvaluator(model, reference, converged_steps, candidates, scorers, *folders)
    return lambda *item: list(evaluator.rows(*item))


def image_files(image_dir: Path, key: str) -> list[Path]:
    """List what a candidate generated, batch after batch: each file holds `pictures`, uint8 (B, H, W, 3)."""
    return sorted(image_dir.glob(f"{key}-*.safetensors"))


def _save(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(file) as temporary:
        save_file(tensors, temporary)


class GeneratedBatch(NamedTuple):
    """Pictures (B, 3, H, W) or None, with `loop_seconds` and `seconds` per picture, or the `error`."""

    pictures: torch.Tensor | None
    costs: dict[str, Any]


def _generate(
    model: Model, reference: ReferenceRun, candidate: Candidate, samples: list[Sample]
) -> Iterator[tuple[list[Sample], GeneratedBatch]]:
    """Generate all at once; one by one where that fails, so that one bad picture does not fail the others, and under a
    cache, which decides by what it sees."""
    if candidate.cache and len(samples) > 1:
        for sample in samples:
            yield from _generate(model, reference, candidate, [sample])
        return
    prompts, seeds = zip(*samples, strict=True)
    run = (model, prompts, seeds, candidate.sampler, candidate.steps, reference.guidance, candidate.result)
    if candidate.widths is not None:
        model.prune_widths(candidate.widths)  # before the clock starts
    started = time.perf_counter()
    try:
        *_, (frame, pictures) = generate(*run, previews=1, solver=candidate.solver)
    except (ValueError, RuntimeError) as error:
        if len(samples) > 1:
            for sample in samples:
                yield from _generate(model, reference, candidate, [sample])
        else:
            yield samples, GeneratedBatch(None, {"error": f"{error}"[:300]})
        return
    count = len(samples)
    seconds = {"loop_seconds": frame.seconds / count, "seconds": (time.perf_counter() - started) / count}
    costs = seconds | {"error": None} | (candidate.cache.costs(model, reference.guidance) if candidate.cache else {})
    yield samples, GeneratedBatch(pictures, costs)


def _losses(pictures: torch.Tensor, references: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Compute every metric against every reference, whole and inside the foreground box of the reference."""
    values = {}
    for prefix, reference in references.items():
        for metric in REFERENCE_METRICS:
            if metric.missing:
                continue
            whole, boxed = (
                metric.function(pictures, reference),
                metrics.in_foreground(metric.function, pictures, reference),
            )
            values[f"{prefix}{metric.name}"] = whole.clamp(max=metric.best).numpy()
            values[f"{prefix}{metric.name}_box"] = boxed.clamp(max=metric.best).numpy()
    return values
