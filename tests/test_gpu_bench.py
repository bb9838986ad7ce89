"""The script that is run where there is a GPU: its parts run, shrunk, on the CPU."""

import json

import pytest
import torch

from tests.bench import gpu

pytestmark = pytest.mark.slow
SCHEDULES = {  # that a part times: whole calls only as one graph, and no DeepCache without a U-Net
    **dict.fromkeys(["sd15, batch 1", "sdxl, batch 1", "sd15, batch 1, compiled"], 5),
    "flux-dev, a third of the blocks": 4,
    "sd15, batch 1, one graph": 2,
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the parts have their full size; run the script itself")
@pytest.mark.parametrize("part", [*SCHEDULES, "learning", "DeepCache package, compiled", "training"])
def test_part_runs_on_the_cpu_and_its_rows_are_written(part, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "CALLS", 8)
    monkeypatch.setitem(gpu.PARTS, part, (5, *gpu.PARTS[part][1:]))
    gpu.main(str(tmp_path / "gpu.json"), part)
    (result,) = json.loads((tmp_path / "gpu.json").read_text())
    assert "failure" not in result and result["rows"]
    assert all(row.get("distance", 0) < 1e-3 for row in result["rows"])  # compiled or the package's: the same latents
    schedules = {
        row["schedule"].rpartition(",")[0] for row in result["rows"] if row.get("schedule", "plain") != "plain"
    }
    assert len(schedules) == SCHEDULES.get(part, 0)
