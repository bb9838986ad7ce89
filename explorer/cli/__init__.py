"""python -m explorer COMMAND. Every command takes --json; bad input ends with exit code 2 and one sentence."""

import sys

import typer

from explorer.cli import build, evaluate, jobs, models, prune  # noqa: F401 (importing them adds their commands)
from explorer.cli.options import app
from explorer.cli.output import print_message
from explorer.errors import format_error


def main(arguments: list[str] | None = None) -> None:
    """Run a command; end the process with 0, or with 2 and one sentence for bad input."""
    try:
        code = app(arguments, standalone_mode=False)
    except typer.Abort:
        code = 130
    except (ValueError, typer.TyperException) as error:
        print_message(error.format_message() if isinstance(error, typer.TyperException) else format_error(error))
        code = 2
    sys.exit(code or 0)
