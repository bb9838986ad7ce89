"""The app, and the options and checks that commands share."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from explorer import __version__
from explorer.experiment import ExperimentRequest
from explorer.masks.result import load
from explorer.models import catalogue
from explorer.pruners import SAMPLER_NAMES

ANY_RUN = {name: ExperimentRequest.model_fields[name].default for name in catalogue.RUN}

app = typer.Typer(
    help="See what pruning a diffusion model saves and what it loses.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else there.")]
MODEL_HELP = "A model of the catalogue, a folder or .safetensors file of a diffusers pipeline, or a name on the hub."
ModelId = Annotated[str, typer.Option(help=MODEL_HELP)]
MaskFile = Annotated[Path | None, typer.Option(help="A mask or importance file.")]
PromptFile = Annotated[Path | None, typer.Option(help="Prompts, one per line, for methods that run the model.")]
Granularity = Annotated[str, typer.Option(help="stage, layer or module.")]
RatioOption = Annotated[float | None, typer.Option(help="Share to remove, 0 to the file's largest.")]
_OWN = "default: a mask's, else the model's"
Steps = Annotated[int | None, typer.Option(help=f"Denoising steps; {_OWN}.", show_default=False)]
Sampler = Annotated[str | None, typer.Option(help=f"{', '.join(SAMPLER_NAMES)}; {_OWN}.", show_default=False)]
Guidance = Annotated[
    float | None,
    typer.Option(help=f"Classifier-free guidance; at most 1 switches it off; {_OWN}.", show_default=False),
]
Seed = Annotated[int, typer.Option(help="Seed of the noise.")]
Device = Annotated[str, typer.Option(help="Torch device.")]
Workers = Annotated[int, typer.Option(min=1, max=256, help="Processes that share the work, each with the model.")]
Variant = Annotated[str, typer.Option(help="Of the weights, such as fp16; default: the usual or only ones.")]
Offload = Annotated[
    bool, typer.Option("--offload", help="Keep each part of the pipeline in main memory but while it computes.")
]
Dtype = Annotated[str, typer.Option(help="float32, float16, bfloat16, or auto: as stored.")]
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
}


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"diffusion-pruning-explorer {__version__}")
        raise typer.Exit()


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the warnings of libraries.")] = False,
) -> None:
    """See what pruning a diffusion model saves and what it loses."""
    if not verbose:
        silence_libraries()


def silence_libraries() -> None:
    """Keep libraries' warnings and progress bars out of the output; they read these variables when they are
    imported."""
    import warnings

    warnings.filterwarnings("ignore")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def own_run(model: str) -> dict[str, Any]:
    """Read how a model was made to run, by its id, its folder or its name on the hub."""
    return catalogue.own_run(catalogue.find_id(model) or model)


def run_of(model: str, mask: Any = None, **asked: Any) -> dict[str, Any]:
    """Choose how a model runs: as asked, else as its schedule says, else as it was made to, else as any model does."""
    given = {name: value for name, value in asked.items() if value is not None}
    own = own_run(model)
    if mask is not None and mask.prunes == "schedule":
        own = {name: getattr(mask.header, name) for name in ANY_RUN}
    return ANY_RUN | own | given


def load_mask(file: Path, ratio: float | None) -> Any:
    """Read what a file decides, at `ratio` if it is an importance. Raises ValueError where that is unclear."""
    result = load(file)
    if result.header.kind == "importance" and ratio is None:
        raise ValueError(f"{file} holds an importance for every ratio; say which with --ratio")
    if result.header.kind == "mask" and ratio is not None:
        raise ValueError(f"{file} holds a mask, which has one ratio only; leave --ratio out")
    return result if ratio is None else result.at(ratio)


def check_writable(out: Path) -> None:
    """Raise ValueError before the work, not after it, where `out` cannot be written."""
    if out.is_dir() or not os.access(out.resolve().parent, os.W_OK):
        raise ValueError(f"{out} cannot be written")


def check_workers(workers: int, num_tasks: int, subject: str, settings: str) -> None:
    """Raise ValueError for workers that would have nothing to do; `settings` would give them work."""
    if workers > num_tasks:
        raise ValueError(
            f"{subject} too little work for {workers} workers (tasks at a time: {num_tasks}); see {settings}"
        )


def peak_mb() -> float:
    """Return the most memory that this process has used, in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parse_setting(text: str) -> tuple[str, str | None]:
    """Parse a setting of a method, `field=value`; an empty value is None."""
    field, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"--set needs field=value, got {text!r}")
    return field, value or None
