"""Commands that measure: evaluate, similarity."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from explorer import experiment
from explorer.cli.options import (
    MODEL_HELP,
    AsJson,
    Device,
    Dtype,
    Granularity,
    Guidance,
    ModelId,
    Offload,
    Sampler,
    Seed,
    Steps,
    Variant,
    Workers,
    app,
    check_workers,
    check_writable,
    parse_setting,
    peak_mb,
    run_of,
)
from explorer.cli.output import print_message, print_result, show_progress
from explorer.jobs.executors.pools import worker_pool
from explorer.masks.result import load
from explorer.models import catalogue
from explorer.models.model import Model
from explorer.models.prompts import model_names, read_prompts, repeat_to, split
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from explorer.settings import settings as environment

COLUMNS = ["model", "method", "ratio", "kept", "speedup", "ssim_box", "psnr_box", "converged_psnr_box", "n", "failed"]


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option(help="The rows, .parquet; of several models, one file each: OUT-MODEL.parquet.")],
    models: Annotated[list[str] | None, typer.Option("--model", help=f"{MODEL_HELP} Repeat for more.")] = None,
    files: Annotated[list[Path] | None, typer.Option("--mask", help="A mask or importance; repeat for more.")] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", help="A method to run; repeat for more.")] = None,
    ratios: Annotated[list[float] | None, typer.Option("--ratio", help="Share to remove; repeat for more.")] = None,
    baselines: Annotated[
        list[str] | None, typer.Option("--baseline", help="A few-step sampler with the same MACs: unipc-steps, ...")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the methods: field=value.")] = None,
    count: Annotated[int, typer.Option("--prompts", min=2, max=100_000, help="How many pictures.")] = 32,
    prompt_file: Annotated[Path | None, typer.Option(help="Prompts, one per line; a fourth is for tuning.")] = None,
    real_images: Annotated[Path | None, typer.Option(help="Real pictures, for KID and FID by Inception.")] = None,
    steps: Steps = None,
    sampler: Sampler = None,
    guidance: Guidance = None,
    converged_steps: Annotated[int, typer.Option(min=0, max=1000, help="Steps of the converged run; 0: none.")] = 500,
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Pictures generated at once.")] = 8,
    resume: Annotated[bool, typer.Option(help="Continue the file that is there.")] = False,
    workers: Workers = 1,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    offload: Offload = False,
    variant: Variant = "",
    as_json: AsJson = False,
) -> None:
    """What masks and few-step samplers cost and lose, picture by picture, from the same noise."""
    from explorer.evaluation.baselines import make_candidates
    from explorer.evaluation.candidates import ReferenceRun, make_samples

    names = models or ["emoji-unet"]
    outs = [out.with_name(f"{out.stem}-{Path(name).name}{out.suffix}") for name in names] if names[1:] else [out]
    _check_before_work(outs, resume, baselines or [])
    check_workers(workers, -(-count // batch), "the evaluation has", "--prompts and --batch")
    given = [load(file) for file in files or []]
    chosen = dict(map(parse_setting, settings or []))
    rows, tables = [], []
    for name, file in zip(names, outs, strict=True):
        run = run_of(name, next(iter(given), None), steps=steps, sampler=sampler, guidance=guidance)
        reference = ReferenceRun(**run)
        configs = _make_configs(methods or [], ratios or [], chosen, run | {"seed": seed})
        subject = catalogue.load(name, device=device, dtype=dtype, variant=variant, offload=offload)
        search, evaluation = _split_prompts(subject, prompt_file)
        results = [result for result in given if not names[1:] or result.header.model.id == subject.id]
        with show_progress() as report:
            results += [run_to_completion(experiment.prune(subject, *each, search), report) for each in configs]
            candidates = make_candidates(subject, reference, results, ratios or [], baselines or [], search, seed)
            samples = make_samples(evaluation, count, seed)
            options: dict[str, Any] = {"converged_steps": converged_steps, "batch": batch, "resume": resume}
            with worker_pool(workers, environment().scheduler, name, device, dtype, variant, offload) as pool:
                options |= {"real": real_images, "pool": pool}
                work = experiment.evaluate(subject, reference, candidates, samples, file, **options)
                summary = run_to_completion(work, report)
        rows += json.loads(summary.to_json(orient="records"))  # nulls, not NaN
        tables.append(summary.filter(COLUMNS).to_string(index=False, float_format="{:.3f}".format))
    print_result(rows, as_json, "\n\n".join(tables))


def _make_configs(
    methods: list[str], ratios: list[float], settings: dict[str, Any], run: dict[str, Any]
) -> list[tuple[str, Any]]:
    """Pair each method with its config at each of the ratios, or without one where none is given."""
    asked: list[dict[str, Any]] = [{"ratio": ratio} for ratio in ratios] or [{}]
    return [(method, method_config(method, settings, run | each)) for method in methods for each in asked]


def _check_before_work(outs: list[Path], resume: bool, baselines: list[str]) -> None:
    """Raise ValueError, before a model is loaded, for files that cannot be written and for an unknown baseline."""
    from explorer.evaluation.baselines import check_baselines
    from explorer.evaluation.results import check_not_in_the_way

    for file in outs:
        check_writable(file)
        check_not_in_the_way(file, resume)
    check_baselines(baselines)


def _split_prompts(model: Model, prompt_file: Path | None) -> tuple[list[str], list[str]]:
    """Read the prompts for tuning, and those for the evaluation."""
    prompts = model_names(model) if prompt_file is None else read_prompts(prompt_file)
    search, evaluation = split(prompts, "search"), split(prompts, "evaluation")
    if shared := set(search) & set(evaluation):
        print_message(f"too few prompts to set some aside: baselines are tuned on the {len(shared)} that judge them")
    return search, evaluation


@app.command()
def similarity(
    out: Annotated[Path, typer.Option(help="The similarities, .safetensors.")],
    model: ModelId = "emoji-unet",
    count: Annotated[int, typer.Option("--prompts", min=1, max=100_000, help="How many pictures.")] = 32,
    prompt_file: Annotated[Path | None, typer.Option(help="Prompts, one per line; default: the model's names.")] = None,
    preset: Annotated[str | None, typer.Option(help="figure7-ddim or figure7-dpm++, as in the DiP-GO paper.")] = None,
    steps: Steps = None,
    sampler: Sampler = None,
    guidance: Guidance = None,
    granularity: Granularity = "layer",
    units: Annotated[list[str] | None, typer.Option("--unit", help="Only this unit; repeat for more.")] = None,
    kind: Annotated[str, typer.Option(help="cosine or cka.")] = "cosine",
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    offload: Offload = False,
    variant: Variant = "",
    as_json: AsJson = False,
) -> None:
    """How similar the features of different calls are, picture by picture."""
    from explorer.measures import feature_similarity

    check_writable(out)
    started = time.perf_counter()
    subject = catalogue.load(model, device=device, dtype=dtype, variant=variant, offload=offload)
    run = run_of(model, steps=steps, sampler=sampler, guidance=guidance)
    settings: dict[str, Any] = run | {"granularity": granularity, "units": units or ()}
    if preset is not None:
        settings = feature_similarity.preset(subject, preset) | {"guidance": run["guidance"]}
    prompts = repeat_to(model_names(subject) if prompt_file is None else read_prompts(prompt_file), count)
    with show_progress() as report:
        work = feature_similarity.measure(subject, prompts, seed, **settings | {"kind": kind})
        found = run_to_completion(work, report)
    found.save(out)
    adjacent = {name: float(curve[1:].mean()) for name, curve in zip(found.header.units, found.adjacent, strict=True)}
    document = found.header.model_dump(mode="json")
    document |= {"adjacent": adjacent, "seconds": time.perf_counter() - started, "peak_mb": peak_mb(), "out": str(out)}
    text = "\n".join(f"{name}: {value:.4f} to the call before" for name, value in adjacent.items())
    print_result(document, as_json, text)
