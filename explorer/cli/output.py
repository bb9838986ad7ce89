"""What commands print: a document or text on standard output, progress and errors on standard error."""

import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from explorer.masks.width_header import kind_title
from explorer.progress import Progress

LINE_INTERVAL_S = 5.0  # between two lines, where there is no terminal to draw a bar on
SCHEDULE_RATIOS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)  # of the table of an importance
WIDTH_RATIOS = (0.05, 0.1, 0.2, 0.3, 0.5)  # likewise, of parameters


def print_result(document: Any, as_json: bool, text: str) -> None:
    """Print the result of a command: one JSON document, or text for people."""
    print(json.dumps(document, default=str, allow_nan=False) if as_json else text)


def print_message(message: str) -> None:
    """Print a line on standard error."""
    print(message, file=sys.stderr, flush=True)


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> str:
    """Format rows as a table; all columns but the first are aligned to the right where they hold numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=title, title_justify="left", show_header=any(columns), pad_edge=False)
    for number, column in enumerate(columns):
        numeric = number > 0 and all(row[number][:1].isdigit() or not row[number] for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=120, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")


def importance_table(importance: Any) -> str:
    """Tabulate what an importance leaves at some ratios."""
    if importance.prunes == "schedule":
        rows = [
            _schedule_row(importance.at(ratio), ratio) for ratio in SCHEDULE_RATIOS if ratio <= importance.max_ratio
        ]
        return format_table(("asked", "reached", "MACs kept", "calls entered", "of them whole"), rows)
    header = importance.header
    columns = ("asked", "reached", "parameters", "MACs kept", *(f"{kind_title(kind)} removed" for kind in header.kinds))
    rows = [_width_row(importance.at(ratio), ratio) for ratio in WIDTH_RATIOS if ratio <= importance.max_ratio]
    return format_table(columns, rows)


def _schedule_row(schedule: Any, ratio: float) -> list[str]:
    entered, whole = int(schedule.keep.any(axis=1).sum()), int(schedule.keep.all(axis=1).sum())
    kept = schedule.macs_fraction
    return [f"{ratio:.0%}", f"{1 - kept:.1%}", f"{kept:.1%}", f"{entered}", f"{whole}"]


def _width_row(widths: Any, ratio: float) -> list[str]:
    params = round(widths.params_fraction * widths.header.params)
    reached, macs = f"{1 - widths.params_fraction:.1%}", f"{widths.macs_fraction:.1%}"
    return [f"{ratio:.0%}", reached, f"{params:,}", macs, *(f"{count:,}" for count in widths.removed_by_kind.values())]


def describe_mask(mask: Any) -> str:
    """Say in a sentence what a mask keeps."""
    if mask.prunes == "schedule":
        how = "" if mask.coefficients is None else ", and combines cached values by learned coefficients"
        return f"a schedule that keeps {mask.macs_fraction:.1%} of the MACs{how}"
    removed = ", ".join(f"{kind_title(kind)} {count:,}" for kind, count in mask.removed_by_kind.items())
    return f"widths that keep {mask.params_fraction:.1%} of the parameters; parameters removed: {removed}"


def describe_result(result: Any) -> str:
    """Describe a mask in a sentence, an importance with a table of what it leaves at some ratios."""
    if result.header.kind == "mask":
        return describe_mask(result)
    share = "" if result.prunes == "schedule" else f" up to {result.max_ratio:.1%} of the parameters"
    return f"an importance for every ratio{share}\n{importance_table(result)}"


@contextmanager
def show_progress() -> Iterator[Callable[[Progress], None]]:
    """Show progress inside: one bar with the time left where there is a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield ProgressLines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("")
        yield lambda step: bar.update(task, completed=step.done, total=step.total, description=step.message)


class ProgressLines:
    """Progress as lines, not more often than every few seconds."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None  # how much was done when, at the first of them
        self.printed_at = float("-inf")

    def __call__(self, step: Progress) -> None:
        now = time.monotonic()
        self.first = self.first or (step.done, now)
        if now - self.printed_at < LINE_INTERVAL_S and step.done < step.total:
            return
        self.printed_at, (done, since) = now, self.first
        left = ""
        if step.done != done:
            left = f", {(now - since) / (step.done - done) * (step.total - step.done):.0f} s left"
        print_message(f"{step.done} of {step.total}: {step.message}{left}")
