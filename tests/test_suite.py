"""The suite of everything a learned method has to beat, on a tiny model."""

import pytest

from explorer import catalogue
from explorer.evidence.evaluation import Full
from explorer.evidence.suite import FORECASTS, GRIDS, Suite
from explorer.work import finished

FULL = Full(steps=12)


@pytest.fixture(scope="module")
def suite(sd_folder):
    return Suite(catalogue.load(sd_folder), FULL, ["dog", "cat"], budget=4)


@pytest.fixture(scope="module")
def contenders(suite):
    return finished(suite.at(0.5))


def test_every_family_stands_at_a_ratio_it_can_reach(contenders):
    assert {contender.method for contender in contenders} >= {*GRIDS, "ddim-steps", "dpm++-steps", "deis3-steps"}
    assert [contender.method for contender in contenders].count("random") == 3
    assert len({contender.key for contender in contenders}) == len(contenders)
    for contender in contenders:
        assert contender.mask is None or 1 - contender.mask.kept == pytest.approx(0.5, abs=0.03)


def test_what_cannot_remove_so_much_is_left_out(suite):
    far = finished(suite.at(11 / 12))
    assert "deepcache" not in {contender.method for contender in far}
    assert {"uniform", "search", "ddim-steps"} <= {contender.method for contender in far}


def test_the_tuned_one_is_no_worse_than_any_setting_of_its_family(suite, contenders):
    tuned = next(c for c in contenders if c.method == "uniform" and c.settings["how"] == "tuned")
    for spacing in GRIDS["uniform"]["spacing"]:
        other = suite._mask("uniform", {"spacing": spacing}, 0.5)
        assert suite._loss(tuned.mask) <= suite._loss(other)
    for forecast in FORECASTS:
        assert suite._loss(tuned.mask) <= suite._loss(tuned.mask.forecasting(forecast))


def test_all_ratios_are_evaluated_together_and_nothing_is_tuned_twice(sd_folder, tmp_path, monkeypatch):
    from explorer.evidence import suite as whole

    monkeypatch.setattr(whole, "chosen", lambda model, purpose: ["dog", "cat"])
    monkeypatch.setattr(whole, "GRIDS", {"uniform": {"spacing": ("even", "quadratic")}})
    monkeypatch.setattr(whole, "PICTURES", 2)
    model = catalogue.load(sd_folder)
    work = whole.run(model, FULL, tmp_path, 2, ratios=(0.5, 0.75), truth_steps=0)
    found = finished(work)
    assert set(found.ratio.dropna()) == {0.5, 0.75} and (found.n == 2).all()
    monkeypatch.setattr(whole, "Suite", None)  # nothing is tuned again
    again = finished(whole.run(model, FULL, tmp_path, 2, ratios=(0.5, 0.75), truth_steps=0))
    assert again.equals(found)


def test_deepcache_stands_at_every_interval_and_branch(sd_folder):
    from explorer.evidence.suite import INTERVALS, deepcaches
    from explorer.pruners.baselines import deepcache_row, deepest

    model = catalogue.load(sd_folder)
    found = deepcaches(model, FULL)
    graph = model.graph("layer")
    assert len({contender.key for contender in found}) == len(found) == (deepest(graph) + 1) * len(INTERVALS)
    for contender in found:
        branch, interval = contender.settings["branch"], contender.settings["interval"]
        assert contender.mask.keep[::interval].all() and contender.ratio == pytest.approx(
            1 - contender.mask.kept, abs=1e-6
        )
        assert (contender.mask.keep[1] == deepcache_row(graph, branch)).all()
