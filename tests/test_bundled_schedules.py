"""The bundled schedules and the bundled gallery: which file answers a request, and what is refused."""

import json

import numpy as np
import pytest

from explorer.bundled import gallery
from explorer.bundled import masks as bundled
from explorer.bundled.gallery import GalleryCheck, check_gallery
from explorer.experiment import prune
from explorer.masks.block_graph import Extrapolation
from explorer.masks.result import load
from explorer.models import catalogue
from explorer.models.prompts import split, training_names
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from explorer.pruners.objective import Objective
from explorer.studies.galleries import GALLERIES
from explorer.studies.gallery_render import TUNING_IMAGES, TUNING_SEED

pytestmark = pytest.mark.slow

# of GALLERIES, those that are in assets/: `precompute gallery` makes the others
PACKED = [name for name in GALLERIES if (gallery.GALLERIES / name / gallery.TABLE).is_file()]


@pytest.fixture
def model_id(sd_folder, tmp_path, monkeypatch):
    """Make a model that counts as embedded, with two files of one method and a damaged one."""
    model = catalogue.load(sd_folder)
    monkeypatch.setattr(bundled, "MODELS", (model.id,))
    monkeypatch.setattr(bundled, "SCHEDULES", tmp_path)
    (tmp_path / model.id).mkdir()
    for order in (0, 1):
        config = method_config("uniform", {"steps": 6, "order": order})
        run_to_completion(prune(model, "uniform", config)).save(tmp_path / model.id / f"uniform-{order}.safetensors")
    (tmp_path / model.id / "broken.safetensors").write_bytes(b"nothing")
    return model.id


def test_settings_choose_among_the_files_and_without_them_the_first_is_taken(model_id):
    assert bundled.learned_methods(model_id) == ["uniform"]
    assert bundled.find_schedule(model_id, "uniform", "ddim", 6, {"order": 1}).header.order == 1
    assert bundled.find_schedule(model_id, "uniform", "ddim", 6, {}).header.order == 0


def test_missing_schedule_is_refused_with_the_available_ones(model_id):
    with pytest.raises(ValueError, match="learned for ddim 6 steps, not for ddim 50"):
        bundled.find_schedule(model_id, "uniform", "ddim", 50, {})
    with pytest.raises(ValueError, match="no file of dipgo for tiny-sd"):
        bundled.find_schedule(model_id, "dipgo", "ddim", 6, {})
    assert bundled.learned_methods("sd15") == []


def test_removal_ratio_is_the_ratio_at_which_a_unit_is_removed(sd_folder):
    model = catalogue.load(sd_folder)
    importance = run_to_completion(prune(model, "random", method_config("random", {"steps": 6})))
    removal_ratio = importance.removal_ratio
    assert (removal_ratio[0] == 1).all() and removal_ratio.min() > 0
    for ratio in (0.2, 0.5, 0.7):
        mask = importance.at(ratio)
        assert np.array_equal(mask.keep, removal_ratio > 1 - mask.macs_fraction + 1e-12)


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 50), ("ddim", 25), ("dpm++", 20), ("pndm", 50)])
@pytest.mark.parametrize("algorithm", ["nested", "argmax"])
def test_dipgo_files_cover_four_trajectories_and_both_algorithms(sampler, steps, algorithm):
    importance = bundled.find_schedule("emoji-unet", "dipgo", sampler, steps, {"algorithm": algorithm})
    assert importance.header.model.revision == catalogue.weights_revision("emoji-unet")
    graph = importance.header.graph
    largest = graph.macs_per_call if algorithm == "argmax" else graph.macs.max()
    for ratio in (0.5, 0.7, 0.8, 0.9):
        reached = 1 - importance.at(ratio).macs_fraction
        assert abs(reached - ratio) <= largest / graph.macs_per_call / importance.header.calls


PLANNED = sorted(bundled.SCHEDULES.glob("*/planned-*.safetensors"))


@pytest.mark.parametrize("file", PLANNED, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_planned_files_skip_whole_calls_and_have_coefficients_of_these_weights(file):
    importance = load(file)
    header = importance.header
    assert header.model.revision == catalogue.weights_revision(header.model.id) and header.is_learned
    found = bundled.find_schedule(header.model.id, "planned", header.sampler, header.steps, {})
    assert (np.ptp(found.rank, axis=1) == len(header.units) - 1).all()  # one call after the other
    for ratio in (0.3, 0.5, 0.7):
        mask = found.at(ratio)
        assert mask.coefficients.any()
        assert np.abs(mask.coefficients).max() < 100  # what was fitted is no difference of large numbers


def test_bundled_coefficients_bring_pictures_nearer_to_the_full_run():
    model, found = catalogue.load("emoji-flux"), bundled.find_schedule("emoji-flux", "planned", "euler", 20, {})
    names = split(training_names("emoji-flux"), "evaluation")[:4]
    objective = Objective(model, names, "euler", 20, 3.5)
    for ratio in (0.5, 0.8):
        mask = found.at(ratio)
        plain = mask.with_extrapolation(Extrapolation.of(mask.header))
        assert objective.fidelity(mask) > objective.fidelity(plain) + 2  # dB


@pytest.mark.parametrize("model_id", PACKED)
def test_bundled_gallery_is_complete_and_matches_the_bundled_model(model_id):
    folder, planned = gallery.GALLERIES / model_id, GALLERIES[model_id]
    assert check_gallery(folder, catalogue.weights_revision(model_id)) == GalleryCheck(usable=True)
    table = json.loads((folder / gallery.TABLE).read_text(encoding="utf-8"))
    samples = [(sample["prompt"], sample["seed"]) for sample in table["samples"]]
    assert table["model"] == model_id and samples == [tuple(sample) for sample in planned.samples]
    assert table["ratios"] == list(planned.ratios) and list(table["methods"]) == list(planned.methods)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 40e6
    results = [result for method in table["methods"].values() for result in method["results"] if result]
    assert all(len(result["each"]["ssim"]) == len(samples) and result["seconds"] > 0 for result in results)


def test_every_embedded_model_but_one_has_a_gallery_that_was_not_tuned_on_its_scenes():
    assert set(GALLERIES) | {"emoji-flux-turbo"} == set(catalogue.EMBEDDED)  # whose four calls are drawn at once
    for model_id in ("emoji-dit", "emoji-ddpm"):  # some of the U-Net's scenes are names for tuning
        searched = split(training_names(model_id), "search")
        tuning_seeds = {*range(TUNING_SEED, TUNING_SEED + TUNING_IMAGES), *range(16)}
        for prompt, seed in GALLERIES[model_id].samples:
            assert prompt not in searched if prompt else seed not in tuning_seeds


@pytest.mark.parametrize("model_id", PACKED)
def test_a_model_opens_with_a_result_of_its_gallery(model_id):
    values = gallery.opening_values(model_id)
    table = json.loads((gallery.GALLERIES / model_id / gallery.TABLE).read_text(encoding="utf-8"))
    index, sample = table["ratios"].index(values["ratio"]), table["samples"][0]
    assert values["seed"] == sample["seed"] and values.get("prompt", "") == sample["prompt"]
    own = [one for one in table["methods"].values() if one["method"] == values["method"] and one["results"][index]]
    psnr = max(one["results"][index]["means"]["psnr"][0] for one in own)
    rivals = [one["results"][index] for one in table["methods"].values() if one["results"][index]]
    assert psnr == max(result["means"]["psnr"][0] for result in rivals) >= gallery.CLOSE_DB
    assert gallery.opening_values(model_id, 0.41)["ratio"] == 0.4


def test_no_other_model_has_a_gallery():
    assert gallery.opening_values("sd15") == gallery.opening_values("../gallery/emoji-unet") == {}
