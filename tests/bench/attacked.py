"""A page of its own that a bench attacks: what strangers send by plain HTTP, and what the page's data folder holds."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from explorer.bundled import masks as bundled
from explorer.jobs.job import Job, result_name
from explorer.jobs.store import JobStore
from explorer.ui.auth import TOKEN_HEADER, owner_of
from explorer.ui.routes import UPLOAD
from tests.page_fixtures import free_port, serve

MASK = (bundled.SCHEDULES / "emoji-unet" / "dipgo-ddim-25.safetensors").read_bytes()
VICTIM, ATTACKER = "0" * 32, "1" * 32  # tokens


class Page(httpx.Client):
    """A running page: its data folder, the events of its buttons, and the values that its components begin with."""

    def __init__(self, url: str, data: Path):
        super().__init__(base_url=url, timeout=300)
        self.data, self.log = data, data / "log"
        config = self.get("/config").json()
        self.ids = {one["props"].get("elem_id"): one["id"] for one in config["components"]}
        self.values = {one["id"]: one["props"].get("value") for one in config["components"]}
        self.events = [one for one in config["dependencies"] if one["backend_fn"]]
        self.buttons = {
            name: next(one for one in self.events if [id, "click"] in one["targets"])
            for name, id in self.ids.items()
            if any([id, "click"] in one["targets"] for one in self.events)
        }

    def event(self, name: str) -> dict[str, Any]:
        """Find an event by the name of its handler."""
        return next(one for one in self.events if one["api_name"] == name)

    def defaults(self, event: dict[str, Any], **values: Any) -> list[Any]:
        """List the values that an event begins with; `values` of components by their elem_id."""
        changed = {self.ids[name]: value for name, value in values.items()}
        return [changed.get(id, self.values[id]) for id in event["inputs"]]

    def fire(self, event: dict[str, Any], data: list[Any], session: str = "attacker", **headers: str) -> httpx.Response:
        document = {"fn_index": event["id"], "data": data, "session_hash": session}
        return self.post("/gradio_api/run/predict", json=document, headers=headers)

    def queue(self, event: dict[str, Any], data: list[Any], session: str, **headers: str) -> list[dict[str, Any]]:
        """Send an event by the queue and read all its messages, the last of which says how it ended."""
        document = {"fn_index": event["id"], "data": data, "session_hash": session}
        self.post("/gradio_api/queue/join", json=document, headers=headers).raise_for_status()
        with self.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}, headers=headers) as stream:
            messages = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
        return [one for one in messages if one["msg"] == "process_completed"]

    def call(self, name: str, headers: dict[str, str], **arguments: Any) -> tuple[int, str]:
        """Call the API; returns the status of the call and the kind of its last event."""
        answer = self.post(f"/gradio_api/call/v2/{name}", json=arguments, headers=headers)
        if answer.status_code != 200:
            return answer.status_code, ""
        path = f"/gradio_api/call/{name}/{answer.json()['event_id']}"
        with self.stream("GET", path, headers=headers) as stream:
            kinds = [line[7:] for line in stream.iter_lines() if line.startswith("event: ")]
        return 200, kinds[-1] if kinds else ""

    def upload(self, content: bytes, token: str) -> httpx.Response:
        return self.post(UPLOAD, content=content, headers={TOKEN_HEADER: token})


@contextmanager
def page(jobs: int = 0, **settings: str) -> Iterator[Page]:
    """Run a page with so many finished jobs of the victim."""
    with tempfile.TemporaryDirectory() as folder:
        add_jobs(Path(folder) / "jobs", jobs)
        options = {"EXPLORER_DATA": folder, "GRADIO_SERVER_PORT": str(free_port()), "HF_HUB_OFFLINE": "1"}
        with serve(Path(folder), **options | settings) as url, closing(Page(url, Path(folder))) as client:
            yield client


def add_jobs(folder: Path, count: int) -> None:
    store = JobStore(folder)
    for number in range(count):
        id = f"{number:012x}"
        about = {"owner": owner_of(VICTIM), "method": "dipgo", "model": "emoji-unet", "settings": {"iterations": 9}}
        store.add(Job(id=id, state="done", created=time.time(), done=9, total=9, result=result_name(id), **about))
        (store.results / result_name(id)).write_bytes(MASK)
    store.close()
