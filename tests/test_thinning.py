"""Smaller networks against each other on a tiny model: orders are learned once, everybody has the same size."""

from types import MappingProxyType

import pytest

from explorer import catalogue
from explorer.evidence import thinning
from explorer.evidence.evaluation import Full, evaluate, pairs_of
from explorer.work import finished

FEW = {"steps": 2, "iterations": 2, "first": 1, "batch": 2, "pictures": 2, "guidance": 3.0}


@pytest.fixture
def model(sd_folder, monkeypatch):
    found = catalogue.load(sd_folder)
    monkeypatch.setattr(thinning, "chosen", lambda model, purpose: ["dog", "cat"])
    heads = {
        "ecodiff": ("ecodiff", FEW),
        "ecodiff-blocks": ("ecodiff", FEW | {"ranking": "blocks"}),
        "random-0": ("random-widths", {}),
    }
    monkeypatch.setattr(thinning, "HEADS", MappingProxyType(heads))
    walk = {"steps": 2, "pictures": 2, "stride": 250, "guidance": 3.0}
    thin = {
        "magnitude-channels": ("magnitude", thinning.CHANNELS),
        "taylor": ("taylor", walk),
        "taylor-all": ("taylor", walk | {"threshold": 0.0}),
    }
    monkeypatch.setattr(thinning, "THIN", MappingProxyType(thin))
    monkeypatch.setattr(thinning, "SHARES", (0.05, 0.9))
    monkeypatch.setattr(thinning, "RATIOS", (0.3,))
    return found


def test_everybody_stands_at_the_same_share_and_few_steps_beside_them(model, tmp_path, monkeypatch):
    names = [*thinning.HEADS, *thinning.THIN]
    orders = finished(thinning.learned(model, names, tmp_path / "orders"))
    assert [order.header.pruner.name for order in orders.values()] == [
        "ecodiff",
        "ecodiff",
        "random-widths",
        "magnitude",
        *("taylor", "taylor"),
    ]
    full = Full("ddim", 3, 3.0)
    found = thinning.contenders(model, full, orders)
    smaller = [one for one in found if one.widths]
    assert [one.settings["how"] for one in smaller] == names  # nobody can remove 90 % of the parameters by heads
    assert all(one.widths.kept == pytest.approx(0.95, abs=0.02) for one in smaller[:3])
    assert all(one.widths.header.ratio.of == "channels" for one in smaller[3:])
    assert [order.header.pruner.config["threshold"] for order in list(orders.values())[4:]] == [0.05, 0.0]
    assert {one.method for one in found if not one.widths} == {"unipc-steps"}
    rows = finished(evaluate(model, full, found, pairs_of(["dog"], 2), tmp_path / "rows.parquet", truth_steps=0))
    assert rows.error.isna().all() and rows[rows.method == "magnitude"].params.iloc[0] < rows.params.max()


def test_what_is_learned_already_is_not_learned_again(model, tmp_path, monkeypatch):
    first = finished(thinning.learned(model, ["ecodiff"], tmp_path))
    monkeypatch.setitem(thinning.PRUNERS, "ecodiff", None)  # nobody may ask for it
    again = finished(thinning.learned(model, ["ecodiff", "ecodiff-blocks"], tmp_path))
    assert again["ecodiff"].header == first["ecodiff"].header
    blocks = again["ecodiff-blocks"]
    assert all((blocks.score[name] == score).all() for name, score in first["ecodiff"].score.items())
    assert blocks.header.pruner.config["ranking"] == "blocks"
