"""Commands that measure: evaluate, similarity."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from explorer import catalogue, experiment
from explorer.cli.flags import (
    MODEL_HELP,
    AsJson,
    Device,
    Dtype,
    Granularity,
    Guidance,
    ModelId,
    Sampler,
    Seed,
    Steps,
    Workers,
    app,
    peak_mb,
    progress,
    refuse_idle,
    refuse_unless_writable,
    say,
    setting,
)
from explorer.jobs.processes import hired
from explorer.prompts import cycled, names, part, read
from explorer.widths import found_in
from explorer.work import finished


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option(help="The rows, .parquet; of several models, one file each: OUT-MODEL.parquet.")],
    models: Annotated[list[str] | None, typer.Option("--model", help=f"{MODEL_HELP} Again for more.")] = None,
    files: Annotated[list[Path] | None, typer.Option("--mask", help="A mask or importance; again for more.")] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", help="A method to run; again for more.")] = None,
    ratios: Annotated[list[float] | None, typer.Option("--ratio", help="Share of MACs to remove; and again.")] = None,
    rivals: Annotated[list[str] | None, typer.Option("--rival", help="A few-step sampler for the same MACs.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the methods: field=value.")] = None,
    count: Annotated[int, typer.Option("--prompts", min=2, max=100_000, help="How many pictures.")] = 32,
    prompt_file: Annotated[Path | None, typer.Option(help="Prompts, one a line; a fourth is for tuning.")] = None,
    real: Annotated[Path | None, typer.Option(help="Real pictures, for KID and FID by Inception.")] = None,
    steps: Steps = 25,
    sampler: Sampler = "ddim",
    guidance: Guidance = 7.5,
    truth_steps: Annotated[int, typer.Option(min=0, max=1000, help="Steps of the run nearest to the truth.")] = 500,
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Pictures drawn at once.")] = 8,
    resume: Annotated[bool, typer.Option(help="Go on with the file that is there.")] = False,
    workers: Workers = 1,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """What schedules and few-step samplers cost and lose, picture by picture, from the same noise."""
    from explorer.evidence.evaluation import Full, pairs_of
    from explorer.evidence.rivals import contenders

    named = models or ["emoji-unet"]
    outs = [out.with_name(f"{out.stem}-{Path(name).name}{out.suffix}") for name in named] if named[1:] else [out]
    for file in outs:
        refuse_unless_writable(file)
    refuse_idle(workers, -(-count // batch), "the evaluation has", "--prompts and --batch")
    full = Full(sampler, steps, guidance)
    decided = [found_in(file) for file in files or []]
    configs = [
        (method, experiment.config_of(method, dict(map(setting, settings or [])), vars(full) | {"seed": seed} | asked))
        for method in methods or []
        for asked in [{"ratio": ratio} for ratio in ratios or []] or [{}]
    ]
    rows, tables = [], []
    for name, file in zip(named, outs, strict=True):
        subject = catalogue.load(name, device=device, dtype=dtype)
        prompts = names(subject) if prompt_file is None else read(prompt_file)
        search = part(prompts, "search")
        if shared := set(search) & set(part(prompts, "evaluation")):
            progress(f"too few prompts to set some aside: rivals are tuned on the {len(shared)} that judge them")
        own = [known for known in decided if not named[1:] or known.header.model.id == subject.id]
        own += [finished(experiment.prune(subject, *each, search), progress) for each in configs]
        everybody = contenders(subject, full, own, ratios or [], rivals or [], search, seed)
        pairs = pairs_of(part(prompts, "evaluation"), count, seed)
        options = {"truth_steps": truth_steps, "batch": batch, "resume": resume}
        with hired(workers, name, device, dtype) as team:
            work = experiment.evaluate(subject, full, everybody, pairs, file, real, team=team, **options)
            found = finished(work, progress)
        rows += json.loads(found.to_json(orient="records"))  # nulls, not NaN
        tables.append(found.filter(SHOWN).to_string(index=False, float_format="{:.3f}".format))
    say(rows, as_json, "\n\n".join(tables))


SHOWN = ["model", "method", "ratio", "kept", "speedup", "ssim_box", "psnr_box", "truth_psnr_box", "n", "failed"]


@app.command()
def similarity(
    out: Annotated[Path, typer.Option(help="The similarities, .safetensors.")],
    model: ModelId = "emoji-unet",
    count: Annotated[int, typer.Option("--prompts", min=1, max=100_000, help="How many pictures.")] = 32,
    prompt_file: Annotated[Path | None, typer.Option(help="Their prompts, one a line; else the model's names.")] = None,
    preset: Annotated[str | None, typer.Option(help="figure7-ddim or figure7-dpm++, as in the DiP-GO paper.")] = None,
    steps: Steps = 50,
    sampler: Sampler = "ddim",
    guidance: Guidance = 7.5,
    granularity: Granularity = "layer",
    units: Annotated[list[str] | None, typer.Option("--unit", help="Only this unit; may be given again.")] = None,
    kind: Annotated[str, typer.Option(help="cosine or cka.")] = "cosine",
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """How alike the features of different calls are, picture by picture."""
    from explorer import similarity

    refuse_unless_writable(out)
    started = time.perf_counter()
    subject = catalogue.load(model, device=device, dtype=dtype)
    settings = {"sampler": sampler, "steps": steps, "granularity": granularity, "units": units or ()}
    if preset is not None:
        settings = similarity.preset(subject, preset)
    wanted = cycled(names(subject) if prompt_file is None else read(prompt_file), count)
    work = similarity.measure(subject, wanted, seed, guidance=guidance, kind=kind, **settings)
    found = finished(work, progress)
    found.save(out)
    nearest = {name: float(curve[1:].mean()) for name, curve in zip(found.header.units, found.adjacent, strict=True)}
    document = found.header.model_dump(mode="json")
    document |= {"adjacent": nearest, "seconds": time.perf_counter() - started, "peak_mb": peak_mb(), "out": str(out)}
    say(document, as_json, "\n".join(f"{name}: {value:.4f} to the call before" for name, value in nearest.items()))
