"""What is checked of every HTTP request before Gradio sees it: host, origin, size, budget; and the headers of every
answer."""

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from explorer.ui.budgets import BudgetError, Budgets
from explorer.ui.event_checks import REFUSED

MAX_BODY_BYTES = 2**20  # of anything but an uploaded mask
LOOPBACK = ("localhost", "127.0.0.1", "::1")
CLOSED = ("/gradio_api/upload", "/gradio_api/component_server", "/gradio_api/stream", "/gradio_api/deep_link")
GRADIO = "/gradio_api/"
CALLS, STREAM = "/gradio_api/call/", "/gradio_api/queue/data"
GENERATE = ("/gradio_api/call/generate", "/gradio_api/call/v2/generate")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
ANSWER_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "strict-origin-when-cross-origin",
    "content-security-policy": "frame-ancestors 'self' https://huggingface.co https://*.hf.space",
}


class RequestChecks:
    """ASGI middleware. `hosts`: the names by which the page may be reached (empty: any), also where a proxy passes on
    another one; `max_bytes`: of the bodies of some paths, in place of MAX_BODY_BYTES.

    A page on a loopback address that answers to any name could be read by any web page in the same browser (DNS
    rebinding), and a form on another site could post to it.
    """

    def __init__(
        self, app: ASGIApp, budgets: Budgets, hosts: Iterable[str] = (), max_bytes: dict[str, int] | None = None
    ):
        self.app, self.budgets = app, budgets
        self.hosts, self.max_bytes = frozenset(hosts), max_bytes or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, answer = Headers(scope=scope), _Answer(scope, send)
        limit = self.max_bytes.get(scope["path"], MAX_BODY_BYTES)
        with ExitStack() as counted:
            if refusal := self._refusal(scope, headers, limit) or self._over_budget(scope, counted):
                await answer.refuse(*refusal)
                return
            try:
                await self.app(scope, _bounded(receive, limit), answer.send)
            except ClientDisconnect:
                raise
            except Exception as error:  # noqa: BLE001 -- what Gradio cannot read; it catches errors of handlers itself
                if answer.begun or scope["method"] in SAFE_METHODS or not scope["path"].startswith(GRADIO):
                    raise
                print(
                    f"a request to {scope['path'][:60]!r} was not understood: {type(error).__name__}", file=sys.stderr
                )
                await answer.refuse(400, "this request was not understood")

    def _refusal(self, scope: Scope, headers: Headers, limit: int) -> tuple[int, str] | None:
        """Return status and sentence for what is not let through."""
        host = host_of(f"//{headers.get('host', '')}")
        if self.hosts and host not in self.hosts:
            return 421, "this page is not known by that name"
        if scope["path"].startswith(CLOSED):
            return 404, "there is nothing here"
        origin = headers.get("origin", "")
        if origin and scope["method"] not in SAFE_METHODS and host_of(origin) not in (host, *self.hosts):
            return 403, "requests of other sites are not accepted"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            return 413, f"a request may have {limit} bytes"
        return None

    def _over_budget(self, scope: Scope, counted: ExitStack) -> tuple[int, str] | None:
        """Count the request, until it is answered; return status and sentence where the address has too many."""
        try:
            if scope["method"] not in SAFE_METHODS:
                address = self.budgets.address_of(HTTPConnection(scope))
                counted.enter_context(self.budgets.request(address))
                if scope["path"].rstrip("/") in GENERATE:
                    self.budgets.check_picture(address)
            elif session := _session_of(scope):
                counted.enter_context(self.budgets.stream(session))
        except BudgetError as error:
            return 429, str(error)
        return None


def _session_of(scope: Scope) -> str:
    """Find the session whose events a request reads as they come; a call of the API is one by itself."""
    path = scope["path"].rstrip("/")
    if path == STREAM:
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
    return path.rsplit("/", 1)[-1] if path.startswith(CALLS) else ""


def host_of(url: str) -> str:
    """Find the name of the host in an address; empty where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _bounded(receive: Receive, limit: int) -> Receive:
    """Count what arrives; a body without a length ends at the limit."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                return {"type": "http.disconnect"}
        return message

    return bounded


class _Answer:
    """The answer to a request, with ANSWER_HEADERS, and the status that an event was refused with."""

    def __init__(self, scope: Scope, send: Send):
        self._scope, self._send, self.begun = scope, send, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            message["status"] = self._scope.get(REFUSED, message["status"])
            headers = MutableHeaders(scope=message)
            for name, value in ANSWER_HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)

    async def refuse(self, status: int, sentence: str) -> None:
        """Answer with one sentence."""
        await JSONResponse({"detail": sentence}, status)(self._scope, _receive_nothing, self.send)


async def _receive_nothing() -> Message:
    return {"type": "http.disconnect"}
