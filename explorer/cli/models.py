"""Commands about one model and its schedules: models, cost, generate, show."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from explorer import catalogue, experiment, masks
from explorer.cli.flags import (
    AsJson,
    Device,
    Dtype,
    Granularity,
    Guidance,
    MaskFile,
    ModelId,
    RatioFlag,
    Sampler,
    Seed,
    Steps,
    app,
    mask_in,
    progress,
    refuse_unless_writable,
    say,
)
from explorer.drawing import draw
from explorer.pruners.configs import RULES
from explorer.widths import Widths, found_in


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
    cut: Annotated[float | None, typer.Option(help="Channel ratio to cut: of each layer's outputs.")] = None,
    rule: Annotated[str, typer.Option(help=f"How --cut counts: {', '.join(RULES)}.")] = RULES[0],
    as_json: AsJson = False,
) -> None:
    """MACs and parameters, from the architecture alone."""
    from explorer.trajectory import calls_of

    subject = catalogue.load(model, weights=False)
    calls = calls_of(sampler, subject.scheduler_config, steps)
    if cut is not None:
        if mask is not None:
            raise ValueError("--cut makes the network smaller, --mask is for the whole one; ask for one at a time")
        say_smaller(subject, calls, _thinner(subject, cut, rule), {"channel_ratio": cut, "rule": rule}, as_json)
        return
    schedule = None if mask is None else mask_in(mask, ratio)
    if isinstance(schedule, Widths):
        left, gone = schedule.narrowed(subject).priced(), {"removed": schedule.removed}
        say_smaller(subject, calls, left, gone, as_json, f"; what goes: {schedule.by_kind}")
        return
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


def _thinner(subject: Any, ratio: float, rule: str) -> Any:
    """What is left of a network with fewer channels, from its architecture: which ones go makes no difference."""
    from explorer import cost
    from explorer.channels import Channels, first_ones, widths_at
    from explorer.graph import describe

    skeleton = cost.on_meta(type(subject.denoiser), dict(subject.denoiser.config))
    channels = Channels(skeleton, cost.example_inputs(skeleton, subject.size, subject.tokens))
    groups = channels.groups()
    channels.cut(widths_at(groups, first_ones(groups), ratio, rule))
    return cost.price(skeleton, describe(skeleton), subject.size, subject.tokens)


def say_smaller(subject: Any, calls: int, left: Any, about: dict[str, Any], as_json: bool, more: str = "") -> None:
    """What a smaller network costs beside the whole one; `about` joins the document, `more` the sentence."""
    whole = subject.priced()
    kept, kept_params = left.graph.macs_per_call / whole.graph.macs_per_call, left.params / whole.params
    document = {
        "model": subject.id,
        "calls": calls,
        "macs_per_call": left.graph.macs_per_call,
        "macs_per_call_attention": left.macs_attention,
        "macs_total": left.graph.macs_per_call * calls,
        "kept": kept,
        "params": left.params,
        "kept_params": kept_params,
        **about,
        "whole": {"params": whole.params, "macs_per_call": whole.graph.macs_per_call},
    }
    text = (
        f"{subject.id}, cut: {left.params:,} of {whole.params:,} parameters ({kept_params:.1%}), "
        f"{left.graph.macs_per_call / 1e9:.2f} of {whole.graph.macs_per_call / 1e9:.2f} GMACs a call ({kept:.1%}){more}"
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
    refuse_unless_writable(out)
    schedule = None if mask is None else mask_in(mask, ratio)
    subject = catalogue.load(model, device=device, dtype=dtype)
    macs, kept = subject.graph().macs_per_call, 1.0
    if isinstance(schedule, Widths):
        subject, schedule = schedule.narrowed(subject), None
        kept = subject.graph().macs_per_call / macs
    elif schedule is not None:
        kept = schedule.kept
    started = time.perf_counter()
    frames = draw(subject, [question.prompt], [seed], sampler, steps, guidance, schedule, previews=1)
    for frame, _ in frames:
        progress(f"call {frame.call} of {frame.calls}")
    seconds = time.perf_counter() - started
    out.write_bytes(frame.picture)
    document = {
        "seconds": seconds,
        "denoise_seconds": frame.seconds,
        "macs_total": macs * frame.calls,
        "kept": kept,
        "calls": frame.calls,
        "seed": seed,
        "out": str(out),
    }
    say(document, as_json, f"{out}: {frame.calls} calls, {kept:.1%} of the MACs, {seconds:.2f} s")


@app.command()
def show(file: Path, as_json: AsJson = False) -> None:
    """What a mask or importance file holds."""
    loaded = found_in(file)
    kept = loaded.kept if isinstance(loaded, (masks.Mask, Widths)) else None
    document = loaded.header.model_dump(mode="json") | {"kept": kept}
    if isinstance(loaded, Widths):
        document["removed"] = loaded.removed
    long = {"units", "sites"} & set(document)
    lines = [f"{key}: {value}" for key, value in document.items() if key not in long]
    say(document, as_json, "\n".join([*lines, *(f"{key}: {len(document[key])}" for key in long)]))
