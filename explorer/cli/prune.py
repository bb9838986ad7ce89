"""python -m explorer prune: run a method, show its progress, and save what it learned so that it can be resumed."""

import time
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any

import typer

from explorer import experiment
from explorer.cli.options import (
    MODEL_HELP,
    AsJson,
    Device,
    Dtype,
    Guidance,
    ModelId,
    Offload,
    PromptFile,
    RatioOption,
    Sampler,
    Seed,
    Steps,
    Variant,
    Workers,
    app,
    check_workers,
    check_writable,
    load_mask,
    own_run,
    parse_setting,
    peak_mb,
)
from explorer.cli.output import describe_result, print_message, print_result, show_progress
from explorer.errors import format_error
from explorer.jobs.executors.pools import worker_pool
from explorer.masks.result import load
from explorer.models import catalogue
from explorer.models.prompts import read_prompts
from explorer.progress import Progress, run_to_completion
from explorer.pruners import PRUNERS, method_config
from explorer.pruners.resume import SavedState, run_with_saved_state
from explorer.pruners.schedule_configs import ExtrapolationConfig
from explorer.settings import settings as environment


@app.command()
def prune(
    out: Annotated[Path, typer.Option(help="The file to write, .safetensors.")],
    method: Annotated[str, typer.Option(help=f"{', '.join(PRUNERS)}.")],
    model: ModelId = "emoji-unet",
    ratio: RatioOption = None,
    steps: Steps = None,
    sampler: Sampler = None,
    guidance: Guidance = None,
    prompts: PromptFile = None,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    offload: Offload = False,
    variant: Variant = "",
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the method: field=value.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue a search that was stopped.")] = False,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Run a method: with --ratio it writes a mask, without it an importance that serves every ratio."""
    trajectory = {"steps": steps, "sampler": sampler, "guidance": guidance, "seed": seed, "ratio": ratio}
    trajectory = own_run(model) | {name: value for name, value in trajectory.items() if value is not None}
    config = method_config(method, dict(map(parse_setting, settings or [])), trajectory)
    hint = "candidates_per_round of search and genetic, micro_batch of dipgo"
    check_workers(workers, config.num_tasks, f"{method} has", hint)
    check_writable(out)
    started = time.perf_counter()
    subject = catalogue.load(
        model, weights=PRUNERS[method].needs_weights, device=device, dtype=dtype, variant=variant, offload=offload
    )
    saved = SavedState(out, {"model": subject.id, "method": method, "config": config.model_dump(mode="json")})
    names = [] if prompts is None else read_prompts(prompts)
    with worker_pool(workers, environment().scheduler, model, device, dtype, variant, offload) as pool:
        work = experiment.prune(subject, method, config, names, saved.load() if resume else None, pool)
        result = run_and_save_states(work, saved)
    if ratio is not None and PRUNERS[method].prunes == "schedule":
        result = result.at(ratio)
    result.save(out)
    saved.delete()
    seconds, about = time.perf_counter() - started, result.describe()
    document = {"method": method, "out": str(out), "seconds": seconds, "peak_mb": peak_mb(), "kept": about["kept"]}
    document |= {name: about[name] for name in ("removed",) if name in about}
    print_result(document, as_json, f"{out}: {describe_result(result)}")


@app.command("import")
def import_published(
    file: Annotated[
        Path,
        typer.Argument(help="Gates of DiP-GO, routers of Learning-to-Cache, JSON of SmoothCache or DeepCache."),
    ],
    out: Annotated[Path, typer.Option(help="The file to write, .safetensors.")],
    model: ModelId = "emoji-unet",
    steps: Annotated[int, typer.Option(min=1, max=1000, help="For DeepCache's parameters, which are for any.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Make a mask of a schedule that the authors of another method published; nothing in the file is run."""
    from explorer.pruners.published import read_published

    check_writable(out)
    mask = read_published(file, catalogue.load(model, weights=False), steps)
    mask.save(out)
    document = {"method": mask.header.pruner.name, "out": str(out), "kept": mask.describe()["kept"]}
    print_result(document, as_json, f"{out}: {describe_result(mask)}")


@app.command()
def fit(
    file: Annotated[Path, typer.Argument(help="A mask or an importance of any method for schedules.")],
    out: Annotated[Path, typer.Option(help="The file to write, .safetensors.")],
    ratio: Annotated[
        float | None, typer.Option(help="Of an importance: only this one. Default: every 0.05; see --set distance.")
    ] = None,
    model: Annotated[str | None, typer.Option(help=f"{MODEL_HELP} Default: the file's.", show_default=False)] = None,
    prompts: PromptFile = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    offload: Offload = False,
    variant: Variant = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="num_images, values, ridge, distance or seed: field=value.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Learn by what a schedule's skipped units combine their last values, instead of a polynomial."""
    from explorer.pruners.learned_extrapolation import learn_extrapolation

    check_writable(out)
    started = time.perf_counter()
    mask = load(file) if ratio is None else load_mask(file, ratio)
    if mask.prunes != "schedule":
        raise ValueError(f"{file} prunes widths, which hand back nothing")
    config = ExtrapolationConfig(**dict[str, Any](map(parse_setting, settings or [])))
    options: dict[str, Any] = {"device": device, "dtype": dtype, "variant": variant, "offload": offload}
    subject = catalogue.load(model or mask.header.model.id, **options)
    names = [] if prompts is None else read_prompts(prompts)
    with show_progress() as report:
        learned = run_to_completion(learn_extrapolation(subject, mask, names, config), report)
    learned.save(out)
    document = {"out": str(out), "seconds": time.perf_counter() - started, "kept": learned.describe()["kept"]}
    print_result(document, as_json, f"{out}: {describe_result(learned)}")


def run_and_save_states(work: Generator[Progress, None, Any], saved: SavedState) -> Any:
    """Drive work to its end and return its result, with progress. Raises typer.Abort where a user stops it, and
    ValueError for an error."""
    with show_progress() as report:
        try:
            return run_with_saved_state(work, saved, report)
        except (ValueError, KeyboardInterrupt) as error:
            kept = f" What was learned so far is kept: continue with --resume ({saved.path})."
            hint = kept if saved.is_written else ""
            if isinstance(error, KeyboardInterrupt):
                print_message(f"stopped.{hint}")
                raise typer.Abort from error
            raise ValueError(f"{format_error(error)}.{hint}" if hint else format_error(error)) from error
