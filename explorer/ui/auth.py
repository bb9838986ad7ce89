"""Who visits: whose jobs and files are whose, and who may start, upload and delete, and how often.

A visitor is a long random word that their browser keeps and nobody is shown. With EXPLORER_AUTH=word, only whoever
gives that word changes anything; the rest of the page is open to all.
"""

import hmac
import os
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import gradio as gr

from explorer.ui.components import LIGHT, alert, markup, user_errors

A_MINUTE = 30
OWNER = """() => {
    const word = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (one) => one.toString(36)).join("");
    return [(localStorage["explorer-owner"] ??= word())];
}"""
CLOSED = '<p class="why">Starting jobs, uploading and deleting need the word of whoever runs this page.</p>'


class Guard:
    """Asked before anything is changed. `word`: what to say to be let in; none lets everybody in. `a_minute`: how many
    changes may come from one address."""

    def __init__(self, word: str | None = None, a_minute: int = A_MINUTE):
        self.word, self.a_minute = word, a_minute
        self._inside: set[str] = set()
        self._times: dict[str, deque[float]] = defaultdict(deque)

    def refuse_unless_allowed(self, owner: str, request: gr.Request) -> None:
        """Raise ValueError for who was not let in, and who comes too often."""
        self._count(address_of(request))
        if self.word and owner not in self._inside:
            raise ValueError("this needs the word of whoever runs this page; give it at the top")

    def enter(self, owner: str, word: str, request: gr.Request) -> None:
        """Let somebody in. Raises ValueError for a wrong word, and for too many tries."""
        self._count(address_of(request))
        if not hmac.compare_digest(word.encode(), (self.word or "").encode()):
            raise ValueError("that is not the word")
        self._inside.add(owner)

    def closed_to(self, owner: str) -> bool:
        return bool(self.word) and owner not in self._inside

    def _count(self, address: str) -> None:
        now = time.monotonic()
        for known in [known for known, times in self._times.items() if now - times[-1] > 60]:
            del self._times[known]
        times = self._times[address]
        while times and now - times[0] > 60:
            times.popleft()
        if len(times) >= self.a_minute:
            raise ValueError(f"that was {self.a_minute} times within a minute; wait {61 - (now - times[0]):.0f} s")
        times.append(now)


def deleting(guard: Guard, forget: Callable[[str, str], None]) -> Callable[[gr.Request, str, str], tuple]:
    """What a button that deletes does: `forget(id, owner)`; for an alert, and for the id of what is looked at."""

    def delete(request: gr.Request, id: str, owner: str) -> tuple:
        with user_errors() as said:
            guard.refuse_unless_allowed(owner, request)
            forget(id, owner)
            return "", ""
        return alert(said), gr.skip()

    return delete


def address_of(request: gr.Request) -> str:
    """Where a request comes from. On a Space the peer is its proxy, which puts the visitor last."""
    forwarded = request.headers.get("x-forwarded-for", "") if os.environ.get("SPACE_ID") else ""
    return forwarded.rpartition(",")[2].strip() or (request.client.host if request.client else "")


class Visitor(NamedTuple):
    """What tabs need to know of whoever is there."""

    owner: gr.State  # their word
    came: Any  # the event after which the state holds it
    guard: Guard


def arriving(page: gr.Blocks, guard: Guard) -> Visitor:
    """The visitor, and the way in where there is one."""
    owner, kept, shut = gr.State(""), gr.Textbox(visible=False), bool(guard.word)
    with gr.Row(visible=shut, elem_id="enter") as door:
        markup(CLOSED)
        word = gr.Textbox(label="Word", type="password", elem_id="word", max_lines=1)
        go = gr.Button("Let me in", elem_id="let-in", min_width=100)
    trouble = markup(elem_id="enter-alert")

    def arrived(word: str) -> tuple:
        word = str(word)[:64] or secrets.token_hex(16)
        return word, gr.update(visible=guard.closed_to(word))

    def enter(request: gr.Request, who: str, said_word: str) -> tuple:
        with user_errors() as said:
            guard.enter(who, said_word, request)
        return alert(said), gr.update(visible=guard.closed_to(who))

    now = LIGHT | {"preprocess": True}
    came = page.load(arrived, kept, [owner, door], js=OWNER, **now)
    gr.on([go.click, word.submit], enter, [owner, word], [trouble, door], **now)
    return Visitor(owner, came, guard)
