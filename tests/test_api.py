"""The page's API: plain HTTP to the real server."""

from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest

from explorer.masks.encoding import decode_bits, encode_bits
from tests.page_fixtures import call_api

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parent.parent


def status(url: str) -> int:
    try:
        with urlopen(url, timeout=30) as answer:
            return answer.status
    except HTTPError as error:
        return error.code


@pytest.mark.parametrize("path", ["gradio_api/file=/etc/hostname", f"gradio_api/file={ROOT}/app.py", "monitoring"])
def test_private_paths_are_refused(served: str, path: str):
    assert status(served + path) == 403


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mask", {"ratio": float("nan")}, "ratio must be a finite number"),
        ("mask", {"ratio": 1.5}, "ratio must be at most 1, not 1.5"),
        ("mask", {"ratio": "half"}, "ratio must be a number, not 'half'"),
        ("mask", {"ratio": 0.99, "steps": 4, "method": "random"}, "the ratio must be between 0 and 0.75"),
        ("mask", {"steps": [25]}, "steps must be a whole number, not [25]"),
        ("mask", {"method": "magic"}, "method 'magic' is unknown"),
        ("mask", {"method": {"a": 1}}, "method must be text"),
        ("mask", {"settings": {"intervl": 2}}, "uniform has no setting 'intervl'; it has "),
        ("mask", {"settings": "interval=2"}, "settings must be a table of names and values"),
        ("mask", {"model": "/etc"}, "model '/etc' is not here"),
        ("mask", {"sampler": "magic"}, "sampler must be 'ddim', "),
        ("cost", {"manual_schedule": "!!"}, "the manual schedule is not in base64"),
        ("cost", {"manual_schedule": "AAAA"}, "the manual schedule does not have 25 calls"),
        ("generate", {}, "Type what to draw."),
        ("generate", {"prompt": 17}, "prompt must be text, not 17"),
        ("generate", {"prompt": "dog", "seed": "many"}, "seed must be a whole number, not 'many'"),
    ],
)
def test_a_wrong_call_of_the_api_gives_one_sentence(served: str, name: str, arguments: dict, message: str):
    kind, answer = call_api(served, name, **arguments)
    assert kind == "error"
    assert answer["error"].startswith(message)
    assert "\n" not in answer["error"]


def test_api_returns_masks_and_their_cost(served: str):
    kind, (mask,) = call_api(served, "mask", ratio=0.5, steps=8)
    assert kind == "complete" and mask["calls"] == 8 and len(mask["status"]) == 8
    assert mask["kept"] == pytest.approx(0.5, abs=0.13)
    keep = decode_bits(mask["manual_schedule"], (8, len(mask["units"])))
    assert np.array_equal(keep, np.array(mask["status"]) == 0)
    keep[3] = False
    kind, (cost,) = call_api(served, "cost", ratio=0.5, steps=8, manual_schedule=encode_bits(keep))
    assert kind == "complete" and cost["kept"] <= mask["kept"] and cost["asked"] is None
