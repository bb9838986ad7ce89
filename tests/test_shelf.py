"""What visitors bring: kept where it is sound, refused in one sentence where it is not, and nothing written beside."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from explorer import shipped
from explorer.graph import Unit
from explorer.jobs import shelf as shelves
from explorer.jobs.ledger import Job, Ledger
from explorer.jobs.shelf import Shelf, embedded
from explorer.masks import MAX_CALLS, Importance
from explorer.sites import WidthHeader
from tests.test_masks import CALLS, chain, header


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "masks")


@pytest.fixture
def file(tmp_path):
    graph = chain()
    score = np.random.default_rng(0).random((CALLS, 3)).astype(np.float32)
    Importance(header(graph), graph.removal_order(score), score).save(tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def kept(shelf):
    return sorted(path.name for path in shelf.folder.iterdir())


def test_a_file_is_kept_as_it_came_and_found_again(shelf, file):
    item = shelf.add(file, "../../etc/<b>passwd</b>\n", "me")
    assert item.name == "../../etc/<b>passwd</b>" and item.how == "uploaded"
    assert kept(shelf) == [f"{item.id}.json", f"{item.id}.safetensors"]
    again = Shelf(shelf.folder).find(item.id)
    assert again == item and again.path.read_bytes() == file.read_bytes()
    assert [one.id for one in shelf.own("me")] == [item.id] and shelf.own("you") == []
    assert again.open().at(0.5).kept < 0.6


def test_a_schedule_by_hand_is_kept_as_a_mask(shelf, file):
    mask = shelf.find(shelf.add(file, "order", "me").id).open().at(0.4)
    item = shelf.keep(mask, "mine", "me")
    assert item.how == "by hand" and np.array_equal(item.open().keep, mask.keep)
    assert len(kept(shelf)) == 4


def test_only_whoever_brought_a_file_deletes_it(shelf, file):
    item = shelf.add(file, "a", "me")
    with pytest.raises(ValueError, match="somebody else's"):
        shelf.forget(item.id, "you")
    with pytest.raises(ValueError, match="only what was uploaded"):
        shelf.forget("emoji-unet/dipgo-ddim-25", "me")
    shelf.forget(item.id, "me")
    assert kept(shelf) == []
    with pytest.raises(ValueError, match="there is no mask"):
        shelf.find(item.id)


def test_limits_of_a_visitor_of_all_and_of_a_file(shelf, file, tmp_path, monkeypatch):
    monkeypatch.setattr(shelves, "A_VISITOR", 2)
    monkeypatch.setattr(shelves, "IN_ALL", 3)
    for owner in ("me", "me", "you"):
        shelf.add(file, "a", owner)
    with pytest.raises(ValueError, match="you have 2 files here"):
        shelf.add(file, "a", "me")
    with pytest.raises(ValueError, match="3 files are kept here"):
        shelf.add(file, "a", "you")
    monkeypatch.setattr(shelves, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="a mask has 0 at most here"):
        shelf.add(file, "a", "they")


def test_a_full_disk_keeps_nothing(shelf, file, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(file), "write_bytes", full)
    with pytest.raises(ValueError, match="No space left on device; make room"):
        shelf.add(file, "a", "me")
    assert kept(shelf) == []


def test_what_a_job_found_and_what_comes_along_is_there_too(tmp_path, file):
    ledger = Ledger(tmp_path / "jobs")
    settings = {"steps": CALLS}
    ledger.add(Job(id="abc", owner="me", method="dipgo", model="emoji-unet", settings=settings, created=1.0))
    shelf = Shelf(tmp_path / "masks", ledger)
    with pytest.raises(ValueError, match="there is no mask 'job-abc'"):
        shelf.find("job-abc")
    (ledger.results / "abc.safetensors").write_bytes(file.read_bytes())
    ledger.change("abc", state="done", result="abc.safetensors")
    assert [item.how for item in shelf.own("me")] == ["a job's"] and shelf.find("job-abc").open().rank.shape == (
        CALLS,
        3,
    )
    for item in embedded():
        assert shelf.find(item.id) == item and item.header.model.id in item.id
    assert len(embedded()) == len({item.id for item in embedded()}) > 20


@pytest.mark.parametrize(
    "id", ["../mine", "/etc/passwd", "..", "", "emoji-unet/../../x", "job-", "0" * 12, "\0", "a" * 9999]
)
def test_no_id_leads_elsewhere(shelf, file, id):
    with pytest.raises(ValueError, match="there is no mask") as error:
        shelf.find(id)
    assert len(str(error.value)) < 200


def written(tmp_path, file, **changes):
    """The file with other things said in its header."""
    document = json.loads(header(chain()).model_dump_json()) | changes
    order = Importance.load(file)
    tensors = {"rank/schedule": order.rank, "score/schedule": order.score}
    save_file(tensors, tmp_path / "bad.safetensors", metadata={"explorer": json.dumps(document)})
    return tmp_path / "bad.safetensors"


def units(count=3, macs=10, reads=1):
    """A chain in which each unit reads the last ones."""
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
    "an unknown format": dict(format=2),
}


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_is_one_sentence(shelf, tmp_path, file, changes):
    with pytest.raises(ValueError, match=r"\w") as error:
        shelf.add(written(tmp_path, file, **changes), "a", "me")
    assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)
    assert kept(shelf) == []


def test_widths_that_no_network_has_are_refused():
    (stem, sound), *_ = shipped.widths("emoji-ddpm").items()
    document = sound.model_dump()
    sites = [site | {"size": 10**6} for site in document["sites"]]
    for changes, said in (
        ({"params": 10}, "more parameters than the whole network"),
        ({"macs": 10}, "more MACs than the whole network"),
        ({"sites": sites}, "more than can be counted"),
    ):
        with pytest.raises(ValueError, match=said):
            WidthHeader.model_validate(document | changes)
    assert WidthHeader.model_validate(document) == sound and stem
