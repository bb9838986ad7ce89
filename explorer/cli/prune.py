"""python -m explorer prune: run a method, show how far it is, keep what it learned so that it can go on."""

import json
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from safetensors import SafetensorError, safe_open

from explorer import catalogue, experiment, masks
from explorer.cli.flags import (
    AsJson,
    Device,
    Dtype,
    Guidance,
    ModelId,
    PromptFile,
    RatioFlag,
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
from explorer.files import write_whole
from explorer.jobs.processes import hired
from explorer.prompts import read
from explorer.pruners.configs import CONFIGS, WIDTHS
from explorer.widths import WidthImportance, Widths
from explorer.work import Progress

SAVE_EVERY = 30.0  # seconds between two states on disk
SAY_EVERY = 5.0  # seconds between two lines, where there is no terminal to draw a bar on
SHOWN = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)  # ratios of the table at the end
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)  # likewise, of parameters


@app.command()
def prune(
    out: Annotated[Path, typer.Option(help="The file to write, .safetensors.")],
    method: Annotated[str, typer.Option(help=f"{', '.join(CONFIGS | WIDTHS)}.")],
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
    resume: Annotated[bool, typer.Option(help="Go on with a search that was stopped.")] = False,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Run a method: with --ratio it writes a mask, without it an importance that serves every ratio."""
    trajectory = {"steps": steps, "sampler": sampler, "guidance": guidance, "seed": seed, "ratio": ratio}
    trajectory = {name: value for name, value in trajectory.items() if value is not None}
    config = experiment.config_of(method, dict(map(setting, settings or [])), trajectory)
    refuse_idle(workers, config.pieces, f"{method} has", "brood of search and genetic, share of dipgo's batch")
    refuse_unless_writable(out)
    started = time.perf_counter()
    subject = catalogue.load(model, weights=config.RUNS_MODEL, device=device, dtype=dtype)
    kept = Kept(out, {"model": subject.id, "method": method, "config": config.model_dump(mode="json")})
    wanted = [] if prompts is None else read(prompts)
    with hired(workers, model, device, dtype) as team:
        work = experiment.prune(subject, method, config, wanted, kept.load() if resume else None, team)
        result = followed(work, kept)
    if ratio is not None and isinstance(result, masks.Importance):
        result = result.at(ratio)
    result.save(out)
    kept.forget()
    share = result.kept if isinstance(result, (masks.Mask, Widths)) else None
    seconds = time.perf_counter() - started
    document = {"method": method, "out": str(out), "seconds": seconds, "peak_mb": peak_mb(), "kept": share}
    if isinstance(result, Widths):
        document["removed"] = result.removed
    say(document, as_json, f"{out}: {told(result)}")


def told(result: masks.Result | Widths | WidthImportance) -> str:
    """A mask in a sentence, an importance with a table of what it leaves at some ratios."""
    if isinstance(result, masks.Mask):
        return f"a mask that keeps {result.kept:.1%} of the MACs"
    if isinstance(result, Widths):
        return f"widths that keep {result.kept:.1%} of the parameters; what goes: {result.by_kind}"
    if isinstance(result, WidthImportance):
        return "\n".join(_left(result))
    lines = [
        "an importance for every ratio",
        f"{'asked':>7} {'reached':>8} {'calls entered':>14} {'of them whole':>14}",
    ]
    for ratio in (ratio for ratio in SHOWN if ratio <= result.header.max_ratio):
        mask = result.at(ratio)
        entered, whole = int(mask.keep.any(axis=1).sum()), int(mask.keep.all(axis=1).sum())
        lines.append(f"{ratio:>7.0%} {1 - mask.kept:>8.1%} {entered:>14} {whole:>14}")
    return "\n".join(lines)


def _left(order: WidthImportance) -> list[str]:
    """What an order over units leaves at some ratios, and how many parameters of each kind go."""
    lines = [
        f"an importance for every ratio up to {order.header.max_ratio:.1%} of the parameters",
        f"{'asked':>7} {'reached':>8} {'parameters':>12} {'MACs kept':>10} gone:"
        + "".join(f" {kind:>12}" for kind in order.header.kinds),
    ]
    for ratio in (ratio for ratio in SHARES if ratio <= order.header.max_ratio):
        left = order.at(ratio)
        params = round(left.kept * order.header.params)
        lines.append(
            f"{ratio:>7.0%} {1 - left.kept:>8.1%} {params:>12,} {left.kept_macs:>10.1%}      "
            + "".join(f" {count:>12,}" for count in left.removed.values())
        )
    return lines


class Kept:
    """The last state of a search, beside the file that it will become; `about` says what was being learned."""

    def __init__(self, out: Path, about: Mapping[str, Any]):
        self.path, self.about = out.with_name(f".{out.name}.state"), json.dumps(about, sort_keys=True)

    def save(self, state: Mapping[str, Any]) -> None:
        write_whole(self.path, state, {"explorer": self.about})

    def load(self) -> dict[str, Any]:
        """Raises ValueError where there is no state, or one of something else."""
        if not self.path.is_file():
            raise ValueError(f"there is nothing to go on with beside {self.path.parent / self.path.name[1:-6]}")
        try:
            with safe_open(self.path, framework="numpy") as file:
                about = (file.metadata() or {}).get("explorer")
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.path} is damaged: {error}") from error
        if about != self.about:
            raise ValueError(f"{self.path} was learned with other settings; name another --out, or leave --resume out")
        return state

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)


def followed(work: Generator[Progress, None, masks.Result], kept: Kept) -> masks.Result:
    """What the work returns. Its progress is drawn; its state is written now and then, and when it is stopped."""
    state, saved = None, time.monotonic()
    with shown() as show:
        try:
            while True:
                try:
                    step = next(work)
                except StopIteration as stop:
                    return stop.value
                show(step)
                state = step.state
                if state is not None and time.monotonic() - saved > SAVE_EVERY:
                    kept.save(state)
                    saved = time.monotonic()
        except (ValueError, KeyboardInterrupt) as error:
            where = "" if state is None else f" What was learned so far is kept: go on with --resume ({kept.path})."
            if state is not None:
                kept.save(state)
            if isinstance(error, KeyboardInterrupt):
                progress(f"stopped.{where}")
                raise typer.Abort from error
            raise ValueError(
                f"{experiment.sentence(error)}.{where}" if where else experiment.sentence(error)
            ) from error


@contextmanager
def shown() -> Generator[Any, None, None]:
    """A bar with the time left where there is a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("")
        yield lambda step: bar.update(task, completed=step.done, total=step.total, description=step.message)


class Lines:
    """Progress as lines, not more often than every few seconds."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None  # how much was done when, at the first of them
        self.said = float("-inf")

    def __call__(self, step: Progress) -> None:
        now = time.monotonic()
        self.first = self.first or (step.done, now)
        if now - self.said < SAY_EVERY and step.done < step.total:
            return
        self.said, (done, since) = now, self.first
        left = (
            "" if step.done == done else f", {(now - since) / (step.done - done) * (step.total - step.done):.0f} s left"
        )
        progress(f"{step.done} of {step.total}: {step.message}{left}")
