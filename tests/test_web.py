"""What stands between the open internet and the page: names, origins, sizes, headers, uploads, files by id."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import httpx
import psutil
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from explorer.bundled import masks as bundled
from explorer.jobs.job import Job, result_name
from explorer.jobs.mask_library import MAX_FILE_BYTES, PART, MaskLibrary
from explorer.jobs.store import JobStore
from explorer.ui.auth import TOKEN_HEADER, Guard, owner_of
from explorer.ui.budgets import ENDING, Budgets
from explorer.ui.middleware import CALLS, GENERATE, LOOPBACK, MAX_BODY_BYTES, STREAM, RequestChecks
from explorer.ui.routes import UPLOAD, make_routes
from tests.page_fixtures import ROOT, call_api, free_port, serve

pytestmark = pytest.mark.browser

MASK = (bundled.SCHEDULES / "emoji-unet" / "dipgo-ddim-25.safetensors").read_bytes()
ADDRESS = "10.0.0.1"
TOKEN = {TOKEN_HEADER: "0" * 32}


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path / "jobs")
    yield store
    store.close()


@pytest.fixture
def client(tmp_path, store):
    return make_client(MaskLibrary(tmp_path / "masks", store), Guard())


def make_client(library, guard):
    async def on_post(request):
        return PlainTextResponse(str(len(await request.body())))

    paths = ("/post", *GENERATE)
    routes = [*make_routes(library, guard), *(Route(path, on_post, methods=["GET", "POST"]) for path in paths)]
    checks = Middleware(RequestChecks, guard.budgets, LOOPBACK, {UPLOAD: MAX_FILE_BYTES})
    app = Starlette(routes=routes, middleware=[checks])
    return TestClient(app, base_url="http://localhost:7860", client=(ADDRESS, 50_000))


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1"])
def test_page_on_a_loopback_address_answers_to_its_own_names_only(client, host):
    assert client.get("/post", headers={"host": host}).status_code == 421
    for own in ("localhost:7860", "127.0.0.1", "[::1]:7860"):
        assert client.get("/post", headers={"host": own}).status_code == 200


def test_requests_of_other_sites_change_nothing(client):
    for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
        assert client.post("/post", headers={"origin": origin}).status_code == 403
    assert client.post("/post", headers={"origin": "http://localhost:7860"}).status_code == 200
    assert client.get("/post", headers={"origin": "https://evil.example"}).status_code == 200


def test_page_behind_a_proxy_is_used_by_its_public_name():
    async def on_post(_):
        return PlainTextResponse("done")

    checks = Middleware(RequestChecks, Budgets(), ("page.example", *LOOPBACK))
    routes = [Route("/post", on_post, methods=["POST"])]
    client = TestClient(Starlette(routes=routes, middleware=[checks]), base_url="http://127.0.0.1:7860")
    assert client.post("/post", headers={"origin": "https://page.example"}).status_code == 200
    assert client.post("/post", headers={"origin": "https://page.example", "host": "page.example"}).status_code == 200
    assert client.post("/post", headers={"origin": "https://evil.example"}).status_code == 403
    assert client.post("/post", headers={"origin": "http://[::1"}).status_code == 403


def test_large_bodies_are_refused_whether_or_not_they_say_how_large_they_are(client):
    assert client.post("/post", content=b"x" * MAX_BODY_BYTES).text == str(MAX_BODY_BYTES)
    assert client.post("/post", content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 413
    assert client.post("/post", headers={"content-length": "-1"}).status_code == 413
    with pytest.raises(ClientDisconnect):
        client.post("/post", content=(b"x" * 2**16 for _ in range(20)))


def test_every_answer_tells_the_browser_what_it_may_do_with_it(client):
    for path in ("/post", "/explorer/static/view.js", "/nothing"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and "referrer-policy" in headers
        assert "frame-ancestors" in headers["content-security-policy"]


def test_an_address_over_its_budget_gets_one_sentence_and_others_are_served(tmp_path):
    budgets = Budgets(pictures=1, requests=1, proxies=["*"])
    client, other = make_client(MaskLibrary(tmp_path), Guard(budgets=budgets)), {"x-forwarded-for": "5.6.7.8"}
    with budgets.request(ADDRESS):
        answer = client.post("/post")
        assert answer.status_code == 429 and "1 requests of your address" in answer.json()["detail"]
        assert client.get("/post").status_code == client.post("/post", headers=other).status_code == 200
    with budgets.picture(ADDRESS):
        for path in GENERATE:
            assert client.post(path).status_code == client.post(f"{path}/").status_code == 429
            assert client.post(path, headers=other).status_code == 200
    assert client.post(GENERATE[0]).status_code == 200


def test_a_reader_of_events_is_known_while_it_reads(tmp_path):
    budgets = Budgets()
    seen = []

    async def on_read(request):
        seen.append([budgets.is_read(session) for session in ("one", "two")])
        return PlainTextResponse("")

    routes = [Route(path, on_read) for path in (STREAM, f"{CALLS}generate/{{event}}")]
    app = Starlette(routes=routes, middleware=[Middleware(RequestChecks, budgets)])
    client = TestClient(app)
    client.get(STREAM, params={"session_hash": "one"})
    client.get(f"{CALLS}generate/two")
    assert seen == [[True, False], [False, True]] and not budgets.is_read("one")


@pytest.mark.parametrize("path", ["upload", "upload_progress", "component_server", "deep_link"])
def test_endpoints_that_the_page_does_not_need_are_closed(client, path):
    assert client.post(f"/gradio_api/{path}").status_code == 404


def test_a_mask_is_uploaded_by_its_owner_and_nothing_else_is_kept(client, tmp_path):
    folder = tmp_path / "masks"
    assert client.post(UPLOAD, content=MASK).json() == {"error": "this page does not know your browser yet; reload it"}
    assert not list(folder.iterdir())
    kept = client.post(UPLOAD, params={"name": "../mine.safetensors"}, content=MASK, headers=TOKEN).json()["id"]
    entry = MaskLibrary(folder).find(kept)
    assert entry.path.read_bytes() == MASK and (entry.name, entry.owner) == ("../mine", owner_of("0" * 32))
    for content in (b"", b"\x80\x04cos\nsystem\n.", MASK[:-1]):
        answer = client.post(UPLOAD, content=content, headers=TOKEN)
        assert answer.status_code == 400 and str(tmp_path) not in answer.text
        assert set(answer.json()) == {"error"} and "\n" not in answer.json()["error"]
    assert client.post(UPLOAD, content=b"x" * (MAX_FILE_BYTES + 1), headers=TOKEN).status_code == 413
    assert {file.stem for file in folder.iterdir()} == {kept}


def test_an_upload_needs_the_password_and_counts_for_the_limit(tmp_path):
    client = make_client(MaskLibrary(tmp_path), Guard("open sesame", Budgets(changes_per_minute=2)))
    answers = [client.post(UPLOAD, content=MASK, headers=TOKEN) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [400, 400, 429]
    sentences = [answer.json()["error"] for answer in answers]
    assert "needs the password" in sentences[0] and "within a minute" in sentences[2]
    assert not list(tmp_path.iterdir())


def test_what_an_upload_left_when_the_page_ended_is_deleted_at_the_next_start(tmp_path):
    (tmp_path / f"{PART}x").write_bytes(MASK)
    MaskLibrary(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_result_is_served_by_its_id_while_it_is_there(client, store):
    store.add(Job(id="a", owner="me", method="dipgo", model="emoji-unet", settings={}, created=0.0))
    (store.results / result_name("a")).write_bytes(MASK)
    assert client.get("/explorer/results/a").status_code == 404  # it is not done
    store.update("a", state="done", result=result_name("a"))
    answer = client.get("/explorer/results/a")
    assert answer.content == MASK and 'filename="a.safetensors"' in answer.headers["content-disposition"]
    for id in ("b", "../jobs", "..%2f..%2fjobs.sqlite", "a.safetensors", "%00", "a%0a"):
        assert client.get(f"/explorer/results/{id}").status_code == 404


@pytest.mark.parametrize("path", ["../auth.py", "%2e%2e/auth.py", "..%2fauth.py", "//etc/passwd", "view.js%00", ""])
def test_static_files_end_at_their_folder(client, path):
    assert client.get(f"/explorer/static/{path}").status_code == 404


# -- the running page


@pytest.fixture
def data(served, tmp_path_factory):
    """Find the data folder of the running page."""
    folders = [one for one in tmp_path_factory.getbasetemp().glob("data*") if (one / "masks").is_dir()]
    return next(one for one in folders if not one.is_symlink())


def post(served, path, document):
    body = Request(f"{served}{path}", json.dumps(document).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(body, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_no_answer_says_where_files_are_on_the_server(served):
    root = str(Path(__file__).parent.parent)
    for path in ("", "config", "gradio_api/info"):
        with urlopen(f"{served}{path}", timeout=60) as answer:
            assert root not in answer.read().decode()


def test_no_event_touches_the_file_that_it_names(served, data):
    victim = data / "jobs" / "results" / "victim.safetensors"
    victim.write_bytes(MASK)
    with urlopen(f"{served}config", timeout=60) as answer:
        events = json.load(answer)["dependencies"]
    named = {"path": str(victim), "orig_name": "a", "meta": {"_type": "gradio.FileData"}}
    for event in events:
        if event["backend_fn"] and not event["queue"]:
            document = {"fn_index": event["id"], "data": [named] * len(event["inputs"]), "session_hash": "attacker"}
            post(served, "gradio_api/run/predict", document)
            assert victim.read_bytes() == MASK, event["api_name"]
    victim.unlink()


def test_data_of_the_page_is_for_its_user_alone(data):
    for path in (data, *(found for found in data.rglob("*") if found.name != "log")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_forged_headers_lift_no_limit_a_taken_port_is_an_error_and_a_terminated_page_leaves_no_process(tmp_path):
    settings = {"GRADIO_SERVER_PORT": str(free_port()), "HF_HUB_OFFLINE": "1", "EXPLORER_RATE_LIMIT_PER_MINUTE": "2"}
    (tmp_path / "first").mkdir()
    with serve(tmp_path / "first", **settings, EXPLORER_DATA=str(tmp_path / "first")) as url:
        command = [sys.executable, str(ROOT / "app.py")]
        own = {"EXPLORER_DATA": str(tmp_path / "second")}
        second = subprocess.run(command, env=os.environ | settings | own, cwd=ROOT, capture_output=True, text=True)
        assert second.returncode and settings["GRADIO_SERVER_PORT"] in second.stderr
        (page,) = (one for one in psutil.process_iter() if settings["GRADIO_SERVER_PORT"] in _environment(one))
        processes = [page, *page.children(recursive=True)]
        assert call_api(url, "cost", steps=4)[0] == "complete"
        answers = [upload_from(url, f"10.0.0.{number}") for number in range(3)]
        assert "id" in answers[0] and "id" in answers[1] and "2 times within a minute" in answers[2]
        processes += [one for one in page.children(recursive=True) if one not in processes]
        answers = read_events(url, "generate", prompt="dog", steps=60)
        assert next(answers) == "event: generating"  # the original is done, the others are not
        page.terminate()
        assert ENDING in list(answers)[-1]
    assert psutil.wait_procs(processes, 30)[1] == []


def read_events(served, name, **arguments):
    """Call the API; yields the lines of the answer as they come."""
    calls = f"{served}gradio_api/call"
    event = httpx.post(f"{calls}/v2/{name}", json=arguments, timeout=60).json()["event_id"]
    with httpx.stream("GET", f"{calls}/{name}/{event}", timeout=300) as stream:
        yield from (line for line in stream.iter_lines() if line and "heartbeat" not in line and line != "data: null")


def upload_from(served, address):
    """Upload a mask as if a proxy had passed it on from an address."""
    headers = TOKEN | {"X-Forwarded-For": address}
    try:
        with urlopen(Request(f"{served}{UPLOAD[1:]}", MASK, headers), timeout=60) as answer:
            return answer.read().decode()
    except HTTPError as error:
        return error.read().decode()


def _environment(process):
    try:
        command = process.cmdline()
        return process.environ().values() if command[-1:] == [str(ROOT / "app.py")] else ()
    except psutil.Error:
        return ()
