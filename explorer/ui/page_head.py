"""ASGI middleware that writes our part of the page's head, and the first screen, into the page itself.

Gradio's own `head` is added by its script, when that runs: what stands in the page is fetched and shown before.
"""

from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEAD, BODY = b"<script", b"<gradio-app"  # before which they go; the first script comes after the page's base address


class PageHead:
    """Writes `head()` and `body()` into answers to `/` that are HTML."""

    def __init__(self, app: ASGIApp, head: Callable[[], str], body: Callable[[], str]):
        self.app, self.head, self.body = app, head, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and scope["path"].removeprefix(scope.get("root_path", "")) in ("", "/")
        await self.app(scope, receive, _Writer(self, send) if is_page else send)


class _Writer:
    """Sends an answer on once it is whole, if it is a page."""

    def __init__(self, parts: PageHead, send: Send):
        self._parts, self._send = parts, send
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if headers.get("content-type", "").startswith("text/html"):
                self._start = message
                return
        if self._start is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = self._body.replace(HEAD, self._parts.head().encode() + HEAD, 1)
        body = body.replace(BODY, self._parts.body().encode() + BODY, 1)
        MutableHeaders(scope=self._start)["content-length"] = str(len(body))
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body})
