"""What the Explore tab shows: plans and frames, in words and as the browser reads them. Foreign text is escaped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from explorer.experiment import ExperimentRequest, SchedulePlan
from explorer.jobs.executors.base import MAX_CONCURRENT
from explorer.masks.encoding import encode_bits, encode_floats
from explorer.measures.table import METRICS
from explorer.models import prompts
from explorer.pruners import SAMPLER_TITLES, method_title
from explorer.sampling.generate import Frame
from explorer.ui.markup import data_url, percent
from explorer.ui.views.heatmap import graph_json

PLAN_FIELDS = (
    *("order", "asked", "reached", "max_ratio", "kept", "macs_kept", "macs_total"),
    *("baseline_sampler", "baseline_steps", "baseline_kept"),
)
FRAME_FIELDS = ("call", "calls", "seconds", "done", "ssim", "psnr")
TIE_SSIM = 0.005
LOADING_NOTE = '<p class="footer loading" role="status">Loading the model …</p>'


@dataclass(frozen=True)
class Card:
    """One of the three pictures, at its current call."""

    role: str
    what: str  # how it is generated
    kept: float | None = None  # share of the MACs
    frame: Frame | None = None
    picture: bytes | None = None

    def updated(self, frame: Frame) -> "Card":
        """Return the card with a newer frame; a frame without a picture keeps the last one."""
        return replace(self, frame=frame, picture=frame.picture or self.picture)


def new_cards(request: ExperimentRequest, plan: SchedulePlan) -> dict[str, Card]:
    """Make the three cards of a request whose pictures are about to be generated."""
    method = "edited by hand" if request.manual_schedule else method_title(request.method)
    baseline = f"{SAMPLER_TITLES[plan.baseline_sampler]}, {plan.baseline_steps} steps"
    return {
        "original": Card("original", f"{SAMPLER_TITLES[request.sampler]}, {plan.calls} calls", 1.0),
        "pruned": Card("pruned", f"{method}, {percent(plan.reached, 0)} skipped", plan.kept),
        "baseline": Card("baseline", baseline, plan.baseline_kept),
    }


def cards_json(cards: Mapping[str, Card], request: ExperimentRequest, run: int) -> dict[str, Any]:
    """Write the cards as the browser reads them, with the number of their run, which is larger for a later one, and
    their request, as the controls may hold another one by now."""
    method = "a schedule edited by hand" if request.manual_schedule else method_title(request.method)
    footer = (
        f"“{request.prompt}”, seed {request.seed}, {request.steps} steps, guidance "
        f"{request.guidance:g}, {method} at {percent(1 - (cards['pruned'].kept or 0), 0)}."
    )
    return {"run": run, "cards": {role: _card_json(card) for role, card in cards.items()}, "footer": footer}


def _card_json(card: Card) -> dict[str, Any]:
    frame, picture = card.frame, card.picture
    card_json = {"what": card.what, "kept": card.kept, "call": 0, "calls": 1, "done": False}
    if frame:
        card_json |= {name: getattr(frame, name) for name in FRAME_FIELDS}
        card_json |= {"ssim": 1.0, "psnr": METRICS["psnr"].best} if card.role == "original" and frame.done else {}
    if picture:
        card_json["picture"] = data_url(picture)
    return card_json


def plan_json(request: ExperimentRequest, plan: SchedulePlan) -> dict[str, Any]:
    """Write a plan as the browser reads it: the bits of the schedule, the units, the cost."""
    plan_json = {name: getattr(plan, name) for name in PLAN_FIELDS} | {
        "graph": graph_json(plan.graph),
        "keep": encode_bits(plan.keep),
        "timesteps": plan.timesteps.tolist(),
        "sampler": request.sampler,
    }
    tables = {name: getattr(plan, name) for name in ("removal_ratio", "score")}
    return plan_json | {name: encode_floats(table) for name, table in tables.items() if table is not None}


def verdict(request: ExperimentRequest, plan: SchedulePlan, cards: Mapping[str, Card]) -> str:
    """Say which of the two with the same cost came nearer to the original; empty if they were not finished."""
    fewer_steps = "skipping whole calls, that is DDIM with fewer steps,"
    what = fewer_steps if is_only_fewer_steps(request, plan) else "pruning"
    pruned, baseline = cards["pruned"].frame, cards["baseline"].frame
    return compare_ssim(what, plan.baseline_sampler, plan.baseline_steps, pruned, baseline)


def compare_ssim(what: str, sampler: str, steps: int, pruned: Frame | None, baseline: Frame | None) -> str:
    """Say whether `what` or a sampler with fewer steps is nearer to the original; empty if they were not finished."""
    if pruned is None or baseline is None or pruned.ssim is None or baseline.ssim is None:
        return ""
    plain = f"{SAMPLER_TITLES[sampler]} with {steps} step{'s' if steps > 1 else ''}"
    if abs(pruned.ssim - baseline.ssim) < TIE_SSIM:
        sentence = f"A tie: {plain} comes as close to the original as {what.rstrip(',')} does"
    elif baseline.ssim > pruned.ssim:
        sentence = f"Here {what} does not pay: {plain} comes closer to the original"
    else:
        sentence = f"Here {what} pays: it comes closer to the original than {plain}"
    metric = METRICS["ssim"]
    numbers = (
        f"{metric.label} {metric.format(pruned.ssim)} pruned, {metric.format(baseline.ssim)} {SAMPLER_TITLES[sampler]}"
    )
    return f'<p class="verdict">{sentence} ({numbers}). One prompt and one seed: try others.</p>'


def is_only_fewer_steps(request: ExperimentRequest, plan: SchedulePlan) -> bool:
    """Tell whether a schedule is nothing but a coarser sampler: whole calls skipped under DDIM."""
    entered = plan.keep.any(axis=1)
    plain = request.sampler == "ddim" and plan.order == 0
    return plain and not entered.all() and bool(plan.keep[entered].all())


def names_datalist(model: str) -> str:
    """List the names that a model knows, for the prompt to suggest."""
    options = "".join(f'<option value="{escape(name)}">' for name in prompts.training_names(model))
    return f'<datalist id="known-names-list">{options}</datalist>'


def turns_note(under_way: int) -> str:
    """Say that pictures take turns where others are under way; empty where there is room for one more."""
    if under_way < MAX_CONCURRENT:
        return ""
    others = f"{under_way} other pictures are being generated here; yours takes turns with them"
    return f'<p class="footer" role="status">{others}.</p>'


def prompt_note(model: str, prompt: str) -> str:
    """Name the words that the model never saw, and the end of a prompt that it does not read."""
    note = unknown_words_note(prompts.unknown_words(model, prompt), prompts.uses_prompt(model))
    unread = prompts.unread_part(model, prompt)
    return note + (_note(f"too long, so this is not read: <b>{escape(unread)}</b>") if unread else "")


def _note(markup: str) -> str:
    return f'<p class="unknown-words" role="status">{markup}</p>'


def unknown_words_note(words: Sequence[str], uses_prompt: bool = True) -> str:
    """Name the words of a prompt that the model does not know, or say that it ignores the prompt."""
    if not uses_prompt:
        note = "this model is unconditional: the prompt is ignored"
    elif words:
        note = f"never seen in training: <b>{escape(', '.join(words))}</b>"
    else:
        return ""
    return _note(note)
