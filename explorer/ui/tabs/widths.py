"""The Smaller tab: a network with fewer heads, neurons, rows or channels, what is left of it, and what it draws."""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from explorer import figures, shipped
from explorer.experiment import Frame, Question, widths_for
from explorer.figures import used_at
from explorer.jobs.executors import PLACES, Executor, Run
from explorer.sites import WidthHeader
from explorer.ui import address, browser
from explorer.ui.components import LIGHT, Explored, alert, as_value, markup, plotly_view, user_errors
from explorer.ui.story import nearer
from explorer.ui.told import cards, numbers, spaced, title
from explorer.widths import Widths

WHY = """<p class="why">A schedule leaves parts of the network out at some calls; here they go for good. Attention heads
and neurons of feed-forward layers (EcoDiff), or channels of convolutions (Diff-Pruning), in the order that a method
learned: what is left is a network with fewer parameters, which needs less memory and less time at every call. Prompt,
seed, steps and guidance are those of the Explore tab.</p>"""
HEADS = "A row is an attention, a cell one of its heads. Blue stays, pale is gone."
SHARES = "A bar is a layer: the share of its neurons, rows or channels that stays."
CURVE = (
    "Diff-Pruning's idea: with the same pictures and noise the loss is largest where there is little noise. Only "
    "timesteps before the loss first falls below the threshold say which channels matter; the others are mostly noise."
)
WAITING = "What is left is drawn in a moment."
ROLES = {"original": "Original", "pruned": "Smaller", "rival": "Same cost, fewer steps"}
PAPER = 0.05  # the threshold of Diff-Pruning


def build(executor: Executor, explored: Explored, tab: gr.Tab, tabs: gr.Tabs) -> list[gr.components.Component]:
    """Lay out the tab and connect it to the question on Explore. Returns what `from_address` is for."""
    markup(WHY)
    asked = explored.question
    with gr.Row():
        file = gr.Dropdown([], label="Learned by", elem_id="learned", scale=2)
        label, info = "Pruning ratio", "share of the network's parameters to remove"
        ratio = gr.Slider(0, 0.9, 0.2, step=0.01, label=label, info=info, elem_id="share", scale=3)
        with gr.Column(scale=1, min_width=150):
            draw = gr.Button("Draw", variant="primary", elem_id="draw-smaller")
            stop = gr.Button("Stop", elem_id="stop-smaller")
    trouble = markup(elem_id="smaller-alert")
    tiles = markup(elem_id="left")
    pictures = markup(elem_id="smaller-pictures")
    with gr.Row():
        with gr.Column(min_width=320, visible=False) as attentions:
            heads = plotly_view(WAITING, HEADS, elem_id="heads")
        with gr.Column(min_width=320):
            shares = plotly_view(WAITING, SHARES, elem_id="widths")
    with gr.Column(visible=False, elem_id="expansion") as expansion:
        label, info = "Threshold", "the share of the largest loss at which the method stops; the paper's is 0.05"
        threshold = gr.Slider(0, 0.5, PAPER, step=0.005, label=label, info=info, elem_id="threshold")
        said = markup(elem_id="looked")
        curve = plotly_view(WAITING, CURVE, elem_id="curve")

    def drawn(request: gr.Request, stem: str | None, share: float, *values: Any) -> Iterator[tuple[str, str]]:
        run = partial(executor.run, request.session_hash)
        yield from on_draw(run, stem, share, dict(zip(asked, values, strict=True)))

    def halt(request: gr.Request) -> None:
        executor.stop(request.session_hash)

    light = {name: value for name, value in LIGHT.items() if name != "preprocess"}
    inputs = [asked["model"], file, ratio, threshold]
    outputs = [file, ratio, trouble, tiles, attentions, heads, shares, expansion, said, curve]
    tab.select(shown, inputs, outputs, **light)
    # One event, so that the answer to an earlier value never comes after that to a later one.
    moved = [ratio.input, ratio.release, threshold.input, threshold.release]  # a reset is a release
    gr.on(moved, dragged, inputs, outputs, trigger_mode="always_last", **light)
    file.input(picked, inputs, [*outputs, threshold], trigger_mode="always_last", **light)
    drawing = draw.click(
        drawn,
        [file, ratio, *asked.values()],
        [trouble, pictures],
        trigger_mode="multiple",
        concurrency_limit=PLACES,
        concurrency_id="draw",
        **LIGHT | {"queue": True},
    )
    stop.click(halt, None, None, cancels=[drawing], **LIGHT)
    chosen = explored.smaller
    for event in (explored.came.then, asked["model"].change):
        event(listed, asked["model"], chosen, **LIGHT)
    opening = chosen.select(
        lambda model, stem: (listed(model, stem), None), [asked["model"], chosen], [file, chosen], **LIGHT
    )
    opening.then(lambda: gr.Tabs(selected="smaller"), None, tabs, **LIGHT)
    for control, name in ((file, "learned"), (ratio, "share")):
        control.change(None, control, None, js=browser.in_address(name), api_visibility="private")
    return [file, ratio]


def listed(model: str, stem: str | None = None) -> dict:
    """The smaller networks of a model, to choose from, and the chosen one."""
    there = shipped.widths(model)
    return gr.update(choices=[(title(one), name) for name, one in there.items()], value=stem, visible=bool(there))


def from_address(request: gr.Request) -> tuple[Any, Any]:
    """The file and the ratio that an address names; what is not there changes nothing."""
    query = request.query_params
    model, stem = query.get("model", Question.model_fields["model"].default), query.get("learned")
    there, share = shipped.widths(model), query.get("share", "")
    if stem not in there:
        return gr.skip(), gr.skip()
    known = re.fullmatch(r"0?\.\d{1,9}|0", share)
    top = most(there[stem])
    return listed(model, stem), gr.update(maximum=top) | ({"value": min(float(share), top)} if known else {})


def most(header: WidthHeader) -> float:
    """The largest ratio of the slider for a file."""
    return int(100 * header.max_ratio) / 100


def shown(model: str, stem: str | None, share: float, floor: float) -> tuple:
    """The files to choose from, the largest ratio, what is left in numbers and as maps, the curve over timesteps."""
    there, hidden = shipped.widths(model), gr.update(visible=False)
    if not there:
        said = alert([f"no widths come with the project for {model}; make a file with the command prune"])
        return gr.update(choices=[], value=None), gr.update(), said, "", hidden, None, None, hidden, "", None
    stem = stem if stem in there else next(iter(there))
    header = there[stem]
    widths = widths_for(asked_of(model, header, min(max(share, 0.0), most(header))))
    slider = gr.update(maximum=most(header)) | ({"value": most(header)} if share > most(header) else {})
    has_heads = any(name.endswith(":heads") for name in widths.keep)
    maps = (
        gr.update(visible=has_heads),
        as_value(figures.head_map(widths.keep)),
        as_value(figures.share_bars(widths.keep)),
    )
    curve = as_value(figures.threshold_curve(header.trace, floor))
    looked = f"{used_at(header.trace, floor)} of {len(header.trace)} timesteps are looked at. "
    looked += others_picked(there, stem, widths) if header.trace else ""
    walk = gr.update(visible=bool(header.trace)), f"<p role='status'>{looked}</p>", curve
    return listed(model, stem), slider, "", numbers(widths), *maps, *walk


def dragged(model: str, stem: str | None, share: float, floor: float) -> tuple:
    """What is shown by the file whose threshold is nearest to the dragged one."""
    there = shipped.widths(model)
    return shown(model, with_threshold(there, stem, floor) if stem in there else stem, share, floor)


def picked(model: str, stem: str | None, share: float, floor: float) -> tuple:
    """What is shown by a file of the list, and the threshold that it was learned with."""
    header = shipped.widths(model).get(stem)
    floor = header.pruner.config.get("threshold", floor) if header else floor
    return *shown(model, stem, share, floor), floor


def with_threshold(there: Mapping[str, WidthHeader], stem: str, floor: float) -> str:
    """The file that was learned as this one, but with the threshold nearest to `floor`, if it has one at all."""
    own = there[stem].pruner
    if "threshold" not in own.config:
        return stem
    alike = {
        name: abs(header.pruner.config["threshold"] - floor)
        for name, header in there.items()
        if header.pruner.name == own.name
        and header.pruner.config | {"threshold": None} == own.config | {"threshold": None}
    }
    return min(alike, key=alike.__getitem__)


def others_picked(there: Mapping[str, WidthHeader], stem: str, widths: Widths) -> str:
    """How many of the channels that stay would have gone with the paper's threshold."""
    header, paper = there[stem], with_threshold(there, stem, PAPER)
    own = header.pruner.config["threshold"]
    said = f"The channels above are those of threshold {own:g}, the nearest that was learned"
    if paper == stem:
        return f"{said}: the paper's."
    ratio = min(widths.header.ratio.asked, there[paper].max_ratio)
    keep = widths_for(asked_of(header.model.id, there[paper], ratio)).keep
    other = sum(int((kept & ~keep[site]).sum()) for site, kept in widths.keep.items())
    total = sum(int(kept.sum()) for kept in widths.keep.values())
    return f"{said}: {other:,} of {total:,} are others than those of the paper's {PAPER:g}."


def asked_of(model: str, header: WidthHeader, share: float, **others: Any) -> Question:
    """The question that a file answers at a ratio."""
    settings = {name: value for name, value in header.pruner.config.items() if name not in ("ratio", "seed")}
    return Question(model=model, method=header.pruner.name, settings=settings, ratio=share, **others)


def on_draw(run: Run, stem: str | None, share: float, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The alert and the three pictures, one update a call."""
    yield "", cards({}, {}, ROLES)
    with user_errors() as said:
        on_explore = address.question(values)
        there = shipped.widths(on_explore.model)
        if stem not in there:
            raise ValueError(f"there are no widths to draw with for {on_explore.model}")
        same = {name: getattr(on_explore, name) for name in ("prompt", "seed", "steps", "sampler", "guidance", "rival")}
        question = asked_of(on_explore.model, there[stem], share, **same)
        frames: dict[str, Frame] = {}
        seen: dict[str, bytes] = {}
        for frame in spaced(run("compare", question)):
            frames[frame.role] = frame
            seen |= {frame.role: frame.picture} if frame.picture else {}
            yield "", cards(frames, seen, ROLES)
        yield "", cards(frames, seen, ROLES) + footer(question, frames)
    if said:
        yield alert(said), cards({}, {}, ROLES)


def footer(question: Question, frames: Mapping[str, Frame]) -> str:
    """Who came nearer to the original, and what the pictures belong to."""
    drawn = (
        f"Drawn for “{question.prompt}”, seed {question.seed}, {question.steps} steps, guidance {question.guidance:g}, "
        f"{question.method} at {question.ratio:.0%} of the parameters."
    )
    rival = frames.get("rival")
    words = nearer("the smaller network", question.rival, rival.calls if rival else 0, frames.get("pruned"), rival)
    return f'{words}<p class="footer">{escape(drawn)}</p>'
