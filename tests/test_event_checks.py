"""What an event brings is checked before its handler runs: a client's mistake is a 4xx with one sentence."""

import time

import gradio as gr
import pytest
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from explorer.ui import budgets
from explorer.ui.budgets import Budgets
from explorer.ui.event_checks import CheckedBlocks
from explorer.ui.middleware import RequestChecks

SENT = ["a", 0.5, "one", True, 3]  # what the controls below can have


@pytest.fixture(scope="module")
def client():
    """Serve a page with one control of each kind, two events and an endpoint."""

    def echo(*values):
        return repr(values)

    def fail(text):
        raise KeyError(text)

    with CheckedBlocks() as page:
        controls = [gr.Textbox(), gr.Slider(0, 1, label="Ratio"), gr.Radio(["one", "two"]), gr.Checkbox(), gr.Number()]
        answer = gr.Textbox()
        for preprocess in (True, False):
            gr.Button().click(echo, controls, answer, queue=False, preprocess=preprocess)
        gr.Button().click(fail, controls[0], answer, queue=False)
        gr.Button().click(echo, controls[0], answer, concurrency_limit=None)
    app = gr.routes.App.create_app(page, app_kwargs={"middleware": [Middleware(RequestChecks, Budgets())]})
    with TestClient(app) as client:
        client.page = page
        client.get("/gradio_api/startup-events")  # from then on, queued events are worked on
        yield client


def fire(client, values, event=0, **document):
    document = {"fn_index": event, "data": values, "session_hash": "s"} | document
    return client.post("/gradio_api/run/predict", json=document)


@pytest.mark.parametrize("event", [0, 1])
def test_values_that_controls_can_have_reach_the_handler(client, event):
    assert fire(client, SENT, event).json()["data"] == [repr(tuple(SENT))]
    assert "''" in fire(client, [None, *SENT[1:]], event).json()["data"][0]  # an empty text is never None


@pytest.mark.parametrize("event", [0, 1])
@pytest.mark.parametrize("place", range(len(SENT)))
@pytest.mark.parametrize(
    "value", [["a"], [], {"path": "/etc/passwd"}, {"value": 1}, 10**400, -(2.0**80)], ids=lambda value: repr(value)[:20]
)
def test_other_values_are_refused_with_one_sentence_and_no_traceback(client, capfd, event, place, value):
    values = SENT[:place] + [value] + SENT[place + 1 :]
    answer = fire(client, values, event)
    assert 400 <= answer.status_code < 500 and len(answer.text) < 200
    log = "".join(capfd.readouterr())
    assert "Traceback" not in log and len(log) < 200


def test_numbers_and_texts_may_be_sent_for_each_other_as_the_scripts_of_the_page_do(client):
    for values in ([7, "0.5", "one", 1, "3"], [0.5, 1, "two", "true", None]):
        answer = fire(client, values, event=1).json()["data"][0]
        assert answer == repr((str(values[0]), *values[1:]))


def test_too_few_values_and_choices_that_are_not_there_are_refused(client, capfd):
    for values in ([], SENT[:-1], [*SENT, 1], [*SENT[:2], "three", *SENT[3:]], [SENT[0], 7, *SENT[2:]]):
        assert fire(client, values).status_code == 422
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("run/predict", {"data": [], "fn_index": 999}),
        ("run/nothing", {"data": []}),
        ("call/v2/nothing", {"x": 1}),
        ("run/predict", [1]),
        ("queue/join", {"fn_index": 999, "data": [], "session_hash": "s"}),
    ],
)
def test_what_gradio_does_not_understand_is_a_client_error(client, capfd, path, document):
    answer = client.post(f"/gradio_api/{path}", json=document)
    assert 400 <= answer.status_code < 500
    assert len("".join(capfd.readouterr())) < 200


def test_an_error_of_a_handler_stays_an_error_of_the_server(client, capfd):
    assert fire(client, ["a"], event=2).status_code == 500
    assert "KeyError" in "".join(capfd.readouterr())


def test_an_answer_that_nobody_reads_is_not_kept(client, monkeypatch):
    monkeypatch.setattr(budgets, "UNREAD_S", 0.001)
    queue, added = client.page._queue, []

    class Recorded(type(queue.pending_messages_per_session)):
        def __setitem__(self, session, messages):
            added.append(session)
            super().__setitem__(session, messages)

    kept = Recorded(queue.pending_messages_per_session.max_size)
    monkeypatch.setattr(queue, "pending_messages_per_session", kept)
    document = {"fn_index": 3, "data": ["a"], "session_hash": "unread"}
    assert client.post("/gradio_api/queue/join", json=document).status_code == 200
    assert added == ["unread"]
    while "unread" in kept:
        time.sleep(0.01)


def test_no_value_stays_in_the_session(client):
    value = "x" * 1000
    assert value in fire(client, [value, *SENT[1:]], session_hash="own").text
    state = client.page.state_holder["own"]
    assert state.config_values and value not in repr(state.config_values)
