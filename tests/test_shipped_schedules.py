"""Looking up what a method learned beforehand, and what was drawn beforehand."""

import json

import numpy as np
import pytest

from explorer import catalogue, gallery, shipped
from explorer.evidence import showcase
from explorer.experiment import config_of, prune
from explorer.work import finished


@pytest.fixture
def folder(sd_folder, tmp_path, monkeypatch):
    """A folder with two files of one method for a model that counts as embedded."""
    model = catalogue.load(sd_folder)
    monkeypatch.setattr(catalogue, "EMBEDDED", (model.id,))
    (tmp_path / model.id).mkdir()
    for order in (0, 1):
        importance = finished(prune(model, "uniform", config_of("uniform", {"steps": 6, "order": order})))
        importance.save(tmp_path / model.id / f"uniform-{order}.safetensors")
    (tmp_path / model.id / "broken.safetensors").write_bytes(b"nothing")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    return model.id


def test_settings_choose_among_the_files_and_the_first_one_serves_without(folder):
    assert shipped.methods(folder) == ["uniform"]
    assert shipped.find(folder, "uniform", "ddim", 6, {"order": 1}).header.order == 1
    assert shipped.find(folder, "uniform", "ddim", 6, {}).header.order == 0


def test_what_is_not_there_is_said_with_what_is(folder):
    with pytest.raises(ValueError, match="learned for ddim 6 steps, not for ddim 50"):
        shipped.find(folder, "uniform", "ddim", 50, {})
    with pytest.raises(ValueError, match="no file of dipgo for tiny-sd"):
        shipped.find(folder, "dipgo", "ddim", 6, {})
    assert shipped.methods("sd15") == []


def test_goes_is_the_ratio_at_which_a_unit_goes(sd_folder):
    model = catalogue.load(sd_folder)
    importance = finished(prune(model, "random", config_of("random", {"steps": 6})))
    goes = importance.goes
    assert (goes[0] == 1).all() and goes.min() > 0
    for ratio in (0.2, 0.5, 0.7):
        mask = importance.at(ratio)
        assert np.array_equal(mask.keep, goes > 1 - mask.kept + 1e-12)


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 50), ("ddim", 25), ("dpm++", 20), ("pndm", 50)])
@pytest.mark.parametrize("decision", ["prefix", "argmax"])
def test_files_of_dipgo_come_for_four_trajectories_in_our_way_and_as_published(sampler, steps, decision):
    found = shipped.find("emoji-unet", "dipgo", sampler, steps, {"decision": decision})
    assert found.header.model.revision == catalogue.revision("emoji-unet")
    for ratio in (0.5, 0.7, 0.8, 0.9):
        largest = found.header.graph.macs_per_call if decision == "argmax" else found.header.graph.macs.max()
        assert abs(1 - found.at(ratio).kept - ratio) <= largest / found.header.graph.macs_per_call / found.header.calls


def test_the_shipped_gallery_is_whole_and_drawn_by_the_model_that_is_here():
    assert gallery.check(gallery.FOLDER, catalogue.revision("emoji-unet")) == gallery.Checked(usable=True)
    table = json.loads((gallery.FOLDER / gallery.TABLE).read_text(encoding="utf-8"))
    scenes = [(scene["prompt"], scene["seed"]) for scene in table["scenes"]]
    assert scenes == [tuple(pair) for pair in showcase.scenes()] and len({prompt for prompt, _ in scenes}) >= 12
    assert table["ratios"] == list(showcase.RATIOS) and list(table["methods"]) == list(showcase.METHODS)
    assert sum(file.stat().st_size for file in gallery.FOLDER.iterdir()) < 40e6
    stops = [stop for method in table["methods"].values() for stop in method["stops"] if stop]
    assert all(len(stop["each"]["ssim"]) == len(scenes) and stop["seconds"] > 0 for stop in stops)
