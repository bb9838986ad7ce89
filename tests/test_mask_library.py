"""Uploads: kept where they are valid, refused in one sentence where they are not, and nothing else is written."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from explorer.bundled import masks as bundled
from explorer.jobs import mask_library
from explorer.jobs.job import Job
from explorer.jobs.mask_library import MaskLibrary, bundled_entries
from explorer.jobs.store import JobStore
from explorer.masks.block_graph import Unit
from explorer.masks.schedule import MAX_CALLS, ScheduleImportance
from explorer.masks.width_header import WidthHeader
from tests.test_schedule import CALLS, chain, header


@pytest.fixture
def library(tmp_path):
    return MaskLibrary(tmp_path / "masks")


@pytest.fixture
def file(tmp_path):
    graph = chain()
    score = np.random.default_rng(0).random((CALLS, 3)).astype(np.float32)
    ScheduleImportance(header(graph), graph.removal_order(score), score).save(tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def kept(library):
    return sorted(path.name for path in library.folder.iterdir())


def test_uploaded_file_is_kept_byte_for_byte(library, file):
    entry = library.add(file, "../../etc/<b>passwd</b>\n", "me")
    assert entry.name == "../../etc/<b>passwd</b>" and entry.source == "uploaded"
    assert kept(library) == [f"{entry.id}.json", f"{entry.id}.safetensors"]
    again = MaskLibrary(library.folder).find(entry.id)
    assert again == entry and again.path.read_bytes() == file.read_bytes()
    assert [one.id for one in library.owned_by("me")] == [entry.id] and library.owned_by("you") == []
    assert again.open().at(0.5).macs_fraction < 0.6


def test_manual_schedule_is_kept_as_a_mask(library, file):
    mask = library.find(library.add(file, "order", "me").id).open().at(0.4)
    entry = library.keep(mask, "mine", "me")
    assert entry.source == "manual" and np.array_equal(entry.open().keep, mask.keep)
    assert len(kept(library)) == 4


def test_only_its_owner_deletes_a_file(library, file):
    entry = library.add(file, "a", "me")
    with pytest.raises(ValueError, match="another visitor"):
        library.delete(entry.id, "you")
    with pytest.raises(ValueError, match="only what was uploaded"):
        library.delete("emoji-unet/dipgo-ddim-25", "me")
    library.delete(entry.id, "me")
    assert kept(library) == []
    with pytest.raises(ValueError, match="there is no mask"):
        library.find(entry.id)


def test_limits_per_visitor_in_total_and_per_file(library, file, tmp_path, monkeypatch):
    monkeypatch.setattr(mask_library, "MAX_PER_USER", 2)
    monkeypatch.setattr(mask_library, "MAX_TOTAL", 3)
    for owner in ("me", "me", "you"):
        library.add(file, "a", owner)
    with pytest.raises(ValueError, match="you have 2 files here"):
        library.add(file, "a", "me")
    with pytest.raises(ValueError, match="3 files are kept here"):
        library.add(file, "a", "you")
    monkeypatch.setattr(mask_library, "MAX_TOTAL", 4)
    monkeypatch.setattr(mask_library, "MAX_TOTAL_BYTES", 1)
    with pytest.raises(ValueError, match="0 MB are kept here"):
        library.add(file, "a", "you")
    monkeypatch.setattr(mask_library, "MAX_FILE_BYTES", 100)
    with pytest.raises(ValueError, match="a mask may have 0 MB here"):
        library.add(file, "a", "they")


def test_an_address_has_a_limit_whatever_names_it_makes(library, file, monkeypatch):
    monkeypatch.setattr(mask_library, "MAX_PER_ADDRESS", 2)
    kept = [library.add(file, "a", f"visitor {number}", "1.2.3.4") for number in range(2)]
    with pytest.raises(ValueError, match="your address may have 2 files and 50 MB here"):
        library.add(file, "a", "visitor 2", "1.2.3.4")
    library.add(file, "a", "visitor 2", "5.6.7.8")
    library.delete(kept[0].id, "visitor 0")
    library.add(file, "a", "visitor 2", "1.2.3.4")
    monkeypatch.setattr(mask_library, "MAX_PER_ADDRESS", 9)
    monkeypatch.setattr(mask_library, "MAX_BYTES_PER_ADDRESS", 2 * kept[1].path.stat().st_size)
    with pytest.raises(ValueError, match="your address may have 9 files and 0 MB here"):
        library.add(file, "a", "visitor 2", "1.2.3.4")


def test_a_full_disk_keeps_nothing(library, file, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(file), "write_bytes", full)
    with pytest.raises(ValueError, match="No space left on device; make room"):
        library.add(file, "a", "me")
    assert kept(library) == []


def test_library_lists_job_results_and_bundled_files(tmp_path, file):
    store = JobStore(tmp_path / "jobs")
    settings = {"steps": CALLS}
    store.add(Job(id="abc", owner="me", method="dipgo", model="emoji-unet", settings=settings, created=1.0))
    library = MaskLibrary(tmp_path / "masks", store)
    with pytest.raises(ValueError, match="there is no mask 'job-abc'"):
        library.find("job-abc")
    (store.results / "abc.safetensors").write_bytes(file.read_bytes())
    store.update("abc", state="done", result="abc.safetensors")
    assert [entry.source for entry in library.owned_by("me")] == ["job"] and library.find(
        "job-abc"
    ).open().rank.shape == (
        CALLS,
        3,
    )
    for entry in bundled_entries():
        assert library.find(entry.id) == entry and entry.header.model.id in entry.id
    assert len(bundled_entries()) == len({entry.id for entry in bundled_entries()}) > 20


@pytest.mark.parametrize(
    "id", ["../mine", "/etc/passwd", "..", "", "emoji-unet/../../x", "job-", "0" * 12, "\0", "a" * 9999]
)
def test_ids_cannot_name_other_files(library, file, id):
    with pytest.raises(ValueError, match="there is no mask") as error:
        library.find(id)
    assert len(str(error.value)) < 200


def rewritten(tmp_path, file, **changes):
    """Copy the file with other fields in its header."""
    document = json.loads(header(chain()).model_dump_json()) | changes
    order = ScheduleImportance.load(file)
    tensors = {"rank/schedule": order.rank, "score/schedule": order.score}
    save_file(tensors, tmp_path / "bad.safetensors", metadata={"explorer": json.dumps(document)})
    return tmp_path / "bad.safetensors"


def units(count=3, macs=10, reads=1):
    """Make a chain in which each unit reads the last ones."""
    return [
        Unit(
            name=f"u{i}", kind="stream", reuse="output", macs=macs, reads=tuple(range(max(0, i - reads), i))
        ).model_dump()
        for i in range(count)
    ]


HOSTILE = {
    "MACs beyond 64 bits": dict(macs_fixed=10**30),
    "MACs of units that overflow together": dict(units=[unit | {"macs": 10**15} for unit in units()]),
    "no MACs at all": dict(units=[unit | {"macs": 0} for unit in units()], macs_fixed=0),
    "more reads than a network has": dict(units=units(1000, reads=150)),
    "calls beyond the cap": dict(calls=MAX_CALLS + 1),
    "another number of calls": dict(calls=CALLS + 1),
    "a unit that reads itself": dict(units=[unit | {"reads": [i]} for i, unit in enumerate(units())]),
    "NaN": dict(max_ratio=float("nan")),
    "an id that is a path": dict(model={"id": "../../x", "revision": None, "denoiser": "UNet2DModel", "dtype": "f"}),
    "an unknown key": dict(more=1),
    "an unknown format": dict(format=3),
}


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_is_one_sentence(library, tmp_path, file, changes):
    with pytest.raises(ValueError, match=r"\w") as error:
        library.add(rewritten(tmp_path, file, **changes), "a", "me")
    assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)
    assert kept(library) == []


def test_impossible_widths_are_refused():
    (stem, sound), *_ = bundled.width_headers("emoji-ddpm").items()
    document = sound.model_dump()
    dims = [dim | {"size": 10**6} for dim in document["dims"]]
    for changes, reason in (
        ({"params": 10}, "more parameters than the whole network"),
        ({"macs": 10}, "more MACs than the whole network"),
        ({"dims": dims}, "more than can be counted"),
    ):
        with pytest.raises(ValueError, match=reason):
            WidthHeader.model_validate(document | changes)
    assert WidthHeader.model_validate(document) == sound and stem
