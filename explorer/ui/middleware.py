"""What is checked of every HTTP request before Gradio sees it: host, origin, size; and the headers of every answer."""

from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 2**20  # of anything but an uploaded mask
LOOPBACK = ("localhost", "127.0.0.1", "::1")
CLOSED = ("/gradio_api/upload", "/gradio_api/component_server", "/gradio_api/stream", "/gradio_api/deep_link")
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

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = (), max_bytes: dict[str, int] | None = None):
        self.app, self.hosts, self.max_bytes = app, frozenset(hosts), max_bytes or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, send = Headers(scope=scope), _with_headers(send)
        limit = self.max_bytes.get(scope["path"], MAX_BODY_BYTES)
        if refusal := self._refusal(scope, headers, limit):
            status, sentence = refusal
            await PlainTextResponse(sentence, status)(scope, receive, send)
            return
        await self.app(scope, _bounded(receive, limit), send)

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


def _with_headers(send: Send) -> Callable:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in ANSWER_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return with_headers
