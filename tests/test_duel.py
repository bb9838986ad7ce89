"""What was learned beside rivals that are made again from their rows, on a tiny model."""

import pytest

from explorer import catalogue
from explorer.evidence import duel
from explorer.evidence.evaluation import Contender, Full, evaluate, pairs_of
from explorer.evidence.suite import Suite
from explorer.experiment import config_of, prune
from explorer.work import finished

FULL = Full(steps=12)


@pytest.fixture(scope="module")
def drawn(sd_folder, tmp_path_factory):
    """(model, rows of a suite at one ratio), tuned on the names that `made_again` tunes on."""
    patch = pytest.MonkeyPatch()
    patch.setattr(duel, "chosen", lambda model, purpose: ["dog", "cat"])
    patch.setattr(duel, "PICTURES", 2)
    patch.setattr(duel, "RATIOS", (0.5,))
    model = catalogue.load(sd_folder)
    everybody = finished(Suite(model, FULL, ["dog", "cat"], budget=4).at(0.5))
    file = tmp_path_factory.mktemp("duel") / "rows.parquet"
    yield model, finished(evaluate(model, FULL, everybody, pairs_of(["owl"], 2), file, truth_steps=0))
    patch.undo()


def test_the_strongest_of_each_family_comes_first(drawn):
    _, rows = drawn
    found = duel.strongest(rows, 0.5, most=3)
    assert len({row.method for row in found}) == 3
    means = rows[rows.method != "full"].groupby("key").psnr_box.mean()
    assert means[found[0].key] == means.max()
    assert list(means[[row.key for row in found]]) == sorted(means[[row.key for row in found]], reverse=True)


def test_every_family_is_made_again_as_it_was(drawn):
    model, rows = drawn
    for row in duel.strongest(rows, 0.5, most=20):
        assert duel.made_again(model, FULL, row).key == row.key


def test_one_that_would_be_another_today_is_refused(drawn):
    model, rows = drawn
    row = next(row for row in duel.strongest(rows, 0.5, most=20) if row.method == "uniform")
    with pytest.raises(ValueError, match="uniform at 0.5 is made otherwise today"):
        duel.made_again(model, FULL, row._replace(settings=row.settings.replace('"steps": 12', '"steps": 10')))


def test_what_was_learned_stands_beside_them(drawn, monkeypatch):
    model, rows = drawn
    learned = finished(prune(model, "random", config_of("random", {"steps": 12, "guidance": 7.5})))
    ours = Contender("dipgo", FULL.sampler, FULL.steps, 0.5, {"how": "ours"}, mask=learned.at(0.5))
    monkeypatch.setattr(duel, "learned", lambda model, full, ratio: [ours])
    found = finished(duel.everybody(model, FULL, rows))
    assert found[0] is ours and len(found) == 1 + duel.MOST


def test_where_there_are_no_results_yet_two_rivals_are_tuned(drawn, monkeypatch):
    monkeypatch.setattr(duel, "learned", lambda model, full, ratio: [])
    found = finished(duel.beside(drawn[0], FULL))
    assert [one.method for one in found] == ["uniform", "unipc-steps"]
