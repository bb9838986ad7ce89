"""Published counts of real models, from their architectures alone."""

from pathlib import Path

import numpy as np
import pytest

from explorer.models import catalogue
from tests.tiny_transformers import TRANSFORMERS

MACS = {  # G per call -> (model, with the products inside attention, calls of a guided step)
    338.83: ("sd15", False, 1),  # DiP-GO, table 1
    760.8: ("sd21", False, 1),  # at 768 x 768
    2987: ("sdxl", False, 1),
    118.64: ("dit-xl-2-256", True, 1),  # Peebles & Xie 2023, table 4
    524.6: ("dit-xl-2-512", True, 1),
    223.81: ("bk-sdm-base", False, 1),  # Kim et al. 2024, as DeepCache's table 3 has them
    217.78: ("bk-sdm-small", False, 1),
    205.09: ("bk-sdm-tiny", False, 1),
    248.7: ("ddpm-church", False, 1),  # Fang et al. 2023
    4280: ("pixart-alpha", False, 2),  # DiP-GO, table 8: 85.65 T in 20 calls
}
PARAMS = {  # of the class with this configuration
    "sd15": 859_520_964,
    "sdxl": 2_567_463_684,
    "flux-schnell": 11_891_178_560,
    "flux-dev": 11_901_408_320,
    "sd35-large": 8_056_627_520,
    "ddpm-cifar10": 35_746_307,
    "bk-sdm-base": 579_384_964,
    "bk-sdm-small": 482_346_884,
    "bk-sdm-tiny": 323_384_964,
    "ssd-1b": 1_331_334_404,
    "ddpm-bedroom": 113_673_219,
}


@pytest.mark.parametrize("published", MACS)
def test_macs_of_a_call_are_the_published_ones_within_half_a_percent(published):
    name, with_attention, calls = MACS[published]
    architecture = catalogue.load(name, weights=False).architecture()
    macs = architecture.graph.macs_per_call + architecture.macs_attention * with_attention
    assert calls * macs / 1e9 == pytest.approx(published, rel=0.005)


def test_the_catalogue_has_the_parameters_of_the_classes():
    listed = {row["id"]: row for row in catalogue.list_models()}
    assert {name: listed[name]["params"] for name in PARAMS} == PARAMS
    assert catalogue.load("flux-dev", weights=False).architecture().params == PARAMS["flux-dev"]


def test_the_weights_are_as_large_as_the_files_on_the_hub():
    """SDXL's and SSD-1B's single files in half precision, and DDPM's of LSUN, in 10^9 bytes."""
    listed = {row["id"]: row["weights_gb"] for row in catalogue.list_models()}
    assert listed["sdxl"] == pytest.approx(6.938, abs=0.001)
    assert listed["ssd-1b"] == pytest.approx(4.47, abs=0.01)
    assert listed["ddpm-church"] == pytest.approx(0.455, abs=0.001)


@pytest.mark.parametrize(
    ("name", "adaln", "kinds"),
    [
        ("sdxl", False, {"heads": (140, 2_600), "neurons": (70, 332_800)}),  # EcoDiff's released masks
        (
            "flux-schnell",
            True,
            {"heads": (57, 57 * 24), "neurons": (76, 76 * 12_288), "adaln_channels": (76, 1_050_624)},
        ),
        ("pixart-alpha", False, {"heads": (56, 56 * 16), "neurons": (28, 28 * 4_608)}),
        ("sd35-large", False, {"heads": (38, 38 * 38), "neurons": (75, 75 * 9_728)}),
    ],
)
def test_heads_and_neurons_are_all_there(name, adaln, kinds):
    found = {}
    for dim in catalogue.load(name, weights=False).prunable_dims(False, adaln).values():
        kind = dim.name.rpartition(":")[2]
        vectors, elements = found.get(kind, (0, 0))
        found[kind] = (vectors + 1, elements + dim.size)
    assert found == kinds


def test_the_rows_of_adaln_hold_what_the_paper_says():
    dims = catalogue.load("flux-schnell", weights=False).prunable_dims(False, True).values()
    params = sum(dim.size * dim.params for dim in dims if dim.name.endswith("adaln_channels"))
    assert params / 1e9 == pytest.approx(3.2, abs=0.05)  # of 11.9: EcoDiff, appendix


def test_every_known_class_has_a_tiny_model_for_the_exact_properties():
    from explorer.models.architectures import DENOISERS, class_name

    built = {class_name(make()) for make in TRANSFORMERS.values()}
    assert {name for name in DENOISERS if not name.startswith(("UNet", "Toy"))} == built


@pytest.mark.parametrize(("name", "params", "macs"), [("sd15", 0.268, 0.330), ("pixart-alpha", 0.943, 0.972)])
def test_what_widths_can_reach_at_most_is_what_the_readme_says(name, params, macs):
    model = catalogue.load(name, weights=False)
    keep = {dim: np.arange(found.size) < 1 for dim, found in model.prunable_dims(False).items()}
    whole, least = model.architecture(), model.without(keep).architecture()
    assert 1 - least.params / whole.params == pytest.approx(params, abs=5e-4)
    assert 1 - least.graph.macs_per_call / whole.graph.macs_per_call == pytest.approx(macs, abs=5e-4)
    text = (Path(catalogue.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert f"{100 * params:.1f} %" in text and f"{100 * macs:.1f} %" in text
