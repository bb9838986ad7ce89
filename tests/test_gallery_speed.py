"""Speeds of a gallery are measured in place: medians with their spread, beside the full run; nothing else changes."""

import json
import shutil

from explorer.bundled import gallery
from explorer.experiment import load_cached
from explorer.progress import run_to_completion
from explorer.studies.gallery_speed import measure_speeds


def test_speeds_are_measured_into_a_table_and_its_manifest(tmp_path):
    folder = tmp_path / "emoji-dit"
    shutil.copytree(gallery.GALLERIES / "emoji-dit", folder)
    table = json.loads((folder / gallery.TABLE).read_text())
    for method in table["methods"].values():
        method["results"] = method["results"][-1:]  # the fastest
    (folder / gallery.TABLE).write_text(json.dumps(table))
    run_to_completion(measure_speeds(load_cached("emoji-dit"), folder, rounds=2))
    after = json.loads((folder / gallery.TABLE).read_text())
    timed = [one for method in after["methods"].values() for one in method["results"] if one]
    assert any("keep" in one for one in timed) and after["original"]["seconds"] > 0
    for result in timed:
        median, low, high = result["speedup"]
        assert 0 < low <= median <= high and result["seconds"] > 0
        assert not {"all_seconds", "all_speedups"} & {*result}
    assert gallery.check_gallery(folder).warnings == ()
