"""Visitors: who owns which jobs and files, who may start, upload and delete, and how often.

A visitor is a long random token that their browser keeps and the page never shows. With EXPLORER_PASSWORD, only
visitors who gave the password change anything; the rest of the page is open to all.
"""

import hmac
import math
import os
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import gradio as gr

from explorer.ui.components import INSTANT_TYPED, alert, markup, user_errors

WINDOW_S = 60
OWNER_JS = """() => {
    const token = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (one) => one.toString(36)).join("");
    return [(localStorage["explorer-owner"] ??= token())];
}"""
LOCKED = '<p class="intro">Starting jobs, uploading and deleting need the password of this page\'s operator.</p>'


class Guard:
    """Checks every change.

    password: without one, all visitors may. rate_limit: changes per minute from one address; default: any number.
    """

    def __init__(self, password: str | None = None, rate_limit: float = math.inf):
        self.password, self.rate_limit = password, rate_limit
        self._signed_in: set[str] = set()
        self._times: dict[str, deque[float]] = defaultdict(deque)

    def check_allowed(self, owner: str, request: gr.Request) -> None:
        """Raise ValueError for a visitor who did not sign in, and for too many changes per minute."""
        self._count(address_of(request))
        if self.is_locked_for(owner):
            raise ValueError("this needs the password of this page's operator; sign in at the top")

    def sign_in(self, owner: str, password: str, request: gr.Request) -> None:
        """Let a visitor change things. Raises ValueError for a wrong password, and for too many attempts."""
        self._count(address_of(request))
        if not hmac.compare_digest(password.encode(), (self.password or "").encode()):
            raise ValueError("that is not the password")
        self._signed_in.add(owner)

    def is_locked_for(self, owner: str) -> bool:
        """Tell whether a visitor still has to sign in."""
        return bool(self.password) and owner not in self._signed_in

    def _count(self, address: str) -> None:
        now = time.monotonic()
        for known in [known for known, times in self._times.items() if now - times[-1] > WINDOW_S]:
            del self._times[known]
        times = self._times[address]
        while times and now - times[0] > WINDOW_S:
            times.popleft()
        if len(times) >= self.rate_limit:
            wait_s = WINDOW_S + 1 - (now - times[0])
            raise ValueError(f"that was {self.rate_limit} times within a minute; wait {wait_s:.0f} s")
        times.append(now)


def delete_handler(
    guard: Guard, delete: Callable[[str, str], None], alert_box: gr.HTML, selected: gr.Textbox
) -> Callable[[gr.Request, str, str], dict]:
    """Make the handler of a button that deletes what is `selected`: `delete(id, owner)`."""

    def on_delete(request: gr.Request, id: str, owner: str) -> dict:
        with user_errors() as sentences:
            guard.check_allowed(owner, request)
            delete(id, owner)
            return {alert_box: "", selected: ""}
        return {alert_box: alert(sentences)}

    return on_delete


def address_of(request: gr.Request) -> str:
    """Find where a request comes from. On a Space the peer is its proxy, which appends the visitor's address."""
    forwarded = request.headers.get("x-forwarded-for", "") if os.environ.get("SPACE_ID") else ""
    return forwarded.rpartition(",")[2].strip() or (request.client.host if request.client else "")


class Visitor(NamedTuple):
    """What tabs need to know of the visitor."""

    owner: gr.State  # their token
    loaded: Any  # the event after which the state holds it
    guard: Guard


def build_login(page: gr.Blocks, guard: Guard) -> Visitor:
    """Make the visitor's state, and the form to sign in where there is a password."""
    owner, token = gr.State(""), gr.Textbox(visible=False)
    with gr.Row(visible=bool(guard.password), elem_id="sign-in") as form:
        markup(LOCKED)
        password = gr.Textbox(label="Password", type="password", elem_id="password", max_lines=1)
        button = gr.Button("Sign in", elem_id="sign-in-button", min_width=100)
    alert_box = markup(elem_id="sign-in-alert")

    def on_load(token: str) -> dict:
        known = str(token)[:64] or secrets.token_hex(16)
        return {owner: known, form: gr.update(visible=guard.is_locked_for(known))}

    def on_sign_in(request: gr.Request, known: str, given: str) -> dict:
        with user_errors() as sentences:
            guard.sign_in(known, given, request)
        return {alert_box: alert(sentences), form: gr.update(visible=guard.is_locked_for(known))}

    loaded = page.load(on_load, token, [owner, form], js=OWNER_JS, **INSTANT_TYPED)
    gr.on([button.click, password.submit], on_sign_in, [owner, password], [alert_box, form], **INSTANT_TYPED)
    return Visitor(owner, loaded, guard)
