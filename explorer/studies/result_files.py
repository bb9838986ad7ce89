"""Where studies keep what they have so far, and where their results go: rows and a summary. Loads no torch."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer import experiment
from explorer.models import catalogue
from explorer.models.model import Model
from explorer.models.prompts import split_names
from explorer.progress import Progress, run_to_completion
from explorer.settings import settings

if TYPE_CHECKING:
    import pandas as pd

    from explorer.evaluation.candidates import Candidate, ReferenceRun

Report = Callable[[Progress], None]

RESULTS = catalogue.ASSETS / "results"


def evaluate_into_results(
    model: Model,
    reference: "ReferenceRun",
    candidates: "Sequence[Candidate]",
    count: int,
    what: str,
    report: Report,
) -> None:
    """Evaluate candidates on `count` pictures of the evaluation names; their rows and summary become results."""
    from explorer.evaluation.candidates import make_samples
    from explorer.evaluation.results import publish

    name = f"{model.id}-{reference.sampler}-{reference.steps}-{what}"
    samples = make_samples(split_names(model, "evaluation"), count)
    file = runs_folder("results") / f"{name}.parquet"
    options: dict[str, Any] = {"resume": True, "converged_steps": 0}
    work = experiment.evaluate(model, reference, candidates, samples, file, **options)
    write_summary(name, run_to_completion(work, report))
    publish(file, RESULTS / f"{name}.parquet")


def evaluate_runs(
    make_candidates: "Callable[[Model, ReferenceRun], Generator[Progress, None, list[Candidate]]]",
    runs: Sequence[tuple[str, str, int]],
    count: int,
    what: str,
    report: Report,
) -> None:
    """Make the candidates of each model, sampler and number of steps, and evaluate them."""
    for model_id, sampler, steps in runs:
        model, reference = catalogue.load(model_id), reference_run(model_id, sampler, steps)
        candidates = run_to_completion(make_candidates(model, reference), report)
        evaluate_into_results(model, reference, candidates, count, what, report)


def reference_run(model_id: str, sampler: str, steps: int) -> "ReferenceRun":
    """Make the full run of a model with its own guidance, or the usual one."""
    from explorer.evaluation.candidates import ReferenceRun

    own = {name: value for name, value in catalogue.own_run(model_id).items() if name == "guidance"}
    return ReferenceRun(sampler, steps, **own)


def write_summary(name: str, summary: "pd.DataFrame") -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    summary.to_json(RESULTS / f"{name}.json", orient="records", indent=1)


def runs_folder(part: str) -> Path:
    """Return the folder where a part keeps what it has so far."""
    folder = settings().runs / part
    folder.mkdir(parents=True, exist_ok=True)
    return folder
