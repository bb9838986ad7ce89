"""Widths of a tiny model compared: importances are learned once, all candidates have the same size."""

import pytest

from explorer.evaluation.candidates import ReferenceRun, make_samples
from explorer.evaluation.evaluate import evaluate
from explorer.models import catalogue
from explorer.progress import run_to_completion
from explorer.studies import width_study

pytestmark = pytest.mark.slow

FEW = {"steps": 2, "iterations": 2, "warmup_steps": 1, "batch": 2, "num_images": 2, "guidance": 3.0}
SHORT_WALK = {"steps": 2, "num_images": 2, "stride": 250, "guidance": 3.0}
HEADS = {
    "ecodiff": ("ecodiff", FEW),
    "ecodiff-blocks": ("ecodiff", FEW | {"ranking": "blocks"}),
    "random-0": ("random-width", {}),
}
CHANNELS = {
    "magnitude-channels": ("magnitude", width_study.CHANNELS),
    "taylor": ("taylor", SHORT_WALK),
    "taylor-all": ("taylor", SHORT_WALK | {"threshold": 0.0}),
}


@pytest.fixture
def model(sd_folder, monkeypatch):
    monkeypatch.setattr(width_study, "split_names", lambda model, purpose: ["dog", "cat"])
    monkeypatch.setattr(width_study, "CHANNEL_RATIOS", (0.3,))
    return catalogue.load(sd_folder)


def test_all_candidates_have_the_same_share_and_include_few_step_samplers(model, tmp_path):
    variants = HEADS | CHANNELS
    importances = run_to_completion(width_study.learn_importances(model, variants, tmp_path / "importances"))
    assert [importance.header.pruner.name for importance in importances.values()] == [
        *("ecodiff", "ecodiff", "random-width", "magnitude", "taylor", "taylor"),
    ]
    reference = ReferenceRun("ddim", 3, 3.0)
    candidates = width_study.make_candidates(model, reference, importances, param_ratios=(0.05, 0.9))
    pruned = [one for one in candidates if one.widths]
    assert [one.settings["how"] for one in pruned] == [*variants]  # none can remove 90 % of the parameters by heads
    assert all(one.widths.params_fraction == pytest.approx(0.95, abs=0.02) for one in pruned[:3])
    assert all(one.widths.header.ratio.of == "channels" for one in pruned[3:])
    thresholds = [importance.header.pruner.config["threshold"] for importance in list(importances.values())[4:]]
    assert thresholds == [0.05, 0.0]
    assert {one.method for one in candidates if not one.widths} == {"unipc-steps"}
    work = evaluate(
        model, reference, candidates, make_samples(["dog"], 2), tmp_path / "rows.parquet", converged_steps=0
    )
    rows = run_to_completion(work)
    assert rows.error.isna().all() and rows[rows.method == "magnitude"].params.iloc[0] < rows.params.max()


def test_learned_widths_are_not_learned_again(model, tmp_path, monkeypatch):
    first = run_to_completion(width_study.learn_importances(model, {"ecodiff": HEADS["ecodiff"]}, tmp_path))
    two = {name: HEADS[name] for name in ("ecodiff", "ecodiff-blocks")}
    monkeypatch.setattr(width_study, "PRUNERS", {})  # so that none can be run
    repeated = run_to_completion(width_study.learn_importances(model, two, tmp_path))
    assert repeated["ecodiff"].header == first["ecodiff"].header
    blocks = repeated["ecodiff-blocks"]
    assert all((blocks.score[name] == score).all() for name, score in first["ecodiff"].score.items())
    assert blocks.header.pruner.config["ranking"] == "blocks"
