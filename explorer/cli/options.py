"""The flags and habits that the commands share."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from explorer import masks, widths
from explorer.pruners.configs import SAMPLERS

app = typer.Typer(
    help="See what pruning a diffusion model saves and what it loses.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else there.")]
MODEL_HELP = "A model of the catalogue, or the folder of a diffusers pipeline."
ModelId = Annotated[str, typer.Option(help=MODEL_HELP)]
MaskFile = Annotated[Path | None, typer.Option(help="A mask or importance file.")]
PromptFile = Annotated[Path | None, typer.Option(help="What to draw, one prompt a line, for methods that look.")]
Granularity = Annotated[str, typer.Option(help="stage, layer or module.")]
RatioFlag = Annotated[float | None, typer.Option(help="Share of the MACs to remove, 0 to the file's largest.")]
Steps = Annotated[int, typer.Option(help="Denoising steps.")]
Sampler = Annotated[str, typer.Option(help=f"{', '.join(SAMPLERS)}.")]
Guidance = Annotated[float, typer.Option(help="Classifier-free guidance; at most 1 switches it off.")]
Seed = Annotated[int, typer.Option(help="Seed of the noise.")]
Device = Annotated[str, typer.Option(help="Torch device.")]
Workers = Annotated[int, typer.Option(min=1, max=256, help="Processes that share the work, each with the model.")]
Dtype = Annotated[str, typer.Option(help="float32, float16 or bfloat16.")]


def say(document: Any, as_json: bool, text: str) -> None:
    print(json.dumps(document, default=str, allow_nan=False) if as_json else text)


def progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def mask_in(file: Path, ratio: float | None) -> masks.Mask | widths.Widths:
    """What a file decides, at `ratio` if it is an importance. Raises ValueError where that is unclear."""
    loaded = widths.found_in(file)
    if isinstance(loaded, (masks.Importance, widths.WidthImportance)):
        if ratio is None:
            raise ValueError(f"{file} holds an importance for every ratio; say which with --ratio")
        return loaded.at(ratio)
    if ratio is not None:
        raise ValueError(f"{file} holds a mask, which has one ratio only; leave --ratio out")
    return loaded


def refuse_unless_writable(out: Path) -> None:
    """Refuse before the work, not after it."""
    if out.is_dir() or not os.access(out.resolve().parent, os.W_OK):
        raise ValueError(f"{out} cannot be written")


def peak_mb() -> float:
    """The most memory this process has held, in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def setting(text: str) -> tuple[str, str | None]:
    """A setting of a method from `field=value`; an empty value is none."""
    field, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"--set needs field=value, got {text!r}")
    return field, value or None


def refuse_idle(workers: int, pieces: int, who: str, fields: str) -> None:
    """Refuse workers that would have nothing to do, and say which settings would give them work."""
    if workers > pieces:
        raise ValueError(f"{who} too little work for {workers} workers (pieces at a time: {pieces}); see {fields}")
