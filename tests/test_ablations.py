"""The ablations of DiP-GO, shortened, on a tiny model."""

import pytest

from explorer import catalogue
from explorer.evidence import ablations
from explorer.work import finished


def test_each_variant_is_learned_and_measured_at_each_ratio(sd_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, "SAME", {"iterations": 2, "batch": 1, "rate": 5.0})
    monkeypatch.setattr(ablations, "PICTURES", 2)
    monkeypatch.setattr(ablations, "chosen", lambda model, purpose: ["dog", "cat"])
    names = ("published", "published: selection by sweep")
    monkeypatch.setattr(ablations, "VARIANTS", {name: ablations.VARIANTS[name] for name in names})
    monkeypatch.setattr(ablations, "OURS", {})
    rows = finished(ablations.ablate(catalogue.load(sd_folder), tmp_path))
    assert list(rows.variant.unique()) == list(names) and set(rows.ratio) == set(ablations.RATIOS)
    swept = rows[rows.variant == names[1]]
    assert (swept.kept >= 1 - swept.ratio - 1e-9).all() and rows.psnr.notna().all()
    learned = rows[rows.variant == names[0]]
    assert learned.kept.tolist() == pytest.approx((1 - learned.ratio).tolist(), abs=0.05)
    monkeypatch.setattr(ablations, "PRUNERS", {})  # nothing is left to learn
    assert finished(ablations.ablate(catalogue.load(sd_folder), tmp_path)).equals(rows)


def test_searches_spend_as_many_runs_of_the_network_as_learning_did(sd_folder, monkeypatch):
    monkeypatch.setattr(ablations, "PICTURES", 2)
    monkeypatch.setattr(ablations, "SEARCHES", {"genetic": 6})
    monkeypatch.setattr(ablations, "chosen", lambda model, purpose: ["dog", "cat"])
    short = ablations.DipgoConfig
    monkeypatch.setattr(
        ablations, "DipgoConfig", lambda **own: short(**own | {"iterations": 3, "batch": 1, "granularity": "stage"})
    )
    rows = finished(ablations.search(catalogue.load(sd_folder), steps=6)).set_index("search")
    learned = rows.loc["ours"].runs
    one, ten = rows.iloc[1].runs, rows.iloc[2].runs
    assert one == pytest.approx(learned, rel=0.1) and ten == pytest.approx(10 * learned, rel=0.02)
    assert rows.psnr.notna().all()


def test_runs_are_counted_where_the_network_really_runs(sd_folder):
    from explorer.drawing import draw
    from explorer.experiment import config_of, prune

    model = catalogue.load(sd_folder)
    mask = finished(prune(model, "uniform", config_of("uniform", {"steps": 6, "ratio": 0.5})))
    with ablations.counting(model) as runs:
        list(draw(model, ["dog", "cat"], [0, 1], "ddim", 6, 7.5, mask))
    assert runs == [3 * 2 * 2]
    list(draw(model, ["dog"], [0], "ddim", 6, 7.5))
    assert runs == [12]
