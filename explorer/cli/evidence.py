"""Commands that measure: similarity."""

import time
from pathlib import Path
from typing import Annotated

import typer

from explorer import catalogue, experiment
from explorer.cli.flags import (
    AsJson,
    Device,
    Dtype,
    Granularity,
    Guidance,
    ModelId,
    Sampler,
    Seed,
    Steps,
    app,
    peak_mb,
    progress,
    refuse_unless_writable,
    say,
)
from explorer.prompts import cycled, names, read


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
    found = experiment.finished(work, progress)
    found.save(out)
    nearest = {name: float(curve[1:].mean()) for name, curve in zip(found.header.units, found.adjacent, strict=True)}
    document = found.header.model_dump(mode="json")
    document |= {"adjacent": nearest, "seconds": time.perf_counter() - started, "peak_mb": peak_mb(), "out": str(out)}
    say(document, as_json, "\n".join(f"{name}: {value:.4f} to the call before" for name, value in nearest.items()))
