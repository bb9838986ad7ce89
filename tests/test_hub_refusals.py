"""What the hub refuses is one sentence that says what to do, against a local stand-in of its address."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from explorer.models import hub

REFUSALS = {
    "GatedRepo": (
        403,
        "only to accounts that agreed to their license; agree to it on http://127.0.0.1:.*/some/model, and log in",
    ),
    "RepoNotFound": (404, "the hub has no such repository, or shows it only after a login"),
}


@pytest.fixture(params=REFUSALS)
def refusing(request, monkeypatch):
    """Serve one refusal in place of the hub; yields the sentence that it should become."""
    status, sentence = REFUSALS[request.param]

    class Refusal(BaseHTTPRequestHandler):
        def do_HEAD(self):  # noqa: N802 -- as the base class names it
            self.send_response(status)
            self.send_header("X-Error-Code", request.param)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD  # noqa: N815

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield sentence
        server.shutdown()


def test_a_refusal_of_the_hub_is_a_sentence(refusing):
    with pytest.raises(ValueError, match=refusing):
        hub.download("some/model", title="a model")
