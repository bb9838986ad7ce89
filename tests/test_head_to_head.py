"""Bundled schedules compared with baselines that are rebuilt from their rows, on a tiny model."""

import json

import pytest

from explorer.evaluation.candidates import Candidate, ReferenceRun, make_samples
from explorer.evaluation.evaluate import evaluate
from explorer.evaluation.results import read_results
from explorer.experiment import prune
from explorer.masks.block_graph import Extrapolation
from explorer.models import catalogue
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from explorer.studies import head_to_head
from explorer.studies.baseline_suite import Suite

pytestmark = pytest.mark.slow

REFERENCE = ReferenceRun(steps=12)
RESULTS = catalogue.ASSETS / "results"


@pytest.fixture(scope="module")
def evaluated(sd_folder, tmp_path_factory):
    """Evaluate a suite at one ratio: (model, rows), tuned on the names that `rebuild` tunes on."""
    patch = pytest.MonkeyPatch()
    patch.setattr(head_to_head, "split_names", lambda model, purpose: ["dog", "cat"])
    patch.setattr(head_to_head, "TUNING_IMAGES", 2)
    patch.setattr(head_to_head, "RATIOS", (0.5,))
    model = catalogue.load(sd_folder)
    candidates = run_to_completion(Suite(model, REFERENCE, ["dog", "cat"], budget=4).candidates_at(0.5))
    file, samples = tmp_path_factory.mktemp("suite") / "rows.parquet", make_samples(["owl"], 2)
    yield model, run_to_completion(evaluate(model, REFERENCE, candidates, samples, file, converged_steps=0))
    patch.undo()


def test_strongest_candidate_of_each_family_is_first(evaluated):
    _, rows = evaluated
    families = head_to_head.top_families(rows, 0.5, count=3)
    assert len({row.method for row in families}) == 3
    means = rows[rows.method != "full"].groupby("key").psnr_box.mean()
    assert means[families[0].key] == means.max()
    own = list(means[[row.key for row in families]])
    assert own == sorted(own, reverse=True)


def test_every_family_is_rebuilt_unchanged(evaluated):
    model, rows = evaluated
    for row in head_to_head.top_families(rows, 0.5, count=20):
        assert head_to_head.rebuild(model, REFERENCE, row).key == row.key


@pytest.mark.parametrize("change", ["settings", "kept", "steps"])
def test_changed_baseline_is_refused(evaluated, change):
    model, rows = evaluated
    families = head_to_head.top_families(rows, 0.5, count=20)
    row = next(row for row in families if row.method == ("ddim-steps" if change == "steps" else "uniform"))
    changes = {
        "settings": {"settings": row.settings.replace('"steps": 12', '"steps": 10')},
        "kept": {"kept": row.kept + 0.01},
        "steps": {"steps": 4},
    }
    with pytest.raises(ValueError, match=f"{row.method} at 0.5 is no longer built as in these results"):
        head_to_head.rebuild(model, REFERENCE, row._replace(**changes[change]))


def test_bundled_candidates_are_compared_with_the_baselines(evaluated, monkeypatch):
    model, rows = evaluated
    learned = run_to_completion(prune(model, "random", method_config("random", {"steps": 12, "guidance": 7.5})))
    ours = Candidate("dipgo", REFERENCE.sampler, REFERENCE.steps, 0.5, {"how": "ours"}, mask=learned.at(0.5))
    monkeypatch.setattr(head_to_head, "bundled_candidates", lambda model, reference, ratio: [ours])
    candidates = run_to_completion(head_to_head.with_strongest_baselines(model, REFERENCE, rows))
    assert candidates[0] is ours and len(candidates) == 1 + head_to_head.NUM_FAMILIES


def test_two_baselines_are_tuned_without_earlier_results(evaluated, monkeypatch):
    monkeypatch.setattr(head_to_head, "bundled_candidates", lambda model, reference, ratio: [])
    candidates = run_to_completion(head_to_head.with_two_baselines(evaluated[0], REFERENCE))
    assert [one.method for one in candidates] == ["uniform", "unipc-steps"]


def test_fixed_baselines_are_every_extrapolation_and_three_samplers(evaluated, monkeypatch):
    monkeypatch.setattr(head_to_head, "bundled_candidates", lambda model, reference, ratio: [])
    candidates = run_to_completion(head_to_head.with_fixed_baselines(evaluated[0], REFERENCE, head_to_head.RATIOS))
    whole = [Extrapolation.of(one.mask.header) for one in candidates if one.mask]
    assert whole == list(head_to_head.EXTRAPOLATIONS) and len({one.key for one in candidates}) == 8
    assert [one.method for one in candidates if not one.mask] == list(head_to_head.ALL_FEW_STEPS)


def test_rows_of_the_committed_results_are_rebuilt_although_their_keys_are_older():
    model, reference = catalogue.load("emoji-unet"), ReferenceRun("ddim", 50)
    rows = read_results(RESULTS / "emoji-unet-ddim-50.parquet")[1]
    uniform = [row for row in head_to_head.top_families(rows, 0.8, count=20) if row.method == "uniform"]
    few_steps = [row for row in head_to_head.top_families(rows, 0.8, count=20) if row.method.endswith("-steps")]
    assert uniform and few_steps
    for row in (*uniform, *few_steps):
        candidate = head_to_head.rebuild(model, reference, row)
        assert candidate.settings | candidate.solver == json.loads(row.settings)
