"""What the Explore tab says: plans and frames -> words and markup. Pure functions; everything foreign is escaped."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from explorer.experiment import Frame, Plan, Question

ROLES = ("original", "pruned", "rival")
TITLES = {"original": "Original", "pruned": "Pruned", "rival": "Same cost, fewer steps"}
NOTHING = "–"
NEAR = 0.005  # SSIM: nearer than this is a tie
INVITATION = "Type what to draw and press <b>Draw</b>: three pictures, from one and the same noise."


@dataclass(frozen=True)
class Card:
    """One of the three pictures, at whatever call it has reached."""

    role: str
    what: str  # how it is drawn
    kept: float | None = None  # share of the MACs
    frame: Frame | None = None
    picture: bytes | None = None


def blank() -> dict[str, Card]:
    """The three cards before anything is drawn."""
    what = (
        "every unit at every call",
        "units skipped, their last values reused",
        "the whole network, called less often",
    )
    return {role: Card(role, text) for role, text in zip(ROLES, what, strict=True)}


def dealt(question: Question, plan: Plan) -> dict[str, Card]:
    """The three cards of a question that is about to be drawn."""
    return {
        "original": Card("original", f"{question.sampler.upper()}, {plan.calls} calls", 1.0),
        "pruned": Card("pruned", f"{question.method}, {plan.reached:.0%} of the MACs skipped", plan.kept),
        "rival": Card("rival", f"{plan.rival_sampler.upper()}, {plan.rival_steps} steps", plan.rival_kept),
    }


def strip(cards: Mapping[str, Card], prompt: str = "", footer: str = "") -> str:
    """The three pictures side by side."""
    shown = "".join(_card(cards[role], prompt) for role in ROLES)
    return f'<div class="strip">{shown}</div><p class="footer">{footer or INVITATION}</p>'


def drawn_for(question: Question) -> str:
    """What the pictures belong to, because the controls may have moved on."""
    return (
        f"Drawn for <q>{escape(question.prompt)}</q>, seed {question.seed}, {question.steps} steps, "
        f"guidance {question.guidance:g}, {escape(question.method)} at {question.ratio:.0%}."
    )


def _card(card: Card, prompt: str) -> str:
    frame = card.frame
    call, calls = (frame.call, frame.calls) if frame else (0, 1)
    facts = {
        "MACs kept": NOTHING if card.kept is None else f"{card.kept:.1%}",
        "seconds": f"{frame.seconds:.2f}" if frame else NOTHING,
        "SSIM": _likeness(card),
    }
    done = bool(frame and frame.done)
    rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return (
        f'<figure class="card" data-role="{card.role}" data-done="{done}">{_picture(card, prompt)}'
        f'<progress max="{calls}" value="{call}" aria-label="{TITLES[card.role]}: calls done"></progress>'
        f"<figcaption><h3>{TITLES[card.role]}</h3><p>{escape(card.what)}</p><dl>{rows}</dl></figcaption></figure>"
    )


def _picture(card: Card, prompt: str) -> str:
    frame = card.frame
    counter = f'<span class="counter">call {frame.call} of {frame.calls}</span>' if frame and not frame.done else ""
    if card.picture is None:
        return f'<div class="frame noise">{counter}</div>'
    source = "data:image/png;base64," + b64encode(card.picture).decode()
    alt = f"{escape(prompt)}, {TITLES[card.role].lower()}"
    return f'<div class="frame"><img src="{source}" alt="{alt}">{counter}</div>'


def _likeness(card: Card) -> str:
    """SSIM to the original."""
    if card.frame is None or not card.frame.done:
        return NOTHING
    return "1" if card.role == "original" else f"{card.frame.ssim:.3f}"


def verdict(question: Question, plan: Plan, pruned: Frame, rival: Frame) -> str:
    """Which of the two that cost the same came nearer to the original; empty without both figures."""
    if pruned.ssim is None or rival.ssim is None:
        return ""
    sampler = f"plain {plan.rival_sampler.upper()} with {plan.rival_steps} steps"
    what = "skipping whole calls, that is DDIM with fewer steps," if only_fewer_steps(question, plan) else "pruning"
    if abs(pruned.ssim - rival.ssim) < NEAR:
        words = f"A tie: {sampler} comes as near to the original as {what.rstrip(',')} does"
    elif rival.ssim > pruned.ssim:
        words = f"Here {what} does not pay: {sampler} comes nearer to the original"
    else:
        words = f"Here {what} pays: it comes nearer to the original than {sampler}"
    figures = f"SSIM {pruned.ssim:.3f} pruned, {rival.ssim:.3f} {plan.rival_sampler.upper()}"
    return f'<p class="verdict">{words} ({figures}). One prompt and one seed: try others.</p>'


def cost(question: Question, plan: Plan) -> str:
    """The cost of a plan in numbers, and what the schedule comes down to."""
    asked = ("asked", NOTHING, "the method's settings name the schedule")
    if plan.asked is not None:
        asked = ("asked", f"{plan.asked:.1%}", "of the MACs to remove")
    facts: Sequence[tuple[str, str, str]] = (
        asked,
        ("reached", f"{plan.reached:.1%}", f"at most {plan.max_ratio:.1%} is possible"),
        ("MACs kept", f"{plan.kept:.1%}", f"{giga(plan.macs_kept)} of {giga(plan.macs_total)} G"),
        (
            "same cost",
            f"{plan.rival_steps} steps",
            f"{plan.rival_sampler.upper()}, {plan.rival_kept:.1%} of MACs",
        ),
    )
    tiles = "".join(f"<div><dt>{name}</dt><dd>{value}</dd><dd>{note}</dd></div>" for name, value, note in facts)
    return f'<dl class="tiles">{tiles}</dl>{only_fewer_steps(question, plan)}'


def only_fewer_steps(question: Question, plan: Plan) -> str:
    """Say so where a schedule is nothing but a coarser sampler: whole calls skipped under DDIM."""
    runs = (plan.fate == 0).any(axis=1)
    if question.sampler != "ddim" or question.config.order != 0 or runs.all() or not (plan.fate[runs] == 0).all():
        return ""
    steps = f"DDIM with {int(runs.sum())} steps, at the timesteps marked below"
    return f'<p class="plain">Whole calls only: up to rounding, this schedule <b>is</b> {steps}.</p>'


def giga(macs: int) -> str:
    """MACs in billions, to three figures."""
    return f"{macs / 1e9:,.3g}" if macs < 1e12 else f"{macs / 1e9:,.0f}"


def never_seen(words: Sequence[str]) -> str:
    """The words of a prompt that the model does not know."""
    if not words:
        return ""
    return f'<p class="unseen" role="status">never seen in training: <b>{escape(", ".join(words))}</b></p>'
