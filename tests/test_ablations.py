"""The ablations of DiP-GO, shortened, on a tiny model."""

import pytest

from explorer.experiment import prune
from explorer.models import catalogue
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from explorer.sampling.generate import generate
from explorer.studies import ablations

pytestmark = pytest.mark.slow


@pytest.fixture
def few_images(monkeypatch):
    monkeypatch.setattr(ablations, "NUM_IMAGES", 2)
    monkeypatch.setattr(ablations, "split_names", lambda model, purpose: ["dog", "cat"])


def test_each_variant_is_learned_and_measured_at_each_ratio(sd_folder, tmp_path, monkeypatch, few_images):
    monkeypatch.setattr(ablations, "PUBLISHED_BUDGET", {"iterations": 2, "batch": 1, "learning_rate": 5.0})
    names = ("published", "published: selection by sweep")
    monkeypatch.setattr(ablations, "PUBLISHED_VARIANTS", {name: ablations.PUBLISHED_VARIANTS[name] for name in names})
    monkeypatch.setattr(ablations, "OWN_VARIANTS", {})
    rows = run_to_completion(ablations.ablate(catalogue.load(sd_folder), tmp_path))
    assert list(rows.variant.unique()) == list(names) and set(rows.ratio) == set(ablations.RATIOS)
    by_sweep = rows[rows.variant == names[1]]
    assert (by_sweep.kept >= 1 - by_sweep.ratio - 1e-9).all() and rows.psnr.notna().all()
    by_rank = rows[rows.variant == names[0]]
    assert by_rank.kept.tolist() == pytest.approx((1 - by_rank.ratio).tolist(), abs=0.05)
    monkeypatch.setattr(ablations, "PRUNERS", {})  # nothing is left to learn
    assert run_to_completion(ablations.ablate(catalogue.load(sd_folder), tmp_path)).equals(rows)


def test_searches_have_the_same_budget_of_network_runs_as_learning(sd_folder, monkeypatch, few_images):
    monkeypatch.setattr(ablations, "SEARCHES", {"genetic": 6})
    whole = ablations.DipgoConfig
    fewer = {"iterations": 3, "batch": 1, "granularity": "stage"}
    monkeypatch.setattr(ablations, "DipgoConfig", lambda **own: whole(**own | fewer))
    rows = run_to_completion(ablations.search(catalogue.load(sd_folder), steps=6)).set_index("search")
    learned = rows.loc["ours"].runs
    one, ten = rows.iloc[1].runs, rows.iloc[2].runs
    assert one == pytest.approx(learned, rel=0.1) and ten == pytest.approx(10 * learned, rel=0.02)
    assert rows.psnr.notna().all()


def test_runs_are_counted_by_calls_of_the_network(sd_folder):
    model = catalogue.load(sd_folder)
    mask = run_to_completion(prune(model, "uniform", method_config("uniform", {"steps": 6, "ratio": 0.5})))
    with ablations.count_network_runs(model) as runs:
        list(generate(model, ["dog", "cat"], [0, 1], "ddim", 6, 7.5, mask))
    assert runs == [3 * 2 * 2]
    list(generate(model, ["dog"], [0], "ddim", 6, 7.5))
    assert runs == [12]
