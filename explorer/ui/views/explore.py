"""What the Explore tab says: plans and frames -> words, and what the browser reads. Everything foreign is escaped."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from explorer.experiment import Frame, Plan, Question
from explorer.figures import keep_heatmap
from explorer.graph import BlockGraph
from explorer.letters import floats, packed

TOLD = ("order", "asked", "reached", "max_ratio", "kept", "macs_kept", "macs_total")
TOLD += ("rival_sampler", "rival_steps", "rival_kept")
NEAR = 0.005  # SSIM: nearer than this is a tie


@dataclass(frozen=True)
class Card:
    """One of the three pictures, at whatever call it has reached."""

    role: str
    what: str  # how it is drawn
    kept: float | None = None  # share of the MACs
    frame: Frame | None = None
    picture: bytes | None = None


def dealt(question: Question, plan: Plan) -> dict[str, Card]:
    """The three cards of a question that is about to be drawn."""
    how = "by hand" if question.keep else question.method
    return {
        "original": Card("original", f"{question.sampler.upper()}, {plan.calls} calls", 1.0),
        "pruned": Card("pruned", f"{how}, {plan.reached:.0%} of the MACs skipped", plan.kept),
        "rival": Card("rival", f"{plan.rival_sampler.upper()}, {plan.rival_steps} steps", plan.rival_kept),
    }


def shown(cards: Mapping[str, Card], question: Question) -> dict[str, Any]:
    """The cards as the browser reads them, and what they belong to, because the controls may have moved on."""
    footer = (
        f"Drawn for “{question.prompt}”, seed {question.seed}, {question.steps} steps, guidance "
        f"{question.guidance:g}, {'a schedule by hand' if question.keep else question.method} at {question.ratio:.0%}."
    )
    return {"cards": {role: _card(card) for role, card in cards.items()}, "footer": footer}


def _card(card: Card) -> dict[str, Any]:
    frame, picture = card.frame, card.picture
    told = {"what": card.what, "kept": card.kept, "call": 0, "calls": 1, "done": False}
    if frame:
        told |= {name: getattr(frame, name) for name in ("call", "calls", "seconds", "done", "ssim", "psnr")}
        told |= {"ssim": 1.0, "psnr": 100.0} if card.role == "original" and frame.done else {}
    if picture:
        told["picture"] = "data:image/png;base64," + b64encode(picture).decode()
    return told


def planned(question: Question, plan: Plan) -> dict[str, Any]:
    """A plan as the browser reads it: the schedule in letters, the units, the figure it is drawn with, the cost."""
    graph, figure = plan.graph, keep_heatmap(plan.units, plan.shares, plan.timesteps, plan.fate, plan.source)
    found = {
        "graph": graph_of(graph),
        "keep": packed(plan.fate == 0),
        "timesteps": plan.timesteps.tolist(),
        "figure": json.loads(figure.to_json()),
        "sampler": question.sampler,
    }
    found |= {name: floats(value) for name in ("goes", "score") if (value := getattr(plan, name)) is not None}
    return found | {name: getattr(plan, name) for name in TOLD}


def graph_of(graph: BlockGraph) -> dict[str, Any]:
    """Units and their MACs, as the browser reads them."""
    return {"units": [unit.model_dump() for unit in graph.units], "macs_fixed": graph.macs_fixed}


def verdict(question: Question, plan: Plan, cards: Mapping[str, Card]) -> str:
    """Which of the two that cost the same came nearer to the original; empty if they were not finished."""
    what = "skipping whole calls, that is DDIM with fewer steps," if only_fewer_steps(question, plan) else "pruning"
    return nearer(what, plan.rival_sampler, plan.rival_steps, cards["pruned"].frame, cards["rival"].frame)


def nearer(what: str, sampler: str, steps: int, pruned: Frame | None, rival: Frame | None) -> str:
    """Whether `what` or a sampler with fewer steps is nearer to the original; empty if they were not finished."""
    if pruned is None or rival is None or pruned.ssim is None or rival.ssim is None:
        return ""
    plain = f"plain {sampler.upper()} with {steps} steps"
    if abs(pruned.ssim - rival.ssim) < NEAR:
        words = f"A tie: {plain} comes as near to the original as {what.rstrip(',')} does"
    elif rival.ssim > pruned.ssim:
        words = f"Here {what} does not pay: {plain} comes nearer to the original"
    else:
        words = f"Here {what} pays: it comes nearer to the original than {plain}"
    figures = f"SSIM {pruned.ssim:.3f} pruned, {rival.ssim:.3f} {sampler.upper()}"
    return f'<p class="verdict">{words} ({figures}). One prompt and one seed: try others.</p>'


def only_fewer_steps(question: Question, plan: Plan) -> bool:
    """Whether a schedule is nothing but a coarser sampler: whole calls skipped under DDIM."""
    runs = (plan.fate == 0).any(axis=1)
    plain = question.sampler == "ddim" and plan.order == 0
    return plain and not runs.all() and bool((plan.fate[runs] == 0).all())


def never_seen(words: Sequence[str], heeded: bool = True) -> str:
    """The words of a prompt that the model does not know; that it pays the prompt no heed, if so."""
    if not heeded:
        return '<p class="unseen" role="status">this model draws without being asked: the prompt changes nothing</p>'
    if not words:
        return ""
    return f'<p class="unseen" role="status">never seen in training: <b>{escape(", ".join(words))}</b></p>'
