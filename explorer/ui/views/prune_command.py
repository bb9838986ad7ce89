"""A mask outside of the page: its file's name, the lines of Python that use it, the commands that make one like it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from explorer.errors import format_error
from explorer.experiment import ExperimentRequest
from explorer.masks.file_format import FileHeader
from explorer.masks.learned_coefficients import LEARNED
from explorer.models.catalogue import list_models
from explorer.models.pipelines import PIPELINES
from explorer.pruners import PRUNERS, method_config, method_title

MODEL = "{model}"  # in a command, where the browser puts what a visitor types
EXPLORER = ("python", "-m", "explorer")
TRAJECTORY = ("steps", "sampler", "guidance", "seed")
NOT_SET = (*TRAJECTORY, "ratio", "stop_after")  # options of their own, or of one run alone
FALLBACK_METHOD, LEARNED_METHOD = "uniform", "dipgo"
PROMPTS = "prompts.txt"
# Of FLUX's pipeline, which else takes the sizes of FLUX.1: pictures of 1024 pixels and 512 tokens.
OWN_SIZES = [
    *(f"{side}=model.latent_size[{axis}] * pipe.vae_scale_factor" for axis, side in enumerate(("height", "width"))),
    "max_sequence_length=model.text_length",
]


def slug(text: str) -> str:
    """Reduce a text to letters, digits and dashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:60]


def file_name(header: FileHeader, ratio: float | None, model: str = "") -> str:
    """Name a file by model, method, sampler, steps; a mask also by its ratio in percent (`ratio` None)."""
    config = header.pruner.config
    reached = header.ratio.reached if ratio is None else None
    parts = [
        *(model or header.model.id, header.pruner.name),
        *(str(getattr(header, name, config.get(name, ""))) for name in ("sampler", "steps")),
        "" if reached is None else f"{100 * reached:.0f}",
    ]
    return "-".join(filter(None, map(slug, parts))) + ".safetensors"


def method_and_config(header: FileHeader, request: ExperimentRequest) -> tuple[str, Any]:
    """Find the method that made a file, and its settings; "" and None where no command makes such a file.

    A schedule that was edited by hand was made by the method of the request. What a foreign file says is checked.
    """
    name = header.pruner.name
    settings = {
        field: value for field, value in header.pruner.config.items() if field not in LEARNED
    }  # which `fit` adds
    if name == "manual" and _is_valid(request.method, settings):
        name = request.method
    if name not in PRUNERS or PRUNERS[name].reads_files:
        return "", None
    if not _is_valid(name, settings):
        return name, method_config(name, {}, _trajectory(request))
    return name, method_config(name, settings)


def _is_valid(method: str, settings: Mapping[str, Any]) -> bool:
    try:
        method_config(method, settings)
    except (ValueError, TypeError) as error:
        return not format_error(error)
    return True


def prune_command(
    method: str, config: Any, result: Any, mask: Any, request: ExperimentRequest, ratio: float | None
) -> list[list[str]]:
    """Write the commands that make a file like `result` for another model, and draw with it, as arguments.

    `ratio` is that of an importance, None where the file is the mask alone.
    """
    reached = round(max(0.0, 1 - (mask.macs_fraction if mask.prunes == "schedule" else mask.params_fraction)), 4)
    if not method:
        method, config = FALLBACK_METHOD, method_config(FALLBACK_METHOD, {}, _trajectory(request))
    out = "-".join(filter(None, (slug(method), slug(str(getattr(config, "sampler", ""))), _steps(config))))
    out = f"{out}.safetensors"
    prune = [*EXPLORER, "prune", "--model", MODEL, "--method", method]
    prune += _options(config, None if ratio is not None else _ratio_of_mask(config, mask, reached))
    prompts = [] if _adapter(result.header).has_names else ["--prompts", PROMPTS]
    made = [[*prune, *(prompts if PRUNERS[method].cost else []), "--out", out]]
    if mask.prunes == "schedule" and mask.header.is_learned:
        fitted = out.replace(".", "-fitted.")
        made.append([*EXPLORER, "fit", out, "--model", MODEL, *prompts, "--out", fitted])
        out = fitted
    file = ["--mask", out, *(["--ratio", f"{ratio:.4g}"] if ratio is not None else [])]
    drawn = [("--prompt", request.prompt), *((f"--{name}", getattr(request, name)) for name in TRAJECTORY)]
    words = [word for option, value in drawn for word in (option, _text(value))]
    return [*made, [*EXPLORER, "generate", "--model", MODEL, *words, *file, "--out", "picture.png"]]


def first_commands(has_names: bool) -> list[list[str]]:
    """Write the commands with which to begin on a model: what it costs, a file in seconds, one that is learned.

    has_names: of what it draws, so that learning needs no prompts.
    """
    steps = ("--steps", "50")
    prompts = () if has_names else ("--prompts", PROMPTS)
    return [
        [*EXPLORER, "cost", "--model", MODEL, *steps],
        [*EXPLORER, "prune", "--model", MODEL, "--method", FALLBACK_METHOD, *steps, "--out", "uniform.safetensors"],
        [
            *EXPLORER,
            "prune",
            "--model",
            MODEL,
            "--method",
            LEARNED_METHOD,
            *steps,
            *prompts,
            "--out",
            "dipgo.safetensors",
        ],
    ]


def learning_note(method: str, commands: list[list[str]]) -> str:
    """Say what learning needs; empty for a method that learns nothing."""
    if not PRUNERS[method].cost:
        return ""
    prompts = f" {PROMPTS} holds one prompt per line." if any(PROMPTS in words for words in commands) else ""
    return f"{method_title(method)} takes long without a GPU: add --device cuda.{prompts}"


def _trajectory(request: ExperimentRequest) -> dict[str, Any]:
    return {field: getattr(request, field) for field in TRAJECTORY}


def _steps(config: Any) -> str:
    return str(getattr(config, "steps", ""))


def _ratio_of_mask(config: Any, mask: Any, reached: float) -> float:
    """Find the ratio at which a command makes such a mask: that of its settings, or the one that it has."""
    return next((one for one in (config.ratio, mask.header.ratio.asked) if one is not None), reached)


def _options(config: Any, ratio: float | None) -> Iterator[str]:
    """List the options for a config: trajectory, ratio of a mask, settings that are not the default."""
    fields = type(config).model_fields
    for name in (name for name in TRAJECTORY if name in fields):
        yield from (f"--{name}", _text(getattr(config, name)))
    if ratio is not None:
        yield from ("--ratio", f"{ratio:.4g}")
    for name, field in fields.items():
        value = getattr(config, name)
        if name not in NOT_SET and value != field.default:
            yield from ("--set", f"{name}={'' if value is None else _text(value)}")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _adapter(header: FileHeader) -> Any:
    """Look up how pipelines of a file's model are called."""
    rows = list_models()
    own = [row for row in rows if row["id"] == header.model.id]
    alike = [row for row in rows if row["denoiser"] == header.model.denoiser]
    return PIPELINES[(own or alike or rows)[0]["pipeline"]]


def python_lines(result: Any, request: ExperimentRequest, file: str, ratio: float | None) -> str:
    """Write the lines that load the model and the file, apply it and draw."""
    header, widths = result.header, result.prunes == "widths"
    kind, at = ("Mask", "") if ratio is None else ("Importance", f".at({ratio:.4g})")
    name = "widths" if widths else "schedule"
    draw = _draw(_adapter(header), request)
    apply = (
        ["pipe = explorer.prune_widths(model, widths).pipe", *_scheduler(request), f"picture = {draw}"]
        if widths
        else [
            "pipe = model.pipe",
            *_scheduler(request),
            "with explorer.apply(pipe, schedule):",
            f"    picture = {draw}",
        ]
    )
    lines = [
        *("import torch", "", "import explorer", "from explorer.sampling.schedulers import make_scheduler", ""),
        f"model = explorer.load({_literal(header.model.id)})",
        f"{name} = explorer.{kind}.load({_literal(file)}){at}",
        *apply,
        'picture.save("picture.png")',
    ]
    return "\n".join(lines)


def _literal(text: str) -> str:
    """Write a text as Python does, in double quotes where it has neither kind."""
    written = repr(text)
    return written if '"' in written else f'"{written[1:-1]}"'


def _scheduler(request: ExperimentRequest) -> list[str]:
    noise = f"noise = torch.Generator().manual_seed({request.seed})"
    return [noise, f"pipe.scheduler = make_scheduler({_literal(request.sampler)}, model.scheduler_config)"]


def _draw(adapter: Any, request: ExperimentRequest) -> str:
    """Write the call of a pipeline: of a prompt, of a class by name or number, or of neither."""
    prompt = _literal(request.prompt)
    if adapter.has_names:
        prompt = f"[{int(prompt[1:-1])}]" if request.prompt.isdecimal() else f"pipe.get_label_ids([{prompt}])"
    arguments = [
        *([prompt] if adapter.uses_prompt else []),
        f"num_inference_steps={request.steps}",
        *([f"guidance_scale={request.guidance:g}"] if adapter.uses_prompt else []),
        "generator=noise",
        *(OWN_SIZES if adapter.text_tokenizer else []),
    ]
    return f"pipe({', '.join(arguments)}).images[0]"
