"""The page as programs meet it: plain HTTP to the real server."""

from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.page_fixtures import ask

ROOT = Path(__file__).parent.parent


def status(url: str) -> int:
    try:
        with urlopen(url, timeout=30) as answer:
            return answer.status
    except HTTPError as error:
        return error.code


@pytest.mark.parametrize("path", ["gradio_api/file=/etc/hostname", f"gradio_api/file={ROOT}/app.py", "monitoring"])
def test_what_is_not_meant_for_visitors_is_refused(served: str, path: str):
    assert status(served + path) == 403


@pytest.mark.parametrize(
    ("name", "question", "said"),
    [
        ("plan", {"ratio": float("nan")}, "ratio: input should be a finite number"),
        ("plan", {"ratio": 1.5}, "ratio: input should be less than or equal to 1"),
        ("plan", {"ratio": "half"}, "ratio: input should be a valid number"),
        ("plan", {"ratio": 0.99, "steps": 4, "method": "random"}, "the ratio must be between 0 and 0.75"),
        ("plan", {"steps": [25]}, "steps: input should be a valid integer"),
        ("plan", {"method": "magic"}, "method 'magic' is unknown"),
        ("plan", {"method": {"a": 1}}, "method: input should be a valid string"),
        ("plan", {"settings": {"evry": 2}}, "evry: extra inputs are not permitted"),
        ("plan", {"settings": "every=2"}, "settings: input should be a valid dictionary"),
        ("plan", {"model": "/etc"}, "model '/etc' is not here"),
        ("plan", {"sampler": "magic"}, "sampler 'magic' is unknown"),
        ("draw", {}, "prompt: please say what to draw"),
        ("draw", {"prompt": 17}, "prompt: input should be a valid string"),
        ("draw", {"prompt": "dog", "seed": "many"}, "seed: input should be a valid integer"),
    ],
)
def test_a_wrong_call_of_the_api_gives_one_sentence(served: str, name: str, question: dict, said: str):
    kind, answer = ask(served, name, **question)
    assert kind == "error"
    assert answer["error"].startswith(said)
    assert "\n" not in answer["error"]


def test_the_api_plans(served: str):
    kind, (plan,) = ask(served, "plan", ratio=0.5, steps=8)
    assert kind == "complete"
    assert plan["calls"] == 8
    assert plan["kept"] == pytest.approx(0.5, abs=0.13)
    assert len(plan["fate"]) == 8
