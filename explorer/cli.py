"""python -m explorer COMMAND. Every command takes --json; bad input ends with exit code 2 and one sentence."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from explorer import catalogue, experiment, masks
from explorer.prompts import cycled, names, read
from explorer.pruners.configs import CONFIGS

app = typer.Typer(
    help="See what pruning a diffusion model saves and what it loses.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else there.")]
ModelId = Annotated[str, typer.Option(help="A model of the catalogue, or the folder of a diffusers pipeline.")]
MaskFile = Annotated[Path | None, typer.Option(help="A mask or importance file.")]
PromptFile = Annotated[Path | None, typer.Option(help="What to draw, one prompt a line, for methods that look.")]
Granularity = Annotated[str, typer.Option(help="stage, layer or module.")]
RatioFlag = Annotated[float | None, typer.Option(help="Share of the MACs to remove, 0 to the file's largest.")]
Steps = Annotated[int, typer.Option(help="Denoising steps.")]
Sampler = Annotated[str, typer.Option(help="ddim, dpm++, unipc, pndm, euler or lcm.")]
Guidance = Annotated[float, typer.Option(help="Classifier-free guidance; at most 1 switches it off.")]
Seed = Annotated[int, typer.Option(help="Seed of the noise.")]
Device = Annotated[str, typer.Option(help="Torch device.")]
Dtype = Annotated[str, typer.Option(help="float32, float16 or bfloat16.")]


def say(document: Any, as_json: bool, text: str) -> None:
    print(json.dumps(document, default=str, allow_nan=False) if as_json else text)


def progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@app.command()
def models(as_json: AsJson = False) -> None:
    """The catalogue."""
    rows = catalogue.listing()
    lines = [
        f"{row['id']:14} {row['pipeline']:26} {_giga(row['macs_per_call']):>9} GMACs {_mega(row['params']):>9} M  "
        f"{'here' if row['available'] else 'weights not here'}"
        for row in rows
    ]
    say(rows, as_json, "\n".join(lines))


def _giga(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e9:.2f}"


def _mega(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e6:.1f}"


@app.command()
def cost(
    model: ModelId = "emoji-unet",
    steps: Steps = 25,
    sampler: Sampler = "ddim",
    mask: MaskFile = None,
    ratio: RatioFlag = None,
    granularity: Granularity = "layer",
    as_json: AsJson = False,
) -> None:
    """MACs and parameters, from the architecture alone."""
    from explorer.trajectory import calls_of

    subject = catalogue.load(model, weights=False)
    calls = calls_of(sampler, subject.scheduler_config, steps)
    schedule = None if mask is None else _mask(mask, ratio)
    if schedule is not None:
        granularity = schedule.header.granularity
    architecture = subject.priced(granularity, "output" if schedule is None else schedule.header.reuse)
    graph = architecture.graph
    if schedule is not None:
        schedule.header.refuse_unless(subject.id, type(subject.denoiser).__name__, calls, graph.units)
    kept = 1.0 if schedule is None else schedule.kept
    units = [
        {"name": unit.name, "kind": unit.kind, "reuse": unit.reuse, "macs": unit.macs, "params": params}
        for unit, params in zip(graph.units, architecture.unit_params, strict=True)
    ]
    document = {
        "model": subject.id,
        "calls": calls,
        "macs_per_call": graph.macs_per_call,
        "macs_per_call_attention": architecture.macs_attention,
        "macs_total": graph.macs_per_call * calls,
        "kept": kept,
        "params": architecture.params,
        "kept_params": 1.0,
        "units": units,
    }
    text = (
        f"{subject.id}: {graph.macs_per_call / 1e9:.2f} GMACs a call, {calls} calls, "
        f"{kept:.1%} of {graph.macs_per_call * calls / 1e9:.1f} GMACs kept; attention products add "
        f"{architecture.macs_attention / 1e9:.2f} GMACs a call; {architecture.params / 1e6:.1f} M parameters"
    )
    say(document, as_json, text)


@app.command()
def generate(
    prompt: Annotated[str, typer.Option(help="What to draw.")],
    out: Annotated[Path, typer.Option(help="The picture, .png.")],
    model: ModelId = "emoji-unet",
    seed: Seed = 0,
    steps: Steps = 25,
    sampler: Sampler = "ddim",
    guidance: Guidance = 7.5,
    mask: MaskFile = None,
    ratio: RatioFlag = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Draw one picture, under a mask if one is given."""
    question = experiment.Question(
        model=model, prompt=prompt, seed=seed, steps=steps, sampler=sampler, guidance=guidance
    )
    _writable(out)
    schedule = None if mask is None else _mask(mask, ratio)
    subject = catalogue.load(model, device=device, dtype=dtype)
    started = time.perf_counter()
    frames = experiment.draw(subject, [question.prompt], [seed], sampler, steps, guidance, schedule, previews=1)
    for frame, _ in frames:
        progress(f"call {frame.call} of {frame.calls}")
    seconds = time.perf_counter() - started
    out.write_bytes(frame.picture)
    kept = 1.0 if schedule is None else schedule.kept
    document = {
        "seconds": seconds,
        "denoise_seconds": frame.seconds,
        "macs_total": subject.graph().macs_per_call * frame.calls,
        "kept": kept,
        "calls": frame.calls,
        "seed": seed,
        "out": str(out),
    }
    say(document, as_json, f"{out}: {frame.calls} calls, {kept:.1%} of the MACs, {seconds:.2f} s")


@app.command()
def prune(
    method: Annotated[str, typer.Option(help=f"One of {', '.join(CONFIGS)}.")],
    out: Annotated[Path, typer.Option(help="The mask or importance, .safetensors.")],
    model: ModelId = "emoji-unet",
    ratio: RatioFlag = None,
    steps: Steps = 25,
    sampler: Sampler = "ddim",
    guidance: Guidance = 7.5,
    prompts: PromptFile = None,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the method: field=value.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a method: with --ratio it writes a mask, without it an importance that serves every ratio."""
    trajectory = {"steps": steps, "sampler": sampler, "guidance": guidance, "seed": seed}
    trajectory |= {} if ratio is None else {"ratio": ratio}
    config = experiment.config_of(method, trajectory | dict(map(_setting, settings or [])))
    _writable(out)
    started = time.perf_counter()
    subject = catalogue.load(model, weights=config.RUNS_MODEL, device=device, dtype=dtype)
    work = experiment.prune(subject, method, config, [] if prompts is None else read(prompts))
    result = experiment.finished(work, progress)
    if ratio is not None and isinstance(result, masks.Importance):
        result = result.at(ratio)
    result.save(out)
    kept = result.kept if isinstance(result, masks.Mask) else None
    seconds = time.perf_counter() - started
    document = {"method": method, "out": str(out), "seconds": seconds, "peak_mb": _peak_mb(), "kept": kept}
    what = "an importance for every ratio" if kept is None else f"a mask that keeps {kept:.1%} of the MACs"
    say(document, as_json, f"{out}: {what}")


@app.command()
def show(file: Path, as_json: AsJson = False) -> None:
    """What a mask or importance file holds."""
    loaded = masks.load(file)
    kept = loaded.kept if isinstance(loaded, masks.Mask) else None
    document = loaded.header.model_dump(mode="json") | {"kept": kept}
    lines = [f"{key}: {value}" for key, value in document.items() if key != "units"]
    say(document, as_json, "\n".join([*lines, f"units: {len(loaded.header.units)}"]))


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

    _writable(out)
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
    document |= {"adjacent": nearest, "seconds": time.perf_counter() - started, "peak_mb": _peak_mb(), "out": str(out)}
    say(document, as_json, "\n".join(f"{name}: {value:.4f} to the call before" for name, value in nearest.items()))


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="An embedded model, or a part of one.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="How long to train, at most.")] = 60,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = False,
    device: Device = "cpu",
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Where checkpoints and samples go.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train the embedded models from the pictures."""
    from explorer import training

    training.train(name, minutes, resume, device, seed, out=out)
    say({"name": name, "minutes": minutes}, as_json, f"{name}: trained")


@app.command()
def precompute(as_json: AsJson = False) -> None:
    """Rebuild in assets/ what follows from the models: so far the numbers of the catalogue."""
    catalogue.measure()
    say({"rebuilt": ["catalogue.json"]}, as_json, "rebuilt assets/catalogue.json")


@app.command()
def serve() -> None:
    """The page. Address and port: GRADIO_SERVER_NAME, GRADIO_SERVER_PORT."""
    from explorer import ui

    ui.launch()


def _mask(file: Path, ratio: float | None) -> masks.Mask:
    loaded = masks.load(file)
    if isinstance(loaded, masks.Importance):
        if ratio is None:
            raise ValueError(f"{file} holds an importance for every ratio; say which with --ratio")
        return loaded.at(ratio)
    if ratio is not None:
        raise ValueError(f"{file} holds a mask, which has one ratio only; leave --ratio out")
    return loaded


def _setting(text: str) -> tuple[str, str]:
    field, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"--set needs field=value, got {text!r}")
    return field, value


def _writable(out: Path) -> None:
    """Refuse before the work, not after it."""
    if out.is_dir() or not os.access(out.resolve().parent, os.W_OK):
        raise ValueError(f"{out} cannot be written")


def _peak_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> None:
    """Run a command; end the process with 0, or with 2 and one sentence for bad input."""
    try:
        code = app(arguments, standalone_mode=False)
    except typer.Abort:
        code = 130
    except (ValueError, typer.TyperException) as error:
        progress(error.format_message() if isinstance(error, typer.TyperException) else experiment.sentence(error))
        code = 2
    sys.exit(code or 0)
