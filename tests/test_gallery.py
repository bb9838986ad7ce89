"""The gallery: rendered once, packed without loss, damaged files named."""

import json
from datetime import datetime, timezone

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from explorer.bundled import gallery
from explorer.bundled.gallery import GalleryCheck, check_gallery
from explorer.evaluation.candidates import ReferenceRun, Sample
from explorer.evaluation.evaluate import image_files
from explorer.evaluation.results import read_results
from explorer.experiment import ExperimentRequest, compare
from explorer.masks.block_graph import Extrapolation
from explorer.masks.encoding import decode_bits
from explorer.masks.schedule import Schedule
from explorer.models import catalogue
from explorer.progress import run_to_completion
from explorer.studies import gallery_pack, gallery_render
from explorer.studies.galleries import GALLERIES, Gallery

pytestmark = pytest.mark.slow

NAMES = ("uniform", "random", "ddim-steps")
RATIOS = (0.25, 0.5, 0.95)
UNET = gallery.GALLERIES / "emoji-unet"
# a small gallery with several settings of whole calls to choose from
TINY = Gallery(
    tuple(Sample(prompt, seed) for prompt in ("dog", "cat", "owl") for seed in (0, 1)),
    RATIOS,
    {name: GALLERIES["emoji-dit"].methods[name] for name in NAMES},
    ReferenceRun("ddim", 8),
)


@pytest.fixture(scope="module")
def made(sd_folder, tmp_path_factory):
    """Make a small gallery of a tiny model: (model, folder of rendered samples, folder of the packed gallery)."""
    patch = pytest.MonkeyPatch()
    patch.setattr(gallery_render, "TUNING_IMAGES", 2)
    patch.setattr(gallery_render, "split_names", lambda model, purpose: ["fox"])
    model, folder = catalogue.load(sd_folder), tmp_path_factory.mktemp("gallery")
    run_to_completion(gallery_render.render(model, TINY, folder / "rendered"))
    gallery_pack.pack(model, TINY, folder / "rendered", folder / "packed")
    yield model, folder / "rendered", folder / "packed"
    patch.undo()


def read_table(packed):
    return json.loads((packed / gallery.TABLE).read_text())


def test_a_result_holds_the_schedule_and_the_numbers_of_what_was_generated(made):
    _, rendered, packed = made
    table = read_table(packed)
    assert [sample["prompt"] for sample in table["samples"]] == ["dog", "dog", "cat", "cat", "owl", "owl"]
    rows = read_results(rendered / "0.5.parquet")[1]
    result = table["methods"]["random"]["results"][1]
    own = rows[rows.method == "random"].set_index(["prompt", "seed"]).loc[list(TINY.samples)]
    assert result["each"]["ssim"] == pytest.approx(own.ssim.to_list(), rel=1e-4)
    assert result["means"]["ssim"][0] == pytest.approx(own.ssim.mean(), rel=1e-4)
    assert result["means"]["ssim"][1] <= result["means"]["ssim"][0] <= result["means"]["ssim"][2]
    units = table["graphs"]["layer"]["units"]
    mask = Schedule.load(rendered / "0.5-random.safetensors")
    assert np.array_equal(decode_bits(result["keep"], (8, len(units))), mask.keep)
    assert result["kept"] == pytest.approx(mask.macs_fraction)
    leader = table["leaders"][1]
    assert leader["runner_up"] != leader["method"] and leader["n"] == 6


def test_a_packed_table_has_the_fields_of_the_committed_one(made):
    table, committed = read_table(made[2]), json.loads((UNET / gallery.TABLE).read_text(encoding="utf-8"))
    assert set(table) == set(committed)
    for name in NAMES:
        assert set(table["methods"][name]) - {"settings_at"} == set(committed["methods"][name])
    results = [one["methods"]["random"]["results"][1] for one in (table, committed)]
    assert set(results[0]) == set(results[1])
    assert set(table["leaders"][1]) == set(committed["leaders"][1])


def test_gallery_method_is_left_out_at_ratios_out_of_range(made):
    methods = read_table(made[2])["methods"]
    assert methods["uniform"]["results"][2] is None  # 1 of 8 calls is the fewest
    assert methods["ddim-steps"]["results"][1]["steps"] == 4 and "keep" not in methods["ddim-steps"]


def test_each_ratio_has_the_settings_that_end_nearest_on_pictures_for_tuning(made):
    _, rendered, packed = made
    rows = read_results(rendered / "tuning.parquet")[1]
    rows = rows[rows.method == "uniform"]
    assert set(rows.prompt) == {"fox"} and not {*rows.seed} & {sample.seed for sample in TINY.samples}
    means = rows[rows.ratio == 0.5].groupby("settings").psnr_box.mean()
    best = json.loads(json.loads(means.idxmax())["how"])
    method = read_table(packed)["methods"]["uniform"]
    assert method.get("settings_at", [method["settings"]] * 3)[1] == best
    header = Schedule.load(rendered / "0.5-uniform.safetensors").header
    assert Extrapolation.of(header) == (best["order"], best["max_extrapolation"])


def test_sprite_strip_holds_the_generated_pixels_exactly(made):
    _, rendered, packed = made
    key = json.loads((rendered / "0.5.json").read_text())["random"]
    files = image_files(gallery_render.image_dir(rendered), key)
    pictures = np.concatenate([load_file(file)["pictures"] for file in files])
    for number, picture in enumerate(pictures):
        strip = np.array(Image.open(packed / f"{number:02}-random.webp"))
        tiles = strip.reshape(len(strip), len(RATIOS), picture.shape[1], 3).cumsum(axis=1, dtype=np.uint8)
        assert np.array_equal(tiles[:, 1], picture)


def test_rendered_samples_are_not_rendered_again(made, monkeypatch):
    model, rendered, _ = made
    monkeypatch.setattr(gallery_render, "evaluate", None)
    before = {file: file.stat().st_mtime_ns for file in rendered.rglob("*")}
    run_to_completion(gallery_render.render(model, TINY, rendered))
    assert {file: file.stat().st_mtime_ns for file in rendered.rglob("*")} == before


def test_complete_gallery_is_usable_without_warnings(made):
    model, _, packed = made
    assert check_gallery(packed, model.revision) == GalleryCheck(usable=True)


def test_damaged_gallery_files_are_named_and_the_rest_works(made, tmp_path):
    packed = tmp_path / "packed"
    packed.mkdir()
    for file in made[2].iterdir():
        (packed / file.name).write_bytes(file.read_bytes())
    (packed / "00-random.webp").unlink()
    (packed / "01-random.webp").write_bytes(b"other")
    check = check_gallery(packed, "another")
    assert check.usable and set(check.missing) == {"00-random.webp", "01-random.webp"}
    assert "lacks 1" in check.warnings[0] and "00-random.webp" in check.warnings[0]
    assert "01-random.webp" in check.warnings[1] and "other weights" in check.warnings[2]
    (packed / gallery.TABLE).unlink()
    assert not check_gallery(packed).usable
    (packed / gallery.MANIFEST).write_text("{}")
    check = check_gallery(packed)
    assert not check.usable and "damaged" in check.warnings[0]
    assert "no gallery" in check_gallery(tmp_path / "nowhere").warnings[0]


def test_manifest_records_versions_and_hardware(made):
    manifest = gallery.Manifest.model_validate_json((made[2] / gallery.MANIFEST).read_bytes())
    assert manifest.model == made[0].record and {"torch", "diffusers"} <= set(manifest.versions)
    assert manifest.created <= datetime.now(timezone.utc)


def test_what_is_drawn_anew_has_the_numbers_of_the_gallery():
    table = json.loads((UNET / gallery.TABLE).read_text())
    index, sample = table["ratios"].index(0.9), next(one for one in table["samples"] if one["prompt"] == "octopus")
    each = table["methods"]["dipgo"]["results"][index]["each"]
    request = {"prompt": "octopus", "seed": sample["seed"], "method": "dipgo", "steps": table["steps"], "ratio": 0.9}
    ends = {frame.role: frame for frame in compare(ExperimentRequest(**request), with_baseline=False) if frame.done}
    place = table["samples"].index(sample)
    assert ends["pruned"].psnr == pytest.approx(each["psnr"][place], abs=0.01)
    assert ends["pruned"].ssim == pytest.approx(each["ssim"][place], abs=1e-3)
