"""What the page serves by itself: its scripts, plotly.js, the gallery, results by their id; and the upload of masks.

Gradio's static paths would show where files are on this machine, and let an event name one as if it had been uploaded;
Gradio's own upload keeps whatever anybody sends.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.staticfiles import StaticFiles

from explorer.bundled import gallery, lesson
from explorer.errors import format_error
from explorer.jobs.mask_library import JOB_PREFIX, MAX_FILE_BYTES, PART, MaskLibrary
from explorer.ui.auth import TOKEN_HEADER, Guard, Requester
from explorer.ui.budgets import BudgetError
from explorer.ui.components import PLOTLY, STATIC
from explorer.ui.footer import README, README_PATH

UPLOAD = "/explorer/upload"
MAX_NAME = 200  # characters
REVALIDATE = {"cache-control": "no-cache"}  # a browser asks whether a file is still the same, and gets no body then


def make_routes(library: MaskLibrary | None, guard: Guard) -> list[BaseRoute]:
    """Make the routes, to be given to FastAPI before Gradio's own."""
    routes: list[BaseRoute] = [
        _files("/explorer/static", STATIC),
        _files("/explorer/gallery", gallery.GALLERIES),
        _files("/explorer/lesson", lesson.FOLDER),
        _files("/explorer/plotly", PLOTLY.parent),
    ]
    if README.is_file():
        routes.append(Route(f"/{README_PATH}", _on_readme))
    if library is not None:
        routes.append(Route("/explorer/results/{id}", _result_handler(library)))
        routes.append(Route(UPLOAD, _upload_handler(library, guard), methods=["POST"]))
    return routes


def _files(path: str, folder: Path) -> Route:
    """Serve the files of a folder. A `Mount` would not find them behind a proxy that takes GRADIO_ROOT_PATH off."""
    files = StaticFiles(directory=folder, check_dir=False)

    async def on_file(request: Request) -> Response:
        response = await files.get_response(request.path_params["path"], request.scope)
        response.headers.update(REVALIDATE)
        return response

    return Route(f"{path}/{{path:path}}", on_file)


def _on_readme(_: Request) -> Response:
    return FileResponse(README, media_type="text/plain; charset=utf-8", headers=REVALIDATE)


def _result_handler(library: MaskLibrary) -> Callable[[Request], Response]:
    def on_result(request: Request) -> Response:
        id = request.path_params["id"]
        try:
            entry = library.find(JOB_PREFIX + id)
        except ValueError as error:
            return PlainTextResponse(format_error(error), 404)
        return FileResponse(entry.path, filename=f"{id}.safetensors")

    return on_result


def _upload_handler(library: MaskLibrary, guard: Guard) -> Callable:
    """Make the handler that keeps a mask. The answer is JSON: its `id`, or one sentence as `error`."""

    async def on_upload(request: Request) -> Response:
        try:
            requester = guard.check_allowed(request.headers.get(TOKEN_HEADER, ""), request)
            content = await _read(request)
            name = request.query_params.get("name", "")[:MAX_NAME]
            id = await run_in_threadpool(_keep, library, content, name, requester)
        except ValueError as error:
            return JSONResponse({"error": format_error(error)}, 429 if isinstance(error, BudgetError) else 400)
        except ClientDisconnect:
            return PlainTextResponse("the upload ended too early", 400)
        return JSONResponse({"id": id})

    return on_upload


async def _read(request: Request) -> bytes:
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > MAX_FILE_BYTES:
            raise ValueError(f"the file is too large; a mask may have {MAX_FILE_BYTES // 2**20} MB here")
    return content


def _keep(library: MaskLibrary, content: bytes, name: str, requester: Requester) -> str:
    with NamedTemporaryFile(dir=library.folder, prefix=PART) as file:
        Path(file.name).write_bytes(content)
        return library.add(file.name, name.removesuffix(".safetensors"), *requester).id
