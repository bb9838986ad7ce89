"""What visitors measured is kept in files, the newest ones."""

import numpy as np
import pytest

from explorer.bundled import masks as bundled
from explorer.ui import measured_features
from explorer.ui.measured_features import MeasuredFeatures


@pytest.fixture
def measured():
    return bundled.feature_similarity("emoji-unet", "ddim", 25)


def test_a_measurement_is_found_by_its_id_and_by_nothing_else(measured, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "new"))
    kept = MeasuredFeatures()
    id = kept.keep(measured)
    found = kept.find(id)
    assert found.header == measured.header and np.array_equal(found.alike, measured.alike)
    for other in (None, "", id.upper() + "x", f"../{id}", "0" * 32, 1, [id]):
        assert kept.find(other) is None
    assert [file.stem for file in tmp_path.glob("new/features-*/*")] == [id]


def test_newer_measurements_take_the_place_of_older_ones(measured, monkeypatch):
    kept = MeasuredFeatures()
    first = kept.keep(measured)
    size = kept._file(first).stat().st_size
    monkeypatch.setattr(measured_features, "MAX_TOTAL_BYTES", 2 * size)
    second, third = kept.keep(measured), kept.keep(measured)
    assert [kept.find(id) is not None for id in (first, second, third)] == [False, True, True]
