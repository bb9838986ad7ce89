"""What the Width pruning tab says of a file: which request it answers, its thresholds, what its pictures belong to."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from explorer.bundled import masks as bundled
from explorer.bundled import width_examples
from explorer.experiment import ExperimentRequest, request_of_widths, widths_at
from explorer.masks.width import Widths
from explorer.masks.width_header import WidthHeader
from explorer.models import catalogue
from explorer.pruners import method_title
from explorer.sampling.generate import Frame
from explorer.ui import url_state
from explorer.ui.markup import cards, percent, width_title
from explorer.ui.views.explore import compare_ssim
from explorer.ui.views.use_it import Use

PAPER_THRESHOLD = 0.05  # of Diff-Pruning
TITLES = {"original": "Original", "pruned": "Pruned widths", "baseline": "Same cost, fewer steps"}
SAME_AS_EXPLORE = ("prompt", "seed", "steps", "sampler", "guidance", "baseline_sampler")


def width_choices(model: str, file: str | None = None) -> list[tuple[str, str]]:
    """List the width files of a model as title and name: of those that share a title, `file`, else the paper's
    threshold, which is the first."""
    titles = {name: width_title(header, with_threshold=False) for name, header in bundled.width_headers(model).items()}
    shown = {title: name for name, title in reversed(titles.items())}
    shown |= {titles[file]: file} if file in titles else {}
    return [(title, shown[title]) for title in dict.fromkeys(titles.values())]


def file_with_threshold(headers: Mapping[str, WidthHeader], file: str, threshold: float) -> str:
    """Find the file that was learned as this one, but with the nearest threshold; itself, if it has none."""
    own = headers[file].pruner
    if "threshold" not in own.config:
        return file
    distances = {
        name: abs(header.pruner.config["threshold"] - threshold)
        for name, header in headers.items()
        if header.pruner.name == own.name
        and header.pruner.config | {"threshold": None} == own.config | {"threshold": None}
    }
    return min(distances, key=distances.__getitem__)


def own_threshold(header: WidthHeader) -> float | None:
    """Find the threshold that a file was learned with, if its method has one."""
    return header.pruner.config.get("threshold")


def own_threshold_js() -> str:
    """Make JavaScript that finds the threshold that a file was learned with; without one it stays."""
    thresholds = {
        model: {file: own_threshold(header) for file, header in bundled.width_headers(model).items()}
        for model in catalogue.EMBEDDED
    }
    return f"(model, file, threshold) => ({json.dumps(thresholds)})[model]?.[file] ?? threshold"


def threshold_overlap(headers: Mapping[str, WidthHeader], file: str, widths: Widths) -> str:
    """Say how many of the channels that stay would be removed with the paper's threshold."""
    header, paper = headers[file], file_with_threshold(headers, file, PAPER_THRESHOLD)
    own = header.pruner.config["threshold"]
    sentence = f"The channels above are those of threshold {own:g}, the nearest that was learned"
    if paper == file:
        return f"{sentence}: the paper's."
    ratio = min(widths.header.ratio.asked or 0.0, headers[paper].max_ratio)
    keep = widths_at(request_of_widths(header.model.id, headers[paper], ratio)).keep
    others = sum(int((kept & ~keep[dim]).sum()) for dim, kept in widths.keep.items())
    total = sum(int(kept.sum()) for kept in widths.keep.values())
    return f"{sentence}: {others:,} of {total:,} are others than those of the paper's {PAPER_THRESHOLD:g}."


def example_cards(model: str, file: str, ratio: float) -> str:
    """Show the pictures that were generated beforehand for a file, at the nearest of its ratios; empty without any."""
    examples, example = width_examples.read_examples(model), width_examples.nearest_example(model, file, ratio)
    if examples is None or example is None:
        return ""
    shown = {"original": examples.original, "pruned": example.pruned, "baseline": example.baseline}
    pictures = {role: width_examples.read_picture(model, picture) for role, picture in shown.items()}
    frames = {
        role: Frame(role, one.calls, one.calls, pictures[role], 0.0, True, one.ssim, one.psnr)
        for role, one in shown.items()
    }
    said = (
        f"Drawn beforehand at {percent(example.ratio, 0)}: “{examples.prompt}”, seed {examples.seed}, {examples.steps} "
        "steps. Press Generate for the prompt and the steps of Explore."
    )
    return f'{cards(frames, pictures, TITLES)}<p class="footer">{escape(said)}</p>'


def request_for(file: str | None, ratio: float, values: Mapping[str, Any]) -> ExperimentRequest:
    """Make the request of a file at a ratio, with the prompt and trajectory of Explore's controls (`values`).

    Raises ValueError for a file that is not there.
    """
    on_explore = url_state.make_request(values)
    headers = bundled.width_headers(on_explore.model)
    if file not in headers:
        raise ValueError(f"there are no widths to generate with for {on_explore.model}")
    same = {name: getattr(on_explore, name) for name in SAME_AS_EXPLORE}
    return request_of_widths(on_explore.model, headers[file], ratio, **same)


def use_of_widths(file: str | None, ratio: float, values: Mapping[str, Any]) -> Use:
    """Find what the tab shows. Raises ValueError as `request_for` does."""
    request = request_for(file, ratio, values)
    importance = bundled.find_widths(request.model, request.method, request.settings)
    return Use("widths", request, widths_at(request), importance, generated=generated_sentence(request))


def generated_sentence(request: ExperimentRequest) -> str:
    """Say which request pictures belong to."""
    return (
        f"Generated for “{request.prompt}”, seed {request.seed}, {request.steps} steps, guidance {request.guidance:g}, "
        f"{method_title(request.method)} at {percent(request.ratio, 0)} of the parameters."
    )


def footer(request: ExperimentRequest, frames: Mapping[str, Frame]) -> str:
    """Say which picture is nearer to the original, and which request the pictures belong to."""
    pruned, baseline = frames.get("pruned"), frames.get("baseline")
    steps = baseline.calls if baseline else 0
    verdict = compare_ssim("the pruned network", request.baseline_sampler, steps, pruned, baseline)
    return f'{verdict}<p class="footer">{escape(generated_sentence(request))}</p>'
