"""The suite of everything a learned method has to beat, on a tiny model."""

import pytest

from explorer.evaluation.candidates import ReferenceRun
from explorer.models import catalogue
from explorer.progress import run_to_completion
from explorer.pruners.baselines import deepcache_row, max_branch
from explorer.studies import baseline_suite
from explorer.studies.baseline_suite import EXTRAPOLATIONS, GRIDS, INTERVALS, Suite, deepcache_candidates

pytestmark = pytest.mark.slow

REFERENCE = ReferenceRun(steps=12)


@pytest.fixture(scope="module")
def suite(sd_folder):
    return Suite(catalogue.load(sd_folder), REFERENCE, ["dog", "cat"], budget=4)


@pytest.fixture(scope="module")
def candidates(suite):
    return run_to_completion(suite.candidates_at(0.5))


def test_every_family_has_a_candidate_at_a_ratio_it_can_reach(candidates):
    assert {candidate.method for candidate in candidates} >= {*GRIDS, "ddim-steps", "dpm++-steps", "deis3-steps"}
    assert [candidate.method for candidate in candidates].count("random") == 3
    assert len({candidate.key for candidate in candidates}) == len(candidates)
    for candidate in candidates:
        assert candidate.mask is None or 1 - candidate.mask.macs_fraction == pytest.approx(0.5, abs=0.03)


def test_family_is_left_out_at_ratios_out_of_its_range(suite):
    methods = {candidate.method for candidate in run_to_completion(suite.candidates_at(11 / 12))}
    assert "deepcache" not in methods
    assert {"uniform", "search", "ddim-steps"} <= methods


def test_tuned_candidate_is_no_worse_than_any_setting_of_its_family(suite, candidates):
    tuned = next(c for c in candidates if c.method == "uniform" and c.settings["how"] == "tuned")
    for spacing in GRIDS["uniform"]["spacing"]:
        other = suite._schedule("uniform", {"spacing": spacing}, 0.5)
        assert suite._loss(tuned.mask) <= suite._loss(other)
    for extrapolation in EXTRAPOLATIONS:
        assert suite._loss(tuned.mask) <= suite._loss(tuned.mask.with_extrapolation(extrapolation))


def test_all_ratios_are_evaluated_together_and_nothing_is_tuned_twice(sd_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(baseline_suite, "split_names", lambda model, purpose: ["dog", "cat"])
    monkeypatch.setattr(baseline_suite, "GRIDS", {"uniform": {"spacing": ("even", "quadratic")}})
    monkeypatch.setattr(baseline_suite, "TUNING_IMAGES", 2)
    model, options = catalogue.load(sd_folder), {"ratios": (0.5, 0.75), "converged_steps": 0}
    summary = run_to_completion(baseline_suite.run(model, REFERENCE, tmp_path, 2, **options))
    assert set(summary.ratio.dropna()) == {0.5, 0.75} and (summary.n == 2).all()
    monkeypatch.setattr(baseline_suite, "Suite", None)  # nothing is tuned again
    repeated = run_to_completion(baseline_suite.run(model, REFERENCE, tmp_path, 2, **options))
    assert repeated.equals(summary)


def test_deepcache_has_a_candidate_for_every_interval_and_branch(sd_folder):
    model = catalogue.load(sd_folder)
    candidates = deepcache_candidates(model, REFERENCE)
    graph = model.graph("layer")
    assert len(candidates) == (max_branch(graph) + 1) * len(INTERVALS)
    assert len({candidate.key for candidate in candidates}) == len(candidates)
    for candidate in candidates:
        branch, interval = candidate.settings["branch"], candidate.settings["interval"]
        assert candidate.mask.keep[::interval].all()
        assert candidate.ratio == pytest.approx(1 - candidate.mask.macs_fraction, abs=1e-6)
        assert (candidate.mask.keep[1] == deepcache_row(graph, branch)).all()
