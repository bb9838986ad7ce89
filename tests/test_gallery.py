"""The gallery: drawn once, packed without loss, and what is amiss is said."""

import json
from datetime import datetime, timezone

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from explorer import catalogue, gallery
from explorer.evidence import packing, showcase
from explorer.evidence.evaluation import Full, album_files
from explorer.evidence.results import read
from explorer.letters import unpacked
from explorer.masks import Mask
from explorer.work import finished

NAMES = ("uniform", "random", "ddim-steps")
STOPS = (0.25, 0.5, 0.95)


@pytest.fixture(scope="module")
def made(sd_folder, tmp_path_factory):
    """(model, what was drawn, what was packed) of a small gallery on a tiny model."""
    patch = pytest.MonkeyPatch()
    for module in (showcase, packing):
        patch.setattr(module, "FULL", Full("ddim", 8))
        patch.setattr(module, "RATIOS", STOPS)
        patch.setattr(module, "METHODS", {name: showcase.METHODS[name] for name in NAMES})
    patch.setattr(showcase, "PROMPTS", ("dog", "cat", "owl"))
    patch.setattr(showcase, "chosen", lambda model, purpose: ["fox"])
    model, folder = catalogue.load(sd_folder), tmp_path_factory.mktemp("gallery")
    finished(showcase.drawn(model, folder / "drawn"))
    packing.pack(model, folder / "drawn", folder / "packed")
    yield model, folder / "drawn", folder / "packed"
    patch.undo()


def table_of(packed):
    return json.loads((packed / gallery.TABLE).read_text())


def test_a_stop_holds_the_schedule_and_the_numbers_of_what_was_drawn(made):
    model, drawn, packed = made
    table = table_of(packed)
    assert [scene["prompt"] for scene in table["scenes"]] == ["dog", "dog", "cat", "cat", "owl", "owl"]
    rows = read(drawn / "0.5.parquet")[1]
    stop = table["methods"]["random"]["stops"][1]
    own = rows[rows.method == "random"].set_index(["prompt", "seed"]).loc[showcase.scenes()]
    assert stop["each"]["ssim"] == pytest.approx(own.ssim.to_list(), rel=1e-4)
    assert stop["means"]["ssim"][0] == pytest.approx(own.ssim.mean(), rel=1e-4)
    assert stop["means"]["ssim"][1] <= stop["means"]["ssim"][0] <= stop["means"]["ssim"][2]
    units = table["graphs"]["layer"]["units"]
    mask = Mask.load(drawn / "0.5-random.safetensors")
    assert np.array_equal(unpacked(stop["keep"], (8, len(units))), mask.keep)
    assert stop["kept"] == pytest.approx(mask.kept)
    assert table["first"][1]["over"] != table["first"][1]["method"] and table["first"][1]["n"] == 6


def test_who_cannot_stand_at_a_ratio_is_left_out_there(made):
    table = table_of(made[2])
    assert table["methods"]["uniform"]["stops"][2] is None  # 1 of 8 calls is the fewest
    assert table["methods"]["ddim-steps"]["stops"][1]["steps"] == 4 and "keep" not in table["methods"]["ddim-steps"]


def test_a_strip_holds_the_very_pixels_that_were_drawn(made):
    _, drawn, packed = made
    key = json.loads((drawn / "0.5.json").read_text())["random"]
    pictures = np.concatenate([load_file(file)["pictures"] for file in album_files(drawn / "album", key)])
    for number, picture in enumerate(pictures):
        strip = np.array(Image.open(packed / f"{number:02}-random.webp"))
        width = picture.shape[1]
        tiles = strip.reshape(len(strip), len(STOPS), width, 3).cumsum(axis=1, dtype=np.uint8)
        assert np.array_equal(tiles[:, 1], picture)


def test_what_is_drawn_is_not_drawn_again(made, monkeypatch):
    model, drawn, _ = made
    monkeypatch.setattr(showcase, "evaluate", None)
    before = {file: file.stat().st_mtime_ns for file in drawn.rglob("*")}
    finished(showcase.drawn(model, drawn))
    assert {file: file.stat().st_mtime_ns for file in drawn.rglob("*")} == before


def test_a_sound_gallery_is_usable_and_says_nothing(made):
    model, _, packed = made
    assert gallery.check(packed, model.revision) == gallery.Checked(usable=True)


def test_what_is_amiss_is_named_and_the_rest_works(made, tmp_path):
    packed = tmp_path / "packed"
    packed.mkdir()
    for file in made[2].iterdir():
        (packed / file.name).write_bytes(file.read_bytes())
    (packed / "00-random.webp").unlink()
    (packed / "01-random.webp").write_bytes(b"other")
    found = gallery.check(packed, "another")
    assert found.usable and set(found.missing) == {"00-random.webp", "01-random.webp"}
    assert "lacks 1" in found.said[0] and "00-random.webp" in found.said[0]
    assert "01-random.webp" in found.said[1] and "other weights" in found.said[2]
    (packed / gallery.TABLE).unlink()
    assert not gallery.check(packed).usable
    (packed / gallery.MANIFEST).write_text("{}")
    assert not gallery.check(packed).usable and "damaged" in gallery.check(packed).said[0]
    assert "no gallery" in gallery.check(tmp_path / "nowhere").said[0]


def test_a_manifest_says_with_what_it_was_made(made):
    manifest = gallery.Manifest.model_validate_json((made[2] / gallery.MANIFEST).read_bytes())
    assert manifest.model == made[0].record and {"torch", "diffusers"} <= set(manifest.versions)
    assert manifest.created <= datetime.now(timezone.utc)
