"""Decisions of bundled files and costs of models, as recorded in version 0.1: bundled files stay format 1, and
are read through `masks.format_1`."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from explorer.masks.result import Importance, load
from explorer.models import catalogue

pytestmark = pytest.mark.slow

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())
ASSETS = Path(__file__).parent.parent / "assets"
RATIOS = np.arange(1, 20) / 20


def digest(content):
    return sha256(content).hexdigest()[:16]


def decisions(mask):
    keep = mask.keep if isinstance(mask.keep, dict) else {"": mask.keep}
    return digest(b"".join(np.packbits(keep[name]).tobytes() for name in sorted(keep)))


def file_format(file):
    with safe_open(file, "numpy") as opened:
        return json.loads(opened.metadata()["explorer"])["format"]


def test_every_bundled_file_of_format_1_is_recorded():
    files = [file for folder in ("schedules", "widths") for file in (ASSETS / folder).rglob("*.safetensors")]
    old = {str(file.relative_to(ASSETS)) for file in files if file_format(file) == 1}
    assert old == set(RECORDED["files"])


@pytest.mark.parametrize("name", RECORDED["files"])
def test_a_file_of_format_1_decides_as_recorded(name):
    recorded, importance = RECORDED["files"][name], Importance.load(ASSETS / name)
    assert file_format(ASSETS / name) == 1
    assert importance.max_ratio == recorded["max_ratio"] and importance.header.format == 2
    masks = [importance.at(ratio) if ratio <= importance.max_ratio else None for ratio in RATIOS]
    assert [mask and decisions(mask) for mask in masks] == recorded["decisions"]
    fractions = {"schedule": ("macs_fraction",), "widths": ("params_fraction", "macs_fraction")}[importance.prunes]
    assert [mask and [getattr(mask, name) for name in fractions] for mask in masks] == recorded["fractions"]


@pytest.mark.parametrize("name", RECORDED["files"])
def test_a_file_of_format_1_is_written_as_format_2_and_decides_the_same(name, tmp_path):
    importance = load(ASSETS / name)
    importance.save(tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["explorer"])["format"] == 2
    ratio = min(0.5, importance.max_ratio)
    assert decisions(load(tmp_path / "new.safetensors").at(ratio)) == decisions(importance.at(ratio))


@pytest.mark.parametrize("model", sorted({name.split("/")[0] for name in RECORDED["models"]}))
def test_a_model_costs_as_recorded(model):
    skeleton = catalogue.load(model, weights=False)
    for granularity in ("stage", "layer", "module"):
        architecture = skeleton.architecture(granularity)
        graph = architecture.graph
        units = [[unit.name, unit.kind, unit.reuse, unit.macs, list(unit.reads)] for unit in graph.units]
        assert RECORDED["models"][f"{model}/{granularity}"] == {
            "macs": graph.macs_per_call,
            "macs_attention": architecture.macs_attention,
            "params": architecture.params,
            "macs_fixed": graph.macs_fixed,
            "units": digest(json.dumps(units).encode()),
            "unit_params": digest(json.dumps(architecture.unit_params).encode()),
            "num_units": len(graph.units),
        }
