"""Commands that build what the project ships, and the page: train, precompute, serve."""

from pathlib import Path
from typing import Annotated

import typer

from explorer import catalogue
from explorer.cli.flags import AsJson, Device, Seed, app, say


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
