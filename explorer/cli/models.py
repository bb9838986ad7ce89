"""Commands about one model and its masks: models, cost, generate, show."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from explorer.cli.options import (
    AsJson,
    Device,
    Dtype,
    Granularity,
    Guidance,
    MaskFile,
    ModelId,
    Offload,
    RatioOption,
    Sampler,
    Seed,
    Steps,
    Variant,
    app,
    check_writable,
    load_mask,
    run_of,
)
from explorer.cli.output import describe_mask, format_table, importance_table, print_result, show_progress
from explorer.experiment import ExperimentRequest
from explorer.masks.channel_rules import CHANNEL_RULES, check_channel_ratio
from explorer.masks.file_format import replace_atomically
from explorer.masks.result import load
from explorer.masks.width_header import kind_title
from explorer.models import catalogue
from explorer.progress import Progress
from explorer.sampling.generate import generate as generate_frames
from explorer.settings import settings


@app.command()
def models(as_json: AsJson = False) -> None:
    """The catalogue, and what EXPLORER_MODELS adds to it."""
    for source in settings().models:
        catalogue.add(catalogue.describe(source))
    rows = catalogue.list_models()
    columns = ("model", "pipeline", "GMACs per call", "M parameters", "weights", "license")
    table = format_table(columns, [_cells(row) for row in rows])
    print_result(rows, as_json, table)


def _cells(row: dict[str, Any]) -> list[str]:
    license = (row["license"] or "?") + (", after a login" if row["gated"] else "")
    pipeline = row["pipeline"].removesuffix("Pipeline")
    return [row["id"], pipeline, _giga(row["macs_per_call"]), _mega(row["params"]), _place(row), license]


def _place(row: dict[str, Any]) -> str:
    if row["available"]:
        return "here"
    return "not in assets/" if row["embedded"] else f"on the hub, {row['weights_gb']:.1f} GB"


def _giga(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e9:.2f}"


def _mega(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e6:.1f}"


@app.command()
def cost(
    model: ModelId = "emoji-unet",
    steps: Steps = None,
    sampler: Sampler = None,
    mask: MaskFile = None,
    ratio: RatioOption = None,
    granularity: Granularity = "layer",
    channel_ratio: Annotated[float | None, typer.Option(help="Share of each layer's channels to remove.")] = None,
    rule: Annotated[str, typer.Option(help=f"How --channel-ratio counts: {', '.join(CHANNEL_RULES)}.")] = "paper",
    as_json: AsJson = False,
) -> None:
    """MACs and parameters, from the architecture alone."""
    from explorer.sampling.schedulers import num_function_evals

    subject = catalogue.load(model, weights=False)
    applied = None if mask is None else load_mask(mask, ratio)
    run = run_of(model, applied, steps=steps, sampler=sampler)
    calls = num_function_evals(run["sampler"], subject.scheduler_config, run["steps"])
    if channel_ratio is not None:
        if mask is not None:
            raise ValueError(
                "--channel-ratio makes the network smaller, --mask is for the whole one; give one at a time"
            )
        check_channel_ratio(channel_ratio, rule)
        pruned = _at_channel_ratio(subject, channel_ratio, rule)
        _print_pruned_cost(subject, calls, pruned, {"channel_ratio": channel_ratio, "rule": rule}, as_json)
        return
    if applied is not None and applied.prunes == "widths":
        pruned, removed = subject.prune_widths(applied).architecture(), applied.removed_by_kind
        text = ", ".join(f"{kind_title(kind)} {count:,}" for kind, count in removed.items())
        _print_pruned_cost(subject, calls, pruned, {"removed": removed}, as_json, f"; parameters removed: {text}")
        return
    _print_schedule_cost(subject, calls, applied, granularity, as_json)


def _print_schedule_cost(subject: Any, calls: int, schedule: Any, granularity: str, as_json: bool) -> None:
    header = schedule and schedule.header
    architecture = subject.architecture(*((header.granularity, header.reuse) if header else (granularity, "output")))
    graph = architecture.graph
    if header:
        header.check_compatible(subject.id, subject.record.denoiser, calls, graph.units)
    kept = 1.0 if schedule is None else schedule.macs_fraction
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
        f"{subject.id}: {graph.macs_per_call / 1e9:.2f} GMACs per call, {calls} calls, "
        f"{kept:.1%} of {graph.macs_per_call * calls / 1e9:.1f} GMACs kept; attention products add "
        f"{architecture.macs_attention / 1e9:.2f} GMACs per call; {architecture.params / 1e6:.1f} M parameters"
    )
    print_result(document, as_json, text)


def _at_channel_ratio(subject: Any, ratio: float, rule: str) -> Any:
    """Count what is left with fewer channels, from the architecture: it does not matter which ones are removed."""
    from explorer.execution.channel_groups import index_importance, widths_at_channel_ratio
    from explorer.execution.macs import build_on_meta, measure_architecture
    from explorer.models.architectures import build_block_graph

    skeleton = build_on_meta(type(subject.denoiser), dict(subject.denoiser.config))
    channels = subject.channel_groups(skeleton)
    groups = channels.groups()
    channels.prune_widths(widths_at_channel_ratio(groups, index_importance(groups), ratio, rule))
    return measure_architecture(skeleton, build_block_graph(skeleton), subject.example_inputs(skeleton))


def _print_pruned_cost(
    subject: Any, calls: int, pruned: Any, about: dict[str, Any], as_json: bool, more: str = ""
) -> None:
    """Print the cost of a pruned and of the whole network; `about` joins the document, `more` the sentence."""
    whole = subject.architecture()
    kept, kept_params = pruned.graph.macs_per_call / whole.graph.macs_per_call, pruned.params / whole.params
    document = {
        "model": subject.id,
        "calls": calls,
        "macs_per_call": pruned.graph.macs_per_call,
        "macs_per_call_attention": pruned.macs_attention,
        "macs_total": pruned.graph.macs_per_call * calls,
        "kept": kept,
        "params": pruned.params,
        "kept_params": kept_params,
        **about,
        "whole": {"params": whole.params, "macs_per_call": whole.graph.macs_per_call},
    }
    text = (
        f"{subject.id}, pruned: {pruned.params:,} of {whole.params:,} parameters ({kept_params:.1%}), "
        f"{pruned.graph.macs_per_call / 1e9:.2f} of {whole.graph.macs_per_call / 1e9:.2f} GMACs per call ({kept:.1%})"
    )
    print_result(document, as_json, text + more)


@app.command()
def generate(
    prompt: Annotated[str, typer.Option(help="What to generate.")],
    out: Annotated[Path, typer.Option(help="The picture, .png.")],
    model: ModelId = "emoji-unet",
    seed: Seed = 0,
    steps: Steps = None,
    sampler: Sampler = None,
    guidance: Guidance = None,
    mask: MaskFile = None,
    ratio: RatioOption = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    offload: Offload = False,
    variant: Variant = "",
    as_json: AsJson = False,
) -> None:
    """Generate one picture, with a mask if one is given."""
    applied = None if mask is None else load_mask(mask, ratio)
    run = run_of(model, applied, steps=steps, sampler=sampler, guidance=guidance)
    request = ExperimentRequest(model=model, prompt=prompt, seed=seed, **run)
    check_writable(out)
    subject = catalogue.load(model, device=device, dtype=dtype, variant=variant, offload=offload)
    macs = subject.graph().macs_per_call
    started = time.perf_counter()
    with show_progress() as report:
        how = (request.sampler, request.steps, request.guidance, applied)
        for frame, _ in generate_frames(subject, [request.prompt], [seed], *how, previews=1):
            report(Progress(frame.call, frame.calls, "calls"))
    seconds = time.perf_counter() - started
    with replace_atomically(out) as temporary:
        temporary.write_bytes(frame.picture or b"")
    kept = 1.0 if applied is None else _kept_macs(subject, applied)
    document = {
        "seconds": seconds,
        "denoise_seconds": frame.seconds,
        "macs_total": macs * frame.calls,
        "kept": kept,
        "calls": frame.calls,
        "seed": seed,
        "out": str(out),
    }
    full = f"the full run ({frame.calls} calls of {request.sampler}, {macs * frame.calls / 1e9:.1f} GMACs)"
    saved = f"{full}" if applied is None else f"{describe_mask(applied)}: {1 - kept:.1%} less than {full}"
    print_result(document, as_json, f"{out}: {saved}, in {seconds:.2f} s")


def _kept_macs(subject: Any, applied: Any) -> float:
    if applied.prunes == "schedule":
        return applied.macs_fraction
    return subject.prune_widths(applied).graph().macs_per_call / subject.graph().macs_per_call


@app.command()
def show(file: Path, as_json: AsJson = False) -> None:
    """What a mask or importance file holds."""
    result = load(file)
    header = result.header
    pruner = header.pruner
    settings = ", ".join(f"{name}={value}" for name, value in pruner.config.items() if value is not None)
    ratio, of = header.ratio, {"macs": "MACs", "params": "parameters"}.get(header.ratio.of, header.ratio.of)
    reached = f"{_percent(ratio.asked)} of the {of} asked, {_percent(ratio.reached)} reached"
    if header.kind == "importance":
        reached = f"any share of the {of}"
    rows = [
        ("holds", HOLDS[result.prunes, header.kind]),
        ("model", f"{header.model.id} ({header.model.denoiser}, weights {header.model.revision or 'unknown'})"),
        ("method", pruner.name),
        ("settings", settings),
        *([("trajectory", _trajectory(header))] if result.prunes == "schedule" else []),
        ("size", _size(result)),
        ("ratio", f"{reached}, at most {header.max_ratio:.1%}"),
        ("made", f"{header.created:%d %b %Y %H:%M}, {', '.join(f'{k} {v}' for k, v in header.versions.items())}"),
    ]
    more = importance_table(result) if header.kind == "importance" else describe_mask(result)
    print_result(result.describe(), as_json, f"{format_table(('', ''), rows, title=str(file))}\n\n{more}")


HOLDS = {
    ("schedule", "importance"): "an importance of schedules",
    ("schedule", "mask"): "a schedule",
    ("widths", "importance"): "an importance of widths",
    ("widths", "mask"): "widths",
}


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"


def _trajectory(header: Any) -> str:
    limit = header.max_extrapolation
    ahead = "" if limit is None else f", at most {limit} call{'s' * (limit > 1)} ahead"
    how = "learned coefficients" if header.is_learned else f"extrapolation of order {header.order}{ahead}"
    return f"{header.sampler}, {header.steps} steps, {header.calls} calls, guidance {header.guidance:g}; {how}"


def _size(result: Any) -> str:
    header = result.header
    if result.prunes == "schedule":
        return f"{header.calls} calls of {len(header.units)} units ({header.granularity})"
    elements = sum(dim.size for dim in header.dims)
    return f"{elements:,} {', '.join(header.kinds)} in {len(header.dims)} layers"
