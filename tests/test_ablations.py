"""The ablations of DiP-GO, shortened, on a tiny model."""

import pytest

from explorer import catalogue
from explorer.evidence import ablations
from explorer.work import finished


def test_each_variant_is_learned_and_measured_at_each_ratio(sd_folder, monkeypatch):
    monkeypatch.setattr(ablations, "SAME", {"iterations": 2, "batch": 1, "rate": 5.0})
    monkeypatch.setattr(ablations, "PICTURES", 2)
    monkeypatch.setattr(ablations, "chosen", lambda model, purpose: ["dog", "cat"])
    names = ("published", "published: selection by sweep")
    monkeypatch.setattr(ablations, "VARIANTS", {name: ablations.VARIANTS[name] for name in names})
    monkeypatch.setattr(ablations, "OURS", {})
    rows = finished(ablations.ablate(catalogue.load(sd_folder)))
    assert list(rows.variant.unique()) == list(names) and set(rows.ratio) == set(ablations.RATIOS)
    swept = rows[rows.variant == names[1]]
    assert (swept.kept >= 1 - swept.ratio - 1e-9).all() and rows.psnr.notna().all()
    learned = rows[rows.variant == names[0]]
    assert learned.kept.tolist() == pytest.approx((1 - learned.ratio).tolist(), abs=0.05)
