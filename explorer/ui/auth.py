"""Visitors: who owns which jobs and files, who may start, upload and delete, and how often.

A visitor is a long random token that their browser keeps, sends with every event and the page never shows; what is
stored is its hash. With EXPLORER_PASSWORD, only visitors who gave the password change anything; the rest of the page is
open to all.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gradio as gr

from explorer.ui.budgets import Budgets
from explorer.ui.components import INSTANT, INSTANT_TYPED, alert, markup, user_errors

TOKEN = re.compile(r"[0-9a-f]{32}")
TOKEN_HEADER = "x-explorer-visitor"
# Where a browser keeps nothing for this site, the token lasts as long as the page.
TOKEN_JS = """() => {
    const hex = (byte) => byte.toString(16).padStart(2, "0");
    const made = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), hex).join("");
    try {
        if (!/^[0-9a-f]{32}$/.test(localStorage["explorer-visitor"] ?? "")) localStorage["explorer-visitor"] = made();
        return localStorage["explorer-visitor"];
    } catch {
        return made();
    }
}"""
LOGGED_OUT = "starting jobs, uploading and deleting need an account of Hugging Face; log in at the top"
LOCKED = '<p class="intro">Starting jobs, uploading and deleting need the password of this page\'s operator.</p>'


def owner_of(token: str) -> str:
    """Name the visitor who has a token: its hash. Empty, which owns nothing, for what is no token."""
    known = isinstance(token, str) and TOKEN.fullmatch(token)
    return hashlib.sha256(token.encode()).hexdigest()[:32] if known else ""


class Requester(NamedTuple):
    """Who makes a change."""

    owner: str
    address: str


class Guard:
    """Checks every change.

    password: without one, all visitors may. budgets: what each address may have. hf_login: a visitor is an account of
    Hugging Face that is logged in, instead of a browser; only on a Space.
    """

    def __init__(self, password: str | None = None, budgets: Budgets | None = None, hf_login: bool = False):
        self.password, self.budgets, self.hf_login = password, budgets or Budgets(), hf_login
        self._signed_in: set[str] = set()

    def check_allowed(self, token: str, request: Any) -> Requester:
        """Return who owns what a visitor makes or changes.

        Raises ValueError for nobody, for a visitor who did not sign in, and for too many changes per minute.
        """
        address = self.budgets.address_of(request)
        self.budgets.count_change(address)
        owner = self._known(token, request)
        if self.is_locked_for(owner):
            raise ValueError("this needs the password of this page's operator; sign in at the top")
        return Requester(owner, address)

    def sign_in(self, token: str, password: str, request: Any) -> None:
        """Let a visitor change things. Raises ValueError for a wrong password, and for too many attempts."""
        self.budgets.count_change(self.budgets.address_of(request))
        owner = self._known(token, request)
        if not hmac.compare_digest(str(password).encode(errors="replace"), (self.password or "").encode()):
            raise ValueError("that is not the password")
        self._signed_in.add(owner)

    def is_locked_for(self, owner: str) -> bool:
        """Tell whether an owner still has to give the password."""
        return bool(self.password) and owner not in self._signed_in

    def owner(self, token: str, request: Any) -> str:
        """Name who owns what a visitor makes; empty for nobody."""
        return owner_of_account(request) if self.hf_login else owner_of(token)

    def _known(self, token: str, request: Any) -> str:
        if owner := self.owner(token, request):
            return owner
        raise ValueError(LOGGED_OUT if self.hf_login else "this page does not know your browser yet; reload it")


def owner_of_account(request: Any) -> str:
    """Name the owner that is logged in with Hugging Face; empty where nobody is. The session is a signed cookie, which
    Gradio writes."""
    scope = getattr(request, "request", request).scope
    account = (scope.get("session") or {}).get("oauth_info", {})
    if not account or account.get("expires_at", 0) < time.time():
        return ""
    return hashlib.sha256(f"huggingface {account['userinfo']['sub']}".encode()).hexdigest()[:32]


def delete_handler(
    guard: Guard, delete: Callable[[str, str], None], alert_box: gr.HTML, selected: gr.Textbox
) -> Callable[[gr.Request, str, str], dict]:
    """Make the handler of a button that deletes what is `selected`: `delete(id, owner)`."""

    def on_delete(request: gr.Request, id: str, token: str) -> dict:
        with user_errors() as sentences:
            delete(id, guard.check_allowed(token, request).owner)
            return {alert_box: "", selected: ""}
        return {alert_box: alert(sentences)}

    return on_delete


class Visitor(NamedTuple):
    """What tabs need to know of the visitor."""

    token: gr.Textbox  # which comes from the browser with every event
    guard: Guard

    def owner(self, token: str, request: gr.Request) -> str:
        """Name who owns what they make; empty for nobody."""
        return self.guard.owner(token, request)


def build_login(page: gr.Blocks, guard: Guard) -> Visitor:
    """Make the visitor's token, and the form to sign in where there is a password."""
    token = gr.Textbox(visible=False)
    if guard.hf_login:
        gr.LoginButton(elem_id="hf-login", size="sm")
    with gr.Row(visible=bool(guard.password), elem_id="sign-in") as form:
        markup(LOCKED)
        password = gr.Textbox(label="Password", type="password", elem_id="password", max_lines=1)
        button = gr.Button("Sign in", elem_id="sign-in-button", min_width=100)
    alert_box = markup(elem_id="sign-in-alert")

    def on_load(request: gr.Request, token: str) -> dict:
        return {form: gr.update(visible=guard.is_locked_for(guard.owner(token, request)))}

    def on_sign_in(request: gr.Request, token: str, given: str) -> dict:
        with user_errors() as sentences:
            guard.sign_in(token, given, request)
        return {alert_box: alert(sentences), **on_load(request, token)}

    loaded = page.load(None, None, token, js=TOKEN_JS, api_visibility="private")
    if guard.password:
        loaded.then(on_load, token, form, **INSTANT)
    gr.on([button.click, password.submit], on_sign_in, [token, password], [alert_box, form], **INSTANT_TYPED)
    return Visitor(token, guard)
