"""What the lesson of the SuperNet tab tells beside its own SubNets: a recorded search, rivals at equal budgets, fifty
calls, and widths."""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from explorer import experiment
from explorer.bundled import gallery, width_examples
from explorer.bundled import masks as bundled
from explorer.bundled.lesson import RUN
from explorer.masks.block_graph import BlockGraph
from explorer.masks.encoding import encode_bits
from explorer.masks.schedule import ScheduleImportance, load_schedule
from explorer.masks.width import load_widths
from explorer.models.model import Model
from explorer.progress import Progress
from explorer.pruners import PUBLISHED, method_config
from explorer.pruners.dipgo_gradients import kept_share

# As published, but for a table in place of a network: the page shows each gate's own number. Below half of the MACs are
# two of five calls.
SEARCH = PUBLISHED | {"parametrisation": "table", "learning_rate": 1.0, "iterations": 60, "batch": 4, "tau": 0.5}
BUDGETS = (0.8, 0.6, 0.4)  # shares of the MACs of all calls
TOLERANCE = 1e-9
NUM_RANDOM = 8
PAGE_RATIO = 0.8  # where Explore opens
FIFTY_SCENE = {"prompt": "octopus", "seed": 0}  # of the gallery, one on which differences are seen
WIDTH_FILES = ("ecodiff", "taylor-channels")
WIDTH_RATIO = 0.2
Score = Callable[[np.ndarray], float]  # the closeness in dB of what these decisions (T, U) leave


class Entry(NamedTuple):
    """One SubNet: the share of the MACs that it keeps, its closeness in dB, its decisions (T, U)."""

    kept: float
    psnr: float
    keep: np.ndarray


def search(model: Model) -> Generator[Progress, None, tuple[ScheduleImportance, dict[str, Any]]]:
    """Learn which stage runs at which call, and record for every step the scores (T, U), and the loss and
    the share of MACs kept."""
    trajectory = {name: RUN[name] for name in ("sampler", "steps", "guidance")}
    work = experiment.prune(model, "dipgo", method_config("dipgo", SEARCH | trajectory))
    scores, metrics = [], []
    while True:
        try:
            step = next(work)
        except StopIteration as stop:
            importance = stop.value
            break
        assert step.state is not None
        scores.append(np.asarray(step.state["score"]).round(3).tolist())
        metrics.append([round(step.metrics[name], 4) for name in ("loss", "kept")])
        yield step
    return importance, {"scores": scores, "metrics": metrics, "rank": importance.rank.tolist()}


def rivals(
    graph: BlockGraph,
    ranks: Mapping[str, np.ndarray],
    levels: np.ndarray,
    subnets: Sequence[Entry],
    score: Score,
) -> list[dict[str, Any]]:
    """Say for each budget what methods reach within it on one scene: those whose removal orders are in `ranks` (T, U);
    the best of all `subnets`, of those of whole calls, of DeepCache's kind; random orders, on average."""
    rng, shape = np.random.default_rng(0), subnets[0].keep.shape
    orders = [graph.removal_order(rng.random(shape)) for _ in range(NUM_RANDOM)]
    tables = []
    for budget in BUDGETS:
        within = [entry for entry in subnets if entry.kept <= budget + TOLERANCE]
        random = [_measure(graph, within_budget(graph, order, budget), score) for order in orders]
        whole = [entry for entry in within if (entry.keep.all(1) | ~entry.keep.any(1)).all()]
        outer = [entry for entry in within if (entry.keep.all(1) | (entry.keep == levels[1]).all(1)).all()]
        named = {
            "best": _closest(within),
            "calls": _closest(whole),
            "deepcache": _closest(outer),
        } | {name: _measure(graph, within_budget(graph, rank, budget), score) for name, rank in ranks.items()}
        results = {name: _describe(entry) for name, entry in named.items() if entry is not None}
        mean = {"kept": np.mean([one.kept for one in random]), "psnr": np.mean([one.psnr for one in random])}
        results["random"] = {name: round(float(value), 4) for name, value in mean.items()}
        tables.append({"budget": budget, "results": results})
    return tables


def similarity_order(graph: BlockGraph, similarity: np.ndarray) -> np.ndarray:
    """Rank removals (T, U) by how little an output changes from one call to the next; `similarity` is (U, T, T)."""
    changes = 1 - np.diagonal(similarity, offset=1, axis1=1, axis2=2).T
    return graph.removal_order(np.concatenate([np.ones_like(changes[:1]), changes]))


def within_budget(graph: BlockGraph, rank: np.ndarray, budget: float) -> np.ndarray:
    """Follow a removal order (T, U) until at most `budget` of the MACs are left; the decisions (T, U)."""
    return rank >= int(np.argmax(graph.saved_macs(rank) >= 1 - budget - TOLERANCE))


def _measure(graph: BlockGraph, keep: np.ndarray, score: Score) -> Entry:
    return Entry(kept_share(graph, keep), score(keep), keep)


def _closest(entries: Sequence[Entry]) -> Entry | None:
    return max(entries, key=lambda entry: entry.psnr, default=None)


def _describe(entry: Entry) -> dict[str, Any]:
    return {"kept": round(entry.kept, 4), "psnr": round(entry.psnr, 2), "keep": encode_bits(entry.keep)}


def fifty_calls(model: Model) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Gather what the published method leaves of fifty calls where Explore opens, and how close methods come there on
    the gallery's scenes: mean and interval in dB; and one scene by each (`shown`), the closest first.

    The pictures are (H, W, 3) uint8: the full run, then those of `shown`.
    """
    folder = gallery.GALLERIES / model.id
    table = json.loads((folder / gallery.TABLE).read_text(encoding="utf-8"))
    at = table["ratios"].index(PAGE_RATIO)
    results = {name: method["results"][at] for name, method in table["methods"].items() if method["results"][at]}
    psnr = {name: result["means"]["psnr"] for name, result in results.items()}
    keep = load_schedule(bundled.SCHEDULES / model.id / "dipgo-published-ddim-50.safetensors").at(PAGE_RATIO).keep
    number = table["samples"].index(FIFTY_SCENE)
    shown = {name: round(result["each"]["psnr"][number], 1) for name, result in results.items()}
    shown = dict(sorted(shown.items(), key=lambda one: -one[1]))
    pictures = [_read_strip(folder / gallery.strip_file(number, "full"))[0]]
    pictures += [_read_strip(folder / gallery.strip_file(number, name))[at] for name in shown]
    facts = {
        "ratio": PAGE_RATIO,
        "num_scenes": len(table["samples"]),
        "psnr": psnr,
        "scene": FIFTY_SCENE,
        "shown": shown,
    }
    return facts | {"calls": len(keep), "keep": encode_bits(keep)}, pictures


def _read_strip(file: Path) -> np.ndarray:
    """Read the tiles of a gallery's strip, (N, H, W, 3) uint8, each stored as the difference to the one before."""
    strip = np.asarray(Image.open(file).convert("RGB"))
    size = len(strip)
    return strip.reshape(size, -1, size, 3).cumsum(axis=1, dtype=np.uint8).swapaxes(0, 1)


def widths(model: Model) -> tuple[dict[str, Any], list[bytes]]:
    """Gather what methods for widths leave of one scene, and of each kind of dimension; the pictures are PNG, the
    original first."""
    examples = width_examples.read_examples(model.id)
    if examples is None:
        raise ValueError("the examples of widths come first: precompute width-examples")
    pictures, rows = [width_examples.read_picture(model.id, examples.original)], []
    for name in WIDTH_FILES:
        example = next(one for one in examples.files[name] if one.ratio == WIDTH_RATIO)
        pictures.append(width_examples.read_picture(model.id, example.pruned))
        mask = load_widths(bundled.WIDTHS / model.id / f"{name}.safetensors").at(WIDTH_RATIO)
        left: dict[str, list[int]] = {}
        for dim, keep in mask.keep.items():
            kept, size = left.get(kind := dim.rpartition(":")[2], [0, 0])
            left[kind] = [kept + int(keep.sum()), size + len(keep)]
        rows.append({"name": name, "psnr": round(example.pruned.psnr, 1), "left": left})
    scene = {"prompt": examples.prompt, "seed": examples.seed, "ratio": WIDTH_RATIO}
    return scene | {"methods": rows}, pictures
