"""Schedules that others have published, written here as they write them, and files that only look like them."""

import argparse
import json
import os
import pickle

import numpy as np
import pytest
import torch
from DeepCache import DeepCacheSDHelper

import explorer
from explorer.bundled.masks import schedule_headers
from explorer.masks.schedule import load_schedule
from explorer.models import catalogue
from explorer.pruners import method_title
from explorer.pruners.ecodiff_checkpoint import _read_logits
from explorer.pruners.published import read_published

BLOCKS = [*(("down", number) for number in range(4)), ("mid", 0), *(("up", 3 - number) for number in range(4))]


@pytest.fixture(scope="module")
def sd15():
    return catalogue.load("sd15", weights=False)


@pytest.fixture(scope="module")
def dit():
    return catalogue.load("dit-xl-2-256", weights=False)


@pytest.fixture(scope="module")
def emoji_unet():
    return catalogue.load("emoji-unet")


def gates(keep):
    """Write gates as DiP-GO's code does: per call, (kind, "block", number, 0) -> two logits."""
    return [
        {(kind, "block", number, 0): torch.tensor([0.0, 1.0] if bit else [1.0, 0.0]) for (kind, number), bit in row}
        for row in (list(zip(BLOCKS, call, strict=True)) for call in keep)
    ]


def test_gates_of_dipgo_are_a_schedule_of_stages(tmp_path, sd15, run):
    keep = np.zeros((50, 9), dtype=bool)
    keep[[0, 7, 13, 19, 20, 21, 26, 32, 39, 48]] = True  # as released, but for one deviation
    (tmp_path / "gates.pkl").write_bytes(pickle.dumps(gates(keep)))
    code, out, _ = run("import", tmp_path / "gates.pkl", "--model", "sd15", "--out", tmp_path / "mask.safetensors")
    mask = load_schedule(tmp_path / "mask.safetensors")
    assert code == 0 and "20.0%" in out and np.array_equal(mask.keep, keep)
    assert mask.header.pruner.name == "dipgo (published)" and (mask.header.sampler, mask.header.steps) == ("ddim", 50)
    assert mask.macs_fraction == pytest.approx(3.38 / 16.94, rel=0.01)  # DiP-GO, table 1


def test_gates_are_in_running_order(tmp_path, sd15):
    keep = np.ones((3, 9), dtype=bool)
    keep[1, :8] = False  # only the last up block, up_blocks.3, and what it reads: they number it 0
    (tmp_path / "gates.pkl").write_bytes(pickle.dumps(gates(keep)))
    read = read_published(tmp_path / "gates.pkl", sd15)
    names = np.array(read.header.graph.names)
    assert list(names[read.keep[1]]) == ["up_blocks.3"]


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize("content", [Evil(), [{("down", "block", 0, 0): Evil()}], np.zeros(3)])
def test_a_pickle_with_any_other_name_is_refused_and_nothing_runs(content, tmp_path, sd15, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gates.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"the file asks for \w+[.\w]*, which gates do not need; it is not read"):
        read_published(tmp_path / "gates.pkl", sd15)
    assert not (tmp_path / "evil").exists()


def rows(dit, calls=4):
    keep = np.random.default_rng(0).random((calls, 56)) < 0.5
    keep[0] = True
    return keep


def test_smoothcache_has_a_row_for_each_module_or_for_all_of_a_kind(tmp_path, dit):
    keep = rows(dit)
    names = [f"{kind}-{block}" for block in range(28) for kind in ("attn", "mlp")]
    own = {name: keep[:, column].astype(int).tolist() for column, name in enumerate(names)}
    (tmp_path / "own.json").write_text(json.dumps(own))
    read = read_published(tmp_path / "own.json", dit)
    assert np.array_equal(read.keep, keep) and read.header.granularity == "module"
    (tmp_path / "kinds.json").write_text(json.dumps({"attn": [1, 0, 1, 0], "mlp": [1, 0, 0, 1]}))
    kinds = read_published(tmp_path / "kinds.json", dit).keep
    assert kinds[:, ::2].all(axis=1).tolist() == [True, False, True, False]
    assert kinds[:, 1::2].all(axis=1).tolist() == [True, False, False, True]
    (tmp_path / "attention.json").write_text(json.dumps({"attn1": [1, 0, 1, 0]}))
    attention = read_published(tmp_path / "attention.json", dit).keep
    assert attention[:, 1::2].all() and attention[:, ::2].any(axis=1).tolist() == [True, False, True, False]


def test_routers_are_those_of_every_second_call_the_last_one_first(tmp_path, dit):
    keep = rows(dit)
    keep[2] = True
    logits = torch.where(torch.from_numpy(keep), 2.0, -4.0).requires_grad_()
    routers = {f"{index}.prob": logits[len(keep) - 1 - index] for index in range(len(keep))}
    torch.save({"routers": routers, "args": argparse.Namespace(l1=1e-6)}, tmp_path / "router.pt")
    assert np.array_equal(read_published(tmp_path / "router.pt", dit).keep, keep)


BAD = {
    "empty.pkl": b"",
    "text.pkl": b"# a README",
    "none.json": b"[]",
    "deep.json": b"[" * 50_000,
    "strange.json": b'{"attn": [1, 0, 2]}',
    "other.json": b'{"conv-3": [1, 0]}',
    "uneven.json": b'{"attn": [1, 0], "mlp": [1]}',
    "skipped.json": b'{"attn": [0, 1], "mlp": [1, 1]}',
    "archive.pt": b"PK\x03\x04 and no more",
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_only_looks_like_one_is_one_sentence(name, tmp_path, dit):
    (tmp_path / name).write_bytes(BAD[name])
    with pytest.raises(ValueError) as caught:
        read_published(tmp_path / name, dit)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def deepcache_of_its_package(pipe, interval, branch):
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    try:
        return pipe("dog", num_inference_steps=7, generator=torch.Generator().manual_seed(3), output_type="np").images
    finally:
        helper.disable()


@pytest.mark.parametrize(("interval", "branch"), [(2, 0), (3, 1), (3, 2), (3, 3), (4, 5), (4, 6), (6, 10)])
def test_parameters_of_deepcache_draw_what_its_package_draws(interval, branch, tmp_path, emoji_unet):
    params = {"cache_interval": interval, "cache_branch_id": branch, "skip_mode": "uniform"}
    (tmp_path / "params.json").write_text(json.dumps(params))
    mask = read_published(tmp_path / "params.json", emoji_unet, steps=7)
    pipe = emoji_unet.pipe
    with explorer.apply(pipe, mask):
        generator = torch.Generator().manual_seed(3)
        ours = pipe("dog", num_inference_steps=7, generator=generator, output_type="np").images
    assert mask.header.pruner.name == "deepcache (published)" and mask.header.granularity == "layer"
    assert np.array_equal(ours, deepcache_of_its_package(pipe, interval, branch))


BAD_PARAMS = {
    "branch": ({"cache_interval": 2, "cache_branch_id": 12}, "needs 5 up blocks, and this model has 4"),
    "last": ({"cache_interval": 2, "cache_branch_id": 11}, "branch may be at most"),
    "interval": ({"cache_interval": 0}, "cache_interval must be at least 1"),
    "mode": ({"cache_interval": 2, "skip_mode": "quad"}, "skip_mode must be 'uniform'"),
    "other": ({"cache_interval": 2, "seed": 3}, "seed"),
}


@pytest.mark.parametrize("case", BAD_PARAMS)
def test_parameters_that_deepcache_does_not_take_are_one_sentence(case, tmp_path, sd15):
    document, sentence = BAD_PARAMS[case]
    (tmp_path / "params.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=sentence) as caught:
        read_published(tmp_path / "params.json", sd15)
    assert "\n" not in str(caught.value) and "DeepCache" in str(caught.value)


def test_deepcache_is_for_u_nets_and_any_number_of_steps(tmp_path, dit, run):
    (tmp_path / "params.json").write_text('{"cache_interval": 5}')
    with pytest.raises(ValueError, match="needs 1 up blocks, and this model has 0"):
        read_published(tmp_path / "params.json", dit)
    out = tmp_path / "mask.safetensors"
    assert run("import", tmp_path / "params.json", "--model", "sd15", "--steps", 25, "--out", out)[0] == 0
    mask = load_schedule(out)
    assert mask.header.steps == 25 and mask.keep.all(axis=1).tolist() == [call % 5 == 0 for call in range(25)]


def test_what_smoothcache_published_comes_with_the_project_under_its_name():
    (path, header), *others = schedule_headers("dit-xl-2-256").items()
    assert not others and method_title(header.pruner.name) == "SmoothCache (published)"
    assert load_schedule(path).macs_fraction == pytest.approx(0.480, abs=0.001)


def test_a_schedule_of_another_model_or_no_file_is_one_sentence(tmp_path, dit, sd15):
    (tmp_path / "gates.pkl").write_bytes(pickle.dumps(gates(np.ones((3, 9), dtype=bool))))
    with pytest.raises(ValueError, match="has 9 units, and dit-xl-2-256 has 28; it was made for another model"):
        read_published(tmp_path / "gates.pkl", dit)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_published(tmp_path / "nothing.pkl", sd15)


def test_smoothcache_is_for_transformers_and_no_schedule_has_too_many_calls(tmp_path, dit, sd15):
    (tmp_path / "kinds.json").write_text(json.dumps({"attn": [1, 0], "mlp": [1, 0]}))
    with pytest.raises(ValueError, match="is for a transformer whose blocks have one stream, which sd15 is not"):
        read_published(tmp_path / "kinds.json", sd15)
    (tmp_path / "long.json").write_text(json.dumps({"attn": [1] * 1001}))
    with pytest.raises(ValueError, match="has 1,001 calls; a schedule has at most 1,000"):
        read_published(tmp_path / "long.json", dit)


def test_logits_of_ecodiff_that_still_have_gradients_are_read(tmp_path):
    torch.save([torch.nn.Parameter(torch.ones(3))], tmp_path / "attn.pt")
    [logits] = _read_logits(tmp_path / "attn.pt", [3])
    assert logits.tolist() == [1, 1, 1]
