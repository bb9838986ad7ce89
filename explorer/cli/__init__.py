"""python -m explorer COMMAND. Every command takes --json; bad input ends with exit code 2 and one sentence."""

import sys

import typer

from explorer import experiment
from explorer.cli import building, evidence, jobs, pruning, schedules  # noqa: F401 (importing them adds their commands)
from explorer.cli.flags import app, progress


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
