"""Commands that build what the project ships, and the page: train, precompute, serve."""

from pathlib import Path
from typing import Annotated

import typer

from explorer.cli.options import AsJson, Device, Seed, app
from explorer.cli.output import print_result, show_progress


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="An embedded model, or a part of one.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="How long to train, at most.")] = 60,
    resume: Annotated[bool, typer.Option(help="Continue from the last checkpoint.")] = False,
    device: Device = "cpu",
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Where checkpoints and samples go.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train the embedded models from the pictures."""
    from explorer.training import train as train_model

    train_model(name, minutes, resume, device, seed, out=out)
    print_result({"name": name, "minutes": minutes}, as_json, f"{name}: trained")


@app.command()
def precompute(
    parts: Annotated[list[str] | None, typer.Argument(help="catalogue, schedules, results, ...; default: all.")] = None,
    pictures: Annotated[int, typer.Option(min=2, help="Pictures of each candidate in the results.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Rebuild what follows from the models: the catalogue's numbers, schedules, results (hours; resumable), figures."""
    from explorer.studies.precompute import PARTS

    if unknown := [part for part in parts or PARTS if part not in PARTS]:
        raise ValueError(f"{unknown[0]!r} cannot be rebuilt; choose one of {', '.join(PARTS)}")
    with show_progress() as report:
        for part in parts or PARTS:
            PARTS[part](pictures, report)
    print_result({"rebuilt": list(parts or PARTS)}, as_json, f"rebuilt {', '.join(parts or PARTS)}")


@app.command()
def serve() -> None:
    """The page. Address and port: GRADIO_SERVER_NAME, GRADIO_SERVER_PORT."""
    from explorer import ui

    ui.launch()
