"""What runs on the CPU runs where a GPU would be, with the same numbers; on a device that mixes with nothing."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from tests.far import NAME, settle

LEARNED = {"steps": 4, "guidance": 3.0, "granularity": "stage", "iterations": 2, "batch": 2}
BRED = {"steps": 4, "guidance": 3.0, "ratio": 0.5, "pictures": 2, "population": 4, "budget": 5}
CUT = {"steps": 3, "guidance": 3.0, "iterations": 2, "batch": 2}
SEARCHES = {
    "dipgo": LEARNED | {"reuse": "residual", "parametrisation": "network", "checks": 1},
    "dipgo published": LEARNED | {"decision": "argmax", "order": 0, "loss": "l2", "checks": 0},
    "genetic": BRED,
    "similarity": {"steps": 4, "guidance": 3.0},
    "ecodiff": CUT,
    "taylor": {"axis": "channels", "pictures": 2, "steps": 3, "stride": 200},
    "magnitude": {"axis": "channels"},
}


@pytest.fixture(scope="module")
def elsewhere():
    """A process in which the device is known."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), settle) as pool:
        yield lambda work, *arguments: pool.submit(work, *arguments).result()


def searched(folder, device, method, settings):
    from explorer import catalogue
    from explorer.experiment import config_of, prune
    from explorer.work import finished

    model = catalogue.load(folder, device=device)
    found = finished(prune(model, method, config_of(method, settings), ["dog", "cat"]))
    score = found.score if hasattr(found, "score") else found.keep
    return {name: np.asarray(value) for name, value in (score if isinstance(score, dict) else {"": score}).items()}


def drawn(folder, device):
    """The distance to the full run of a schedule, of a smaller network, and of few steps."""
    os.environ["EXPLORER_DEVICE"] = device
    from explorer.experiment import Question, compare, config_of, loaded, prune
    from explorer.work import finished

    model = loaded(folder)
    assert model.denoiser.device.type == device
    question = Question(model=folder, prompt="dog", steps=4, guidance=3.0, ratio=0.5)
    thinner = finished(prune(model, "magnitude", config_of("magnitude", {"axis": "channels"}))).at(0.1)
    frames = [*compare(question), *compare(question, thinner)]
    return [frame.psnr for frame in frames if frame.psnr is not None]


def evaluated(folder, device, out):
    from explorer import catalogue
    from explorer.evidence.evaluation import Contender, Full, evaluate, pairs_of
    from explorer.work import finished

    model, pairs = catalogue.load(folder, device=device), pairs_of(["dog", "cat"], 2)
    others = [Contender("ddim-steps", "ddim", 2), Contender("ddim-steps", "ddim", 3)]
    rows = finished(evaluate(model, Full(steps=4), others, pairs, out / f"{device}.parquet", truth_steps=5, batch=2))
    return rows["psnr"].to_numpy(float)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_the_same(name, elsewhere, sd_folder):
    method = name.split()[0]
    there, here = (
        elsewhere(searched, sd_folder, NAME, method, SEARCHES[name]),
        searched(sd_folder, "cpu", method, SEARCHES[name]),
    )
    assert there.keys() == here.keys()
    for one in here:
        np.testing.assert_allclose(there[one], here[one], rtol=2e-2, atol=1e-4)


def test_pictures_and_what_they_lose_are_the_same(elsewhere, sd_folder, monkeypatch):
    monkeypatch.setenv("EXPLORER_DEVICE", "cpu")  # put back at the end
    there, here = elsewhere(drawn, str(sd_folder), NAME), drawn(str(sd_folder), "cpu")
    assert len(here) == 4
    np.testing.assert_allclose(there, here, atol=0.05)


def test_an_evaluation_has_the_same_rows(elsewhere, sd_folder, tmp_path):
    there, here = elsewhere(evaluated, sd_folder, NAME, tmp_path), evaluated(sd_folder, "cpu", tmp_path)
    np.testing.assert_allclose(there, here, atol=0.05)
