"""Computes what the SuperNet tab teaches with: pictures, features, paths and costs of a run of five calls.

run_to_completion(make_lesson(load("emoji-unet"), FOLDER))
"""

import itertools
import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from explorer import experiment
from explorer.bundled.lesson import FIFTY_SHEET, RUN, SCENES, SHEET, TABLE, WIDTHS_SHEET, request_values
from explorer.execution.recording import record_outputs
from explorer.masks.block_graph import BlockGraph, Extrapolation
from explorer.masks.encoding import encode_bits
from explorer.masks.schedule import Schedule
from explorer.measures.feature_similarity import measure
from explorer.measures.table import METRICS
from explorer.models.model import Model
from explorer.models.prompts import split_names
from explorer.progress import Progress
from explorer.pruners.dipgo_gradients import kept_share
from explorer.sampling.rollout import Step, denoise
from explorer.sampling.schedulers import make_scheduler
from explorer.studies import lesson_facts
from explorer.studies.lesson_facts import Entry

TRUE_PATH_STEPS = 50
FEATURE_PIXELS = 32
NUM_SIMILARITY_IMAGES = 24
QUALITY = 82  # of the sheets, lossy: they are looked at, never measured


def make_lesson(model: Model, folder: Path) -> Generator[Progress, None, None]:
    """Write the table and the sheets into `folder`; yields a progress per part."""
    folder.mkdir(parents=True, exist_ok=True)
    graph, levels = model.graph("stage"), depth_levels(model.graph("stage"))
    scenes: list[dict[str, Any]] = []
    subnets: list[Entry] = []
    for number, (prompt, seed) in enumerate(SCENES):
        yield Progress(number, len(SCENES), f"all SubNets of {prompt}, seed {seed}")
        found = _draw_subnets(model, prompt, seed, levels, folder)
        _draw_full_run(model, prompt, seed, folder)
        scenes.append({"prompt": prompt, "seed": seed, "psnr": [round(entry.psnr, 2) for entry in found]})
        subnets = subnets or found
    trajectory: dict[str, Any] = {name: RUN[name] for name in ("sampler", "steps", "guidance")}
    names = split_names(model, "search")[:NUM_SIMILARITY_IMAGES]
    similarity = yield from measure(model, names, granularity="stage", **trajectory)
    importance, recorded = yield from lesson_facts.search(model)
    ranks = {"dipgo": importance.rank, "similarity": lesson_facts.similarity_order(graph, similarity.alike)}
    fewer_widths, pictures = lesson_facts.widths(model)
    _write_sheet([np.asarray(Image.open(BytesIO(png)).convert("RGB")) for png in pictures], folder / WIDTHS_SHEET)
    fifty, by_methods = lesson_facts.fifty_calls(model)
    _write_sheet(by_methods, folder / FIFTY_SHEET)
    table = {
        **RUN,
        "graph": _describe_graph(graph),
        "layers": _describe_graph(model.graph("layer")),
        "levels": levels.astype(int).tolist(),
        "scenes": scenes,
        "similarity": similarity.alike.round(4).tolist(),
        "path": _paths(model, *SCENES[0], folder),
        "search": recorded,
        "rivals": lesson_facts.rivals(graph, ranks, levels, subnets, partial(_closeness, model, *SCENES[0])),
        "fifty": fifty,
        "widths": fewer_widths,
    }
    (folder / TABLE).write_text(json.dumps(table, separators=(",", ":")) + "\n", encoding="utf-8")


def depth_levels(graph: BlockGraph) -> np.ndarray:
    """List what is left of a call where an up stage and all that only it reads are left out, from nothing to all,
    (levels, U) bool."""
    everything = np.ones((2, len(graph.units)), dtype=bool)
    rows = [np.zeros(len(graph.units), dtype=bool)]
    for column in reversed([index for index, name in enumerate(graph.names) if name.startswith("up_blocks.")][:-1]):
        keep = everything.copy()
        keep[1, column] = False
        rows.append(graph.close(keep)[1])
    return np.stack([*rows, everything[1]])


def _describe_graph(graph: BlockGraph) -> dict[str, Any]:
    return {"units": [unit.model_dump() for unit in graph.units], "macs_fixed": graph.macs_fixed}


def _schedule(model: Model, keep: np.ndarray, order: int = 0) -> Schedule:
    """Make the schedule of these decisions (T, U)."""
    base = experiment.mask_at(model, experiment.ExperimentRequest(**request_values(*SCENES[0], encode_bits(keep))))
    return base.with_extrapolation(Extrapolation(order, None))


def _run(model: Model, prompt: str, seed: int, schedule: Schedule | None, steps: int = RUN["steps"]) -> list[Step]:
    """Generate one picture and return all its steps."""
    scheduler = make_scheduler(RUN["sampler"], model.scheduler_config)
    conditioning = model.encode([prompt], RUN["guidance"])
    noise, generators = model.initial_latents([seed])
    context = nullcontext(model.with_shared_weights()) if schedule is None else schedule.apply_to(model, scheduler)
    with context as subject:
        return list(denoise(subject, scheduler, steps, noise, conditioning, RUN["guidance"], generators))


def _closeness(model: Model, prompt: str, seed: int, keep: np.ndarray) -> float:
    """Compute how close a scene by these decisions (T, U) comes to its full run, in dB."""
    pruned, full = (_run(model, prompt, seed, schedule)[-1] for schedule in (_schedule(model, keep), None))
    return float(METRICS["psnr"].on_pictures(model.decode(pruned.latents), model.decode(full.latents)))


def _draw_subnets(model: Model, prompt: str, seed: int, levels: np.ndarray, folder: Path) -> list[Entry]:
    """Generate a scene by every choice of a level per call. Its sheet has a tile per prefix of a choice: what the
    picture would be after that call; shorter prefixes come first, each length in the order of its digits."""
    calls, graph, entries = RUN["steps"], model.graph("stage"), []
    tiles: dict[tuple[int, ...], np.ndarray] = {}
    reference = model.decode(_run(model, prompt, seed, None)[-1].latents)
    for choice in itertools.product(range(len(levels)), repeat=calls - 1):
        keep = np.stack([levels[-1], *(levels[level] for level in choice)])
        steps = _run(model, prompt, seed, _schedule(model, keep))
        for call in range(calls):
            if choice[:call] not in tiles:
                tiles[choice[:call]] = _pixels(model.decode(steps[call].pred_original_sample))
        psnr = float(METRICS["psnr"].on_pictures(model.decode(steps[-1].latents), reference))
        entries.append(Entry(kept_share(graph, keep), psnr, keep))
    ordered = [tiles[prefix] for prefix in sorted(tiles, key=lambda prefix: (len(prefix), prefix))]
    _write_sheet(ordered, folder / SHEET.format(prompt=prompt, seed=seed, part="subnets"))
    return entries


def _draw_full_run(model: Model, prompt: str, seed: int, folder: Path) -> None:
    """Write what the full run starts from and has after each call, and what its stages put out."""
    noise, _ = model.initial_latents([seed])
    steps = _run(model, prompt, seed, None)
    noisy = [_pixels(model.decode(latents)) for latents in (noise, *(step.latents for step in steps))]
    _write_sheet(noisy, folder / SHEET.format(prompt=prompt, seed=seed, part="noisy"))
    _write_sheet(_feature_maps(model, prompt, seed), folder / SHEET.format(prompt=prompt, seed=seed, part="features"))


def _feature_maps(model: Model, prompt: str, seed: int) -> list[np.ndarray]:
    """Draw the mean strength of each stage's output at each call, call by call; one scale of grey per stage."""
    graph, maps = model.graph("stage"), dict[int, list[torch.Tensor]]()

    def record(column: int, output: torch.Tensor) -> None:
        strength = model.conditional_half(output.detach(), 1).abs().mean(1, keepdim=True)
        maps.setdefault(column, []).append(F.interpolate(strength, FEATURE_PIXELS, mode="bilinear")[0, 0])

    shared = model.with_shared_weights()
    with record_outputs(shared.denoiser, graph, list(range(len(graph.units))), record):
        _run(shared, prompt, seed, None)
    scaled = []
    for column in range(len(graph.units)):
        stack = torch.stack(maps[column])
        low, high = stack.amin(), stack.amax()
        scaled.append(((stack - low) / (high - low) * 255).byte().numpy())
    return [scaled[column][call] for call in range(RUN["steps"]) for column in range(len(graph.units))]


def _paths(model: Model, prompt: str, seed: int, folder: Path) -> dict[str, Any]:
    """Project what the picture is thought to be after each call on the two main directions of a run of many calls: that
    run, and five calls of which any but the first are skipped, by order of extrapolation and by the calls that are
    made, `10111` for example. The last pictures of order 1 go into a sheet, in that order."""
    full = _run(model, prompt, seed, None)
    reference, graph = model.decode(full[-1].latents), model.graph("stage")

    def points(steps: Sequence[Step]) -> np.ndarray:
        return torch.stack([step.pred_original_sample for step in steps]).flatten(1).double().numpy()

    true_path = points(_run(model, prompt, seed, None, TRUE_PATH_STEPS))
    center = true_path.mean(0)
    _, strengths, directions = np.linalg.svd(true_path - center, full_matrices=False)
    project = partial(_project, center, directions[:2])
    runs: dict[str, dict[str, Any]] = {"0": {}, "1": {}}
    pictures = []
    for order, made in itertools.product((0, 1), _whole_calls(RUN["steps"])):
        keep = np.repeat(made[:, None], len(graph.units), axis=1)
        steps = _run(model, prompt, seed, _schedule(model, keep, order))
        picture = model.decode(steps[-1].latents)
        psnr = round(float(METRICS["psnr"].on_pictures(picture, reference)), 2)
        runs[str(order)]["".join(map(str, made.astype(int)))] = {"points": project(points(steps)), "psnr": psnr}
        pictures += [_pixels(picture)] if order else []
    _write_sheet(pictures, folder / SHEET.format(prompt=prompt, seed=seed, part="extrapolated"))
    shares = (strengths**2 / (strengths**2).sum())[:2].round(3).tolist()
    return {"numbers": true_path.shape[1], "shares": shares, "true": project(true_path), "runs": runs}


def _project(center: np.ndarray, directions: np.ndarray, points: np.ndarray) -> list[list[float]]:
    return ((points - center) @ directions.T).round(2).tolist()


def _whole_calls(calls: int) -> Iterator[np.ndarray]:
    """List all choices of calls, the first always among them, (T,) bool."""
    for others in itertools.product((True, False), repeat=calls - 1):
        yield np.array([True, *others])


def _pixels(pictures: torch.Tensor) -> np.ndarray:
    """Return the first picture as (H, W, 3) uint8."""
    return (pictures[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def _write_sheet(tiles: Sequence[np.ndarray], path: Path, columns: int = 32) -> None:
    """Write square tiles, row by row, as one picture."""
    size = tiles[0].shape[0]
    across = min(columns, len(tiles))
    sheet = np.full((-(-len(tiles) // across) * size, across * size, *tiles[0].shape[2:]), 255, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // across * size, number % across * size
        sheet[top : top + size, left : left + size] = tile
    Image.fromarray(sheet).save(path, quality=QUALITY, method=6)
