"""A reverse proxy in front of the page, as nginx is: under a path of its own, which it takes off."""

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

HOP_BY_HOP = ("connection", "transfer-encoding")


@contextmanager
def reverse_proxy(port: int, path: str, target: str) -> Iterator[str]:
    """Serve `target` at a path of 127.0.0.1:port; yields the address there."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=target, timeout=None) as app.state.client:
            yield

    async def forward(request: Request) -> StreamingResponse:
        client: httpx.AsyncClient = request.app.state.client
        url = httpx.URL(path="/" + request.path_params["path"], query=request.url.query.encode())
        headers = [(name, value) for name, value in request.headers.items() if name != "host"]
        headers += [
            ("host", request.headers["host"]),
            ("x-forwarded-for", "203.0.113.7"),
            ("x-forwarded-proto", "http"),
        ]
        sent = client.build_request(request.method, url, headers=headers, content=request.stream())
        answer = await client.send(sent, stream=True)
        kept = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}
        return StreamingResponse(answer.aiter_raw(), answer.status_code, kept)

    methods = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"]
    app = Starlette(routes=[Route(path + "/{path:path}", forward, methods=methods)], lifespan=lifespan)
    options = {"log_level": "critical", "timeout_graceful_shutdown": 1}  # seconds; a page never ends its last answer
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}{path}/"
    finally:
        server.should_exit = True
        thread.join()
