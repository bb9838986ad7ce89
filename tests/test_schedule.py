import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from explorer.masks.block_graph import BlockGraph, Extrapolation, Unit
from explorer.masks.file_format import ModelRecord, PrunerRecord
from explorer.masks.result import load
from explorer.masks.schedule import Schedule, ScheduleHeader, ScheduleImportance, load_schedule_header, new_header
from explorer.pruners.schedule_configs import ScheduleConfig

CALLS = 6


def chain(macs=(10, 20, 30), fixed=5):
    reads = [(), (0,), (1,)]
    units = [
        Unit(name=f"block.{i}", kind="stream", reuse="output", macs=m, reads=r)
        for i, (m, r) in enumerate(zip(macs, reads, strict=True))
    ]
    return BlockGraph(units, "layer", fixed)


def header(graph, kind="importance"):
    record = ModelRecord(id="me/tiny", revision=None, denoiser="UNet2DModel", dtype="float32")
    pruner = PrunerRecord(name="random", config={})
    return new_header(record, graph, ScheduleConfig(steps=CALLS), pruner, CALLS).model_copy(update={"kind": kind})


@pytest.fixture
def importance():
    graph = chain()
    score = np.random.default_rng(0).random((CALLS, 3)).astype(np.float32)
    return ScheduleImportance(header(graph), graph.removal_order(score), score)


def test_masks_are_nested_and_nearest_to_the_ratio(importance):
    graph, total = importance.header.graph, 65 * CALLS
    reachable = [1 - graph.cost(importance.rank >= k).sum() / total for k in range((CALLS - 1) * 3 + 1)]
    assert importance.saved_macs == pytest.approx(reachable)
    before = np.ones((CALLS, 3), dtype=bool)
    for ratio in np.linspace(0, importance.header.max_ratio, 41):
        mask = importance.at(ratio)
        assert not (mask.keep & ~before).any()  # nested
        assert abs(1 - mask.macs_fraction - ratio) == pytest.approx(np.abs(np.array(reachable) - ratio).min())
        assert mask.header.ratio.reached == pytest.approx(1 - mask.macs_fraction)
        before = mask.keep
    assert before[0].all() and not before[1:].any()


def test_with_extrapolation_keeps_the_decisions_and_records_the_order(importance, tmp_path):
    other = importance.at(0.5).with_extrapolation(Extrapolation(2))
    other.save(tmp_path / "m.safetensors")
    again = Schedule.load(tmp_path / "m.safetensors")
    assert again.header.order == again.header.pruner.config["order"] == 2 and importance.at(0.5).header.order == 0
    assert np.array_equal(again.keep, importance.at(0.5).keep)


def test_a_call_in_which_nothing_runs_costs_nothing():
    graph = chain()
    keep = np.array([[True] * 3, [False, False, True], [False] * 3])
    assert graph.cost(keep).tolist() == [65, 35, 0]


@pytest.mark.parametrize("ratio", [-0.1, 0.9, 1.0, float("nan"), float("inf")])
def test_a_ratio_out_of_range_is_refused_with_the_largest(importance, ratio):
    with pytest.raises(ValueError, match=r"between 0 and 0\.8333 \(the largest possible here\)"):
        importance.at(ratio)


def test_files_round_trip(importance, tmp_path):
    importance.save(tmp_path / "i.safetensors")
    again = ScheduleImportance.load(tmp_path / "i.safetensors")
    assert again.header == importance.header
    assert np.array_equal(again.rank, importance.rank) and np.array_equal(again.score, importance.score)
    mask = importance.at(0.4)
    mask.save(tmp_path / "m.safetensors")
    assert Schedule.load(tmp_path / "m.safetensors").header == mask.header
    assert np.array_equal(Schedule.load(tmp_path / "m.safetensors").keep, mask.keep)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i.safetensors", "m.safetensors"]


def test_the_header_has_exactly_the_keys_of_the_format(importance, tmp_path):
    importance.save(tmp_path / "i.safetensors")
    keys = (
        "format kind model sampler calls steps guidance granularity order max_extrapolation units macs_fixed max_ratio"
    )
    document = json.loads(load_schedule_header(tmp_path / "i.safetensors").model_dump_json())
    assert set(document) == set(keys.split()) | {"pruner", "ratio", "seed", "versions", "created"}
    assert set(document["units"][0]) == {"name", "kind", "reuse", "macs", "reads"}
    assert set(document["ratio"]) == {"asked", "reached", "of"}
    assert set(document["model"]) == {"id", "revision", "denoiser", "dtype"}


def rewritten(path, importance, change=None, tensors=None, metadata=None):
    """Write the importance's file with an error in it."""
    importance.save(path)
    document = json.loads(load_schedule_header(path).model_dump_json()) | (change or {})
    save_file(
        tensors or load_file(path), path, metadata={"explorer": json.dumps(document)} if metadata is None else metadata
    )
    return path


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": 3}, "format"),
        ({"surprise": 1}, "surprise"),
        ({"calls": 10**6}, "calls"),
        ({"guidance": float("nan")}, "guidance"),
        ({"order": 3}, "order"),
        ({"model": {"id": "../etc/passwd", "revision": None, "denoiser": "x", "dtype": "x"}}, "model.id"),
        ({"units": []}, "units"),
        ({"calls": 7}, "rank and score must be"),
        ({"kind": "mask"}, "a schedule's mask holds"),
        (
            {"units": [{"name": "a", "kind": "stream", "reuse": "output", "macs": 1, "reads": [0]}] * 3},
            "unit a reads",
        ),
        (
            {"units": [{"name": "a", "kind": "stream", "reuse": "output", "macs": 1, "reads": [], "modules": ["x"]}]},
            "modules",
        ),
    ],
)
def test_a_header_that_is_wrong_is_refused_by_name(importance, tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(rewritten(tmp_path / "f.safetensors", importance, change))
    assert "\n" not in str(caught.value)


def test_tensors_that_are_wrong_are_refused(importance, tmp_path):
    rank, score = importance.rank, importance.score
    swapped = rank.copy()
    swapped[0, 0], swapped[1, 0] = rank[1, 0], rank[0, 0]
    cases = {
        "is not an order": {"rank/schedule": np.zeros_like(rank), "score/schedule": score},
        "removes call 0": {"rank/schedule": swapped, "score/schedule": score},
        "not finite": {"rank/schedule": rank, "score/schedule": np.full_like(score, np.nan)},
        "must be int32": {"rank/schedule": rank.astype(np.int64), "score/schedule": score},
        "holds": {"rank/schedule": rank},
    }
    for message, tensors in cases.items():
        with pytest.raises(ValueError, match=message):
            load(rewritten(tmp_path / "f.safetensors", importance, tensors=tensors))


def test_importance_with_an_open_prefix_is_refused_on_use(importance):
    graph = importance.header.graph
    rank = np.arange(CALLS * 3, dtype=np.int32).reshape(CALLS, 3)[::-1, ::-1].copy()  # call 0 last, downstream first
    broken = ScheduleImportance(importance.header, rank, importance.score)
    assert graph.units[1].reads == (0,)
    with pytest.raises(ValueError, match="which no unit reads; close the schedule first"):
        broken.at(0.1)


def test_files_that_are_no_masks_are_refused(importance, tmp_path):
    path = tmp_path / "f.safetensors"
    with pytest.raises(ValueError, match="does not exist"):
        load(path)
    path.write_bytes(b"not a safetensors file at all")
    with pytest.raises(ValueError, match="damaged or no safetensors"):
        load(path)
    importance.save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="damaged or no safetensors"):
        load(path)
    with pytest.raises(ValueError, match="lacks the key 'explorer'"):
        load(rewritten(path, importance, metadata={"other": "x"}))
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(ValueError, match="larger than 64 MB"):
        load(path)


def test_a_mask_must_be_a_closed_schedule():
    graph = chain()
    keep = np.ones((CALLS, 3), dtype=bool)
    first = keep.copy()
    first[0, 1] = False
    open_ = keep.copy()
    open_[2, 2] = False
    for table, message in ((first, "row 0"), (open_, "call 2 computes block.0"), (keep[1:], "must be bool")):
        with pytest.raises(ValueError, match=message):
            Schedule(header(graph, "mask"), table)


def test_the_first_difference_to_a_model_is_named(importance):
    units = importance.header.units
    other = units[1].model_copy(update={"name": "other"})
    for arguments, message in [
        (("you/other", "UNet2DModel", CALLS, units), "for the model me/tiny, not you/other"),
        (("me/tiny", "DiTTransformer2DModel", CALLS, units), "for a UNet2DModel"),
        (("me/tiny", "UNet2DModel", 25, units), r"schedules 6 calls \(ddim, 6 steps\), the sampler at hand makes 25"),
        (("me/tiny", "UNet2DModel", CALLS, (units[0], other, units[2])), "unit 1 is block.1 in this file, other in"),
        (("me/tiny", "UNet2DModel", CALLS, units[:2]), "3 units, the model 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            importance.header.check_compatible(*arguments)
    importance.header.check_compatible("me/tiny", "UNet2DModel", CALLS, units)


def test_unwritable_file_is_one_sentence(importance, tmp_path):
    with pytest.raises(ValueError, match="cannot be written"):
        importance.save(tmp_path / "no" / "where.safetensors")


def test_importing_masks_loads_no_torch():
    import subprocess
    import sys

    code = "import sys, explorer.masks.result, explorer.pruners, explorer.experiment; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_header_is_frozen(importance):
    with pytest.raises(ValueError, match="frozen"):
        importance.header.calls = 3
    assert isinstance(importance.header, ScheduleHeader)
