"""What each way of drawing costs and what it loses, picture by picture, all from the same noise.

    work = evaluate(model, Full(), contenders, pairs, Path("trial.parquet"))   # yields progress, returns the rows

Batch after batch, every contender draws the same (prompt, seed) pairs, so that differences are paired and the noise of
the machine falls on all alike. Rows are written as they come; an interrupted evaluation goes on with `resume`.
"""

import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from explorer import metrics, trajectory
from explorer.drawing import draw
from explorer.evidence import inception
from explorer.evidence.jury import Jury
from explorer.evidence.results import Results
from explorer.graph import Forecast
from explorer.masks import Mask
from explorer.team import Team
from explorer.widths import Widths
from explorer.work import Progress

BEST_PSNR = 100.0  # of equal pictures, whose PSNR is infinite, so that means stay finite
TRUTH_STEPS = 500


class Pair(NamedTuple):
    """One picture to draw."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Full:
    """The run that everything is held against."""

    sampler: str = "ddim"
    steps: int = 50
    guidance: float = 7.5


@dataclass(frozen=True)
class Contender:
    """One way of drawing: a sampler with its steps and settings, under a schedule or not."""

    method: str
    sampler: str
    steps: int
    ratio: float | None = None  # as asked
    settings: dict[str, Any] = field(default_factory=dict)  # what else tells it from others of its method
    solver: dict[str, Any] = field(default_factory=dict)
    mask: Mask | None = None
    widths: Widths | None = None

    @property
    def key(self) -> str:
        """Names it in a file: the same contender has the same key, another one another."""
        parts = [self.method, self.sampler, self.steps, self.ratio, self.settings, self.solver]
        digest = ""
        if self.mask is not None:
            order, reach = Forecast.of(self.mask.header)
            how = bytes([order]) + (b"" if reach is None else f"{reach}".encode())
            digest = sha256(self.mask.keep.tobytes() + how).hexdigest()
        if self.widths is not None:
            digest += sha256(b"".join(keep.tobytes() for keep in self.widths.keep.values())).hexdigest()
        text = json.dumps(parts, sort_keys=True) + digest
        return f"{self.method}-{sha256(text.encode()).hexdigest()[:12]}"

    def drawing_with(self, model: Any) -> Any:
        """The model that it draws with: a smaller one where it has widths."""
        return model if self.widths is None else self.widths.narrowed(model)


def pairs_of(prompts: Sequence[str], count: int, seed: int = 0) -> list[Pair]:
    """`count` pairs: the prompts in turn and again, each picture with a seed of its own."""
    if not prompts:
        raise ValueError("an evaluation needs at least one prompt")
    return [Pair(prompts[index % len(prompts)], seed + index) for index in range(count)]


def evaluate(
    model: Any,
    full: Full,
    contenders: Sequence[Contender],
    pairs: Sequence[Pair],
    out: Path,
    truth_steps: int = TRUTH_STEPS,
    batch: int = 8,
    resume: bool = False,
    jury: Jury | None = None,
    keep: Path | None = None,
    album: Path | None = None,
    team: Team | None = None,
) -> Generator[Progress, None, pd.DataFrame]:
    """Draw every pair with the full run and with every contender, measure, and write rows to `out` (.parquet).

    The full run is not the truth either: distances are given to it and, as `truth_..`, to a run of `truth_steps` steps
    (0: none). `jury` (default: the model's own) judges the pictures. With a folder to `keep` them in, those two runs
    are not drawn again for contenders that come later; in an `album` every picture is kept (`album_files`). What fails
    becomes a row with an `error`. A `team` draws several batches side by side: the same rows, but for seconds, which
    are those of a busy machine. Raises ValueError for contenders that do not fit the model, and for a file that holds
    something else.
    """
    if len(pairs) < 2:
        raise ValueError(f"an evaluation needs at least two pictures to say how sure it is, got {len(pairs)}")
    calls = trajectory.calls_of(full.sampler, model.scheduler_config, full.steps)
    for contender in contenders:
        _refuse_unfit(model, full, calls, contender)
    jury = jury or Jury.of(model)
    about = {"full": vars(full), "truth_steps": truth_steps, "batch": batch, "judge": jury.name}
    about |= {"workers": 1 if team is None else team.size}
    about |= {"real": jury.eyes and f"{len(jury.real)} pictures, {float(jury.real.double().sum()):.6g}"}
    results = Results.open(out, model.record, about, resume, missing=[*jury.missing, metrics.lpips_missing()])
    again = Contender("full", full.sampler, full.steps)  # drawn a second time: its distance is the floor of all others
    everyone = list({contender.key: contender for contender in (again, *contenders)}.values())
    batches = [list(pairs[start : start + batch]) for start in range(0, len(pairs), batch)]
    waiting = [[one.key for one in everyone if not results.has(one.key, some)] for some in batches]
    items = [(number, *item) for number, item in enumerate(zip(batches, waiting, strict=True)) if item[1]]
    named = {one.key: f"{one.method} {one.ratio or ''}".strip() for one in everyone}
    given = (full, truth_steps, everyone)
    if team is None:
        drawn = starmap(Drawing(model, *given, jury, keep, album).rows, items)
    else:
        drawn = team.crew(drawing, *given, jury.eyes is not None, keep, album)(items)
    for (number, _, keys), found in zip(items, drawn, strict=True):
        for key, rows in zip(keys, found, strict=True):
            results.add(rows, number)
            yield Progress(results.drawn, len(everyone) * len(pairs), named[key])
        results.write()
    return results.frame()


class Drawing:
    """What everybody draws of one batch after another, and how it is judged."""

    def __init__(
        self, model: Any, full: Full, truth_steps: int, everyone: Sequence[Contender], jury: Jury, *folders: Path | None
    ):
        self.model, self.full, self.truth_steps, (self.keep, self.album) = model, full, truth_steps, folders
        self.jury, self.calls = jury, trajectory.calls_of(full.sampler, model.scheduler_config, full.steps)
        self.everyone = {one.key: (one, one.drawing_with(model)) for one in everyone}

    def rows(self, number: int, pairs: list[Pair], keys: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        """The rows of each contender that is named, of batch `number`."""
        references = _references(self.model, self.full, self.truth_steps, pairs, self.keep)
        for key in keys:
            contender, subject = self.everyone[key]
            page = self.album and self.album / f"{key}-{number:03}.safetensors"
            models = (self.model, subject)
            yield _rows(models, self.full, self.calls, contender, pairs, references, self.jury, page)


def drawing(
    model: Any, full: Full, truth_steps: int, everyone: Sequence[Contender], eyes: bool, *folders: Path | None
) -> Callable[..., list[list[dict[str, Any]]]]:
    """`Drawing.rows` as lists, for a team; with `eyes` Inception looks as well."""
    jury = replace(Jury.of(model), eyes=inception.load() if eyes else None)
    drawn = Drawing(model, full, truth_steps, everyone, jury, *folders)
    return lambda *item: list(drawn.rows(*item))


def _refuse_unfit(model: Any, full: Full, calls: int, contender: Contender) -> None:
    """Before anything is drawn: a mask for something else, an impossible number of steps."""
    trajectory.calls_of(contender.sampler, model.scheduler_config, contender.steps, contender.solver)
    if contender.mask is not None:
        header = contender.mask.header
        header.refuse_unless(model.id, type(model.denoiser).__name__, calls, header.units)
        if (contender.sampler, contender.steps) != (full.sampler, full.steps):
            raise ValueError(f"the schedule of {contender.method} is for the full run's sampler and steps")


def _references(
    model: Any, full: Full, truth_steps: int, pairs: list[Pair], keep: Path | None
) -> dict[str, torch.Tensor]:
    """What pictures are held against, by the prefix of the columns."""
    named = json.dumps([model.record.model_dump(), vars(full), truth_steps, pairs], sort_keys=True)
    file = keep and keep / f"{sha256(named.encode()).hexdigest()[:16]}.safetensors"
    if file and file.exists():
        return load_file(file)
    prompts, seeds = zip(*pairs, strict=True)
    steps = {"": full.steps} | ({"truth_": truth_steps} if truth_steps else {})
    ends = {}
    for prefix, count in steps.items():
        *_, (_, ends[prefix]) = draw(model, prompts, seeds, full.sampler, count, full.guidance, previews=1)
    if file:
        _save(file, {prefix: pictures.contiguous() for prefix, pictures in ends.items()})
    return ends


def _rows(
    models: tuple[Any, Any],  # the whole one, and the one to draw with
    full: Full,
    calls: int,
    contender: Contender,
    pairs: list[Pair],
    references: dict[str, torch.Tensor],
    jury: Jury,
    page: Path | None,
) -> list[dict[str, Any]]:
    """One row per pair, in their order; the pictures on a page of the album."""
    rows, pages = [], []
    for part, drawn in _drawn(models[1], full, contender, pairs):
        about = _cost(models, calls, contender) | drawn.costs
        which = [pairs.index(pair) for pair in part]
        losses = {} if drawn.pictures is None else _losses(drawn.pictures, {k: v[which] for k, v in references.items()})
        looks = {} if drawn.pictures is None else jury.look(drawn.pictures, [pair.prompt for pair in part])
        for index, pair in enumerate(part):
            own = {name: value[index] for name, value in (losses | looks).items()}
            rows.append(pair._asdict() | about | own)
        pages.append(drawn.pictures)
    if page and all(pictures is not None for pictures in pages):
        _save(page, {"pictures": (torch.cat(pages) * 255).round().byte().permute(0, 2, 3, 1).contiguous()})
    return rows


def album_files(album: Path, key: str) -> list[Path]:
    """What a contender drew, batch after batch: each file holds `pictures`, uint8 (B, H, W, 3)."""
    return sorted(album.glob(f"{key}-*.safetensors"))


def _save(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file.with_suffix(".part"))
    file.with_suffix(".part").replace(file)


class Drawn(NamedTuple):
    """Pictures (B, 3, H, W) or None, with `loop_seconds` and `seconds` a picture, or the `error`."""

    pictures: torch.Tensor | None
    costs: dict[str, Any]


def _drawn(model: Any, full: Full, contender: Contender, pairs: list[Pair]) -> Iterator[tuple[list[Pair], Drawn]]:
    """All at once; where that fails one by one, so that one bad picture takes no other along."""
    prompts, seeds = zip(*pairs, strict=True)
    started = time.perf_counter()
    try:
        *_, (frame, pictures) = draw(
            *(model, prompts, seeds, contender.sampler, contender.steps, full.guidance, contender.mask),
            previews=1,
            solver=contender.solver,
        )
    except (ValueError, RuntimeError) as error:
        if len(pairs) > 1:
            for pair in pairs:
                yield from _drawn(model, full, contender, [pair])
        else:
            yield pairs, Drawn(None, {"error": f"{error}"[:300]})
        return
    seconds = {"loop_seconds": frame.seconds / len(pairs), "seconds": (time.perf_counter() - started) / len(pairs)}
    yield pairs, Drawn(pictures, seconds | {"error": None})


def _cost(models: tuple[Any, Any], calls: int, contender: Contender) -> dict[str, Any]:
    """What a contender is, and its MACs a picture beside the full run's `calls` whole calls."""
    model, subject = models
    per_call = model.graph().macs_per_call
    own = trajectory.calls_of(contender.sampler, model.scheduler_config, contender.steps, contender.solver)
    kept = own / calls if contender.mask is None else contender.mask.kept
    kept *= subject.graph().macs_per_call / per_call
    return {
        "key": contender.key,
        "model": model.id,
        "method": contender.method,
        "ratio": contender.ratio,
        "settings": json.dumps(contender.settings | contender.solver, sort_keys=True),
        "sampler": contender.sampler,
        "steps": contender.steps,
        "kept": kept,
        "macs": kept * calls * per_call,
        "params": subject.priced().params,
    }


def _losses(pictures: torch.Tensor, references: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Every measure against every reference, whole and inside the box of what the reference draws."""
    measures = dict(metrics.EVERY_MEASURE) | ({} if metrics.lpips_missing() else {"lpips": metrics.lpips})
    found = {}
    for prefix, reference in references.items():
        for name, measure in measures.items():
            best = BEST_PSNR if name == "psnr" else torch.inf
            found[f"{prefix}{name}"] = measure(pictures, reference).clamp(max=best).numpy()
            found[f"{prefix}{name}_box"] = metrics.boxed(measure, pictures, reference).clamp(max=best).numpy()
    return found
