"""The harness on tiny models: paired, resumable, and honest about what failed."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from explorer import catalogue
from explorer.evidence import evaluation, results
from explorer.evidence.evaluation import Contender, Full, evaluate, pairs_of
from explorer.evidence.jury import Jury
from explorer.evidence.rivals import RIVALS, all_at, few_steps
from explorer.experiment import config_of, prune
from explorer.trials import Trials
from explorer.work import finished

FULL = Full(steps=6)
PAIRS = pairs_of(["dog", "cat"], 5)


@pytest.fixture(scope="module")
def model(sd_folder):
    return catalogue.load(sd_folder)


def half(model, **settings):
    config = config_of("random", {"steps": 6, "ratio": 0.5} | settings)
    return Contender("random", "ddim", 6, ratio=0.5, mask=finished(prune(model, "random", config)))


def trial(model, contenders, out, **options):
    return finished(evaluate(model, FULL, contenders, PAIRS, out, **{"truth_steps": 10, "batch": 2} | options))


def sound(rows):
    """What must not differ between two runs: everything but times."""
    columns = [name for name in rows.columns if "seconds" not in name]
    return rows[columns].sort_values(["key", "seed"], ignore_index=True)


def test_every_contender_draws_every_pair_and_the_full_run_is_its_own_equal(model, tmp_path):
    rows = trial(model, [half(model), Contender("ddim-steps", "ddim", 3)], tmp_path / "t.parquet")
    assert len(rows) == 15 and rows.error.isna().all() and list(rows.groupby("key").size()) == [5, 5, 5]
    full = rows[rows.method == "full"]
    assert (full.ssim > 0.9999).all() and (full.psnr == evaluation.BEST_PSNR).all() and (full.kept == 1).all()
    fewer = rows[rows.method == "ddim-steps"]
    assert (fewer.kept == 0.5).all() and (fewer.macs == 3 * model.graph().macs_per_call).all()
    assert (fewer.psnr < 60).all() and (fewer.seconds >= fewer.loop_seconds).all()
    names = {f"{prefix}{name}{box}" for prefix in ("", "truth_") for name in ("ssim", "psnr") for box in ("", "_box")}
    assert names <= set(rows.columns)


def test_pictures_are_those_that_drawing_one_by_one_gives(model, tmp_path):
    from explorer.drawing import draw
    from explorer.metrics import psnr

    contender = half(model)
    rows = trial(model, [contender], tmp_path / "t.parquet")
    row = rows[(rows.method == "random") & (rows.seed == 3)].iloc[0]
    pictures = [
        list(draw(model, [row.prompt], [3], "ddim", 6, 7.5, mask, previews=1))[-1][1] for mask in (contender.mask, None)
    ]
    assert row.psnr == pytest.approx(psnr(*pictures).item(), abs=0.01)


def test_two_runs_agree_and_an_interrupted_one_goes_on(model, tmp_path):
    contenders = [half(model), half(model, seed=1)]
    whole = trial(model, contenders, tmp_path / "whole.parquet")
    again = trial(model, contenders, tmp_path / "again.parquet")
    pd.testing.assert_frame_equal(sound(whole), sound(again))
    work = evaluate(model, FULL, contenders, PAIRS, tmp_path / "cut.parquet", truth_steps=10, batch=2)
    for _ in range(5):  # one batch of three contenders, and two of the next
        next(work)
    work.close()
    assert len(results.read(tmp_path / "cut.parquet")[1]) == 6
    steps = evaluate(model, FULL, contenders, PAIRS, tmp_path / "cut.parquet", truth_steps=10, batch=2, resume=True)
    assert next(steps).done == 8
    pd.testing.assert_frame_equal(sound(finished(steps)), sound(whole))
    assert len(results.read(tmp_path / "cut.parquet")[1]) == 15


def test_what_fails_is_a_row_with_the_reason_and_takes_no_other_along(model, tmp_path, monkeypatch):
    draw = evaluation.draw

    def fails(model, prompts, seeds, sampler, *rest, **options):
        if sampler == "euler" and 2 in seeds:
            raise ValueError("the run ended in values that are not finite")
        return draw(model, prompts, seeds, sampler, *rest, **options)

    monkeypatch.setattr(evaluation, "draw", fails)
    rows = trial(model, [Contender("euler-steps", "euler", 3)], tmp_path / "t.parquet")
    failed = rows[rows.error.notna()]
    assert list(failed.seed) == [2] and "not finite" in failed.error.iloc[0] and len(rows) == 10
    monkeypatch.setattr(evaluation, "draw", draw)  # mended: only what failed is drawn again
    rows = trial(model, [Contender("euler-steps", "euler", 3)], tmp_path / "t.parquet", resume=True)
    assert rows.error.isna().all() and len(rows) == 10


@pytest.mark.parametrize("change", ["one pair", "no prompts", "steps", "mask of another model", "sampler of a mask"])
def test_what_cannot_be_evaluated_is_refused_before_anything_is_drawn(model, tmp_path, change):
    out = tmp_path / "t.parquet"
    if change == "no prompts":
        with pytest.raises(ValueError, match="at least one prompt"):
            pairs_of([], 3)
    if change == "one pair":
        with pytest.raises(ValueError, match="at least two pictures"):
            finished(evaluate(model, FULL, [], PAIRS[:1], out))
    if change == "steps":
        with pytest.raises(ValueError, match="steps must be between 1 and 1000"):
            trial(model, [Contender("ddim-steps", "ddim", 0)], out)
    if change == "mask of another model":
        mask = half(model).mask
        other = mask.header.model_copy(update={"model": mask.header.model.model_copy(update={"id": "sd15"})})
        with pytest.raises(ValueError, match="for the model sd15"):
            trial(model, [Contender("x", "ddim", 6, mask=type(mask)(other, mask.keep))], out)
    if change == "sampler of a mask":
        with pytest.raises(ValueError, match="full run's sampler"):
            trial(model, [Contender("x", "euler", 6, mask=half(model).mask)], out)
    assert not out.exists()


def test_a_file_in_the_way_or_of_another_kind_is_refused(model, tmp_path):
    out = tmp_path / "t.parquet"
    trial(model, [], out)
    with pytest.raises(ValueError, match="go on with it by --resume"):
        trial(model, [], out)
    with pytest.raises(ValueError, match="was made with truth_steps 10, not 20"):
        trial(model, [], out, truth_steps=20, resume=True)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="holds no results"):
        results.read(tmp_path / "other.parquet")
    (tmp_path / "cut.parquet").write_bytes(out.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read as results"):
        results.read(tmp_path / "cut.parquet")


def test_a_file_of_another_version_is_refused(model, tmp_path, monkeypatch):
    trial(model, [], tmp_path / "t.parquet")
    monkeypatch.setattr(results, "FORMAT", 2)
    with pytest.raises(ValueError, match="of format 1, not 2"):
        results.read(tmp_path / "t.parquet")


def test_what_is_missing_is_said_in_the_file(model, tmp_path):
    trial(model, [], tmp_path / "t.parquet")
    about, _ = results.read(tmp_path / "t.parquet")
    assert about["versions"]["torch"] == torch.__version__ and about["hardware"]
    assert any("clip score" in said for said in about["missing"])


def test_kept_references_are_those_that_would_be_drawn_again(model, tmp_path, monkeypatch):
    once = trial(model, [half(model)], tmp_path / "once.parquet", keep=tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 3
    steps = []
    drawn = evaluation.draw
    monkeypatch.setattr(evaluation, "draw", lambda *args, **named: steps.append(args[4]) or drawn(*args, **named))
    again = trial(model, [half(model)], tmp_path / "again.parquet", keep=tmp_path / "kept")
    assert 10 not in steps and steps.count(6) == 6  # the full run as its own contender, and the other one
    pd.testing.assert_frame_equal(sound(once), sound(again))


def test_contenders_that_differ_in_anything_have_different_keys(model):
    base = half(model)
    others = [
        half(model, seed=1),
        half(model, order=1),
        Contender("random", "ddim", 6, ratio=0.5),
        Contender("random", "ddim", 6, ratio=0.5, solver={"solver_order": 3}),
        Contender("random", "ddim", 6, ratio=0.5, settings={"a": 1}),
    ]
    assert len({contender.key for contender in [base, *others]}) == 6
    assert base.key == half(model).key


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_draws_with_the_better_of_two_spacings(model, name):
    trials = Trials(model, ["dog", "cat"], "ddim", 12, 7.5)
    rival = few_steps(model, name, Full(steps=12), 0.5, trials)
    losses = {
        spacing: trials.sampler_loss(rival.sampler, rival.steps, rival.solver | {"timestep_spacing": spacing})
        for spacing in ("leading", "trailing")
    }
    assert losses[rival.solver["timestep_spacing"]] == min(losses.values()) < np.inf
    assert rival.steps in (5, 6)


def test_rivals_that_cannot_make_so_few_steps_are_left_out_but_unknown_ones_refused(model):
    trials = Trials(model, ["dog"], "ddim", 12, 7.5)
    assert {rival.method for rival in all_at(model, Full(steps=12), 1 / 12, trials)} >= {"ddim-steps", "dpm++-steps"}
    with pytest.raises(ValueError, match="rival 'magic' is unknown"):
        all_at(model, FULL, 0.5, trials, ["magic"])


def test_other_models_are_judged_by_openais_clip_where_it_is_on_disk(model, tmp_path, monkeypatch):
    from explorer.evidence import jury
    from explorer.training import clip
    from explorer.training.captions import train_tokenizer

    assert any("openai/clip-vit-base-patch16" in said for said in Jury.of(model).missing)
    tokenizer = train_tokenizer(["dog", "cat"], length=8)
    clip.save(clip.build(tokenizer), tokenizer, tmp_path)
    prepared = {"size": {"shortest_edge": 224}, "crop_size": 224, "image_mean": [0.48] * 3, "image_std": [0.27] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(prepared))  # in the words of OpenAI's own
    monkeypatch.setattr(jury, "_cached", lambda repo: tmp_path)
    found = Jury.of(model)
    seen = found.look(torch.rand(2, 3, 16, 16), ["dog", "cat"])
    assert len(seen["clip_score"]) == 2 and seen["rank"] == [None, None]
    assert found.name == jury.CLIP and any("retrieval" in said for said in found.missing)


def test_real_pictures_are_compared_by_inceptions_features(model, tmp_path, monkeypatch):
    from PIL import Image

    from explorer.evidence import inception
    from explorer.evidence.summary import summary

    def eyes(pictures):  # in place of the network, whose packages and weights are not everywhere
        assert pictures.dtype == torch.uint8
        return pictures.float().mean(dim=(2, 3)) / 255

    monkeypatch.setattr(inception, "load", lambda: eyes)
    with pytest.raises(ValueError, match="holds 0 pictures"):
        Jury.of(model, tmp_path)
    for name, color in {"red": (255, 0, 0), "blue": (0, 0, 255)}.items():
        Image.new("RGB", (9, 7), color).save(tmp_path / f"{name}.png")
    (tmp_path / "note.txt").write_text("no picture")
    jury = Jury.of(model, tmp_path)
    assert jury.real.tolist() == [[0, 0, 1], [1, 0, 0]] and not any("KID" in said for said in jury.missing)
    rows = trial(model, [], tmp_path / "t.parquet", jury=jury)
    assert len(rows.features.iloc[0]) == 3 and summary(rows, jury.real).kid.notna().all()
    with pytest.raises(ValueError, match="was made with real"):
        trial(model, [], tmp_path / "t.parquet", resume=True)


def test_inception_says_what_is_missing_and_runs_no_code_from_its_weights(tmp_path, monkeypatch):
    from explorer.evidence import inception

    monkeypatch.setattr(torch.hub, "get_dir", lambda: f"{tmp_path}")
    monkeypatch.setattr(inception, "NEEDS", ("a_package_that_is_not_there",))
    with pytest.raises(ValueError, match="need a-package-that-is-not-there, which is not installed"):
        inception.load()
    monkeypatch.setattr(inception, "NEEDS", ())
    with pytest.raises(ValueError, match=f"need the file {inception.WEIGHTS}"):
        inception.load()
    (tmp_path / "checkpoints").mkdir()
    torch.save({"weight": Path}, tmp_path / "checkpoints" / inception.WEIGHTS)
    with pytest.raises(ValueError, match="holds no plain weights"):
        inception.load()


def test_the_jury_of_an_embedded_model_knows_its_names_and_their_synonyms():
    embedded = catalogue.load("emoji-unet")
    jury = Jury.of(embedded)
    synonym = next(words[0] for words in catalogue.vocabulary("emoji-unet")["also"].values() if words)
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    seen = jury.look(pictures, ["dog", synonym, "a dog that was never named"])
    assert seen["rank"][0] >= 0 and seen["rank"][1] >= 0 and seen["rank"][2] is None
    assert len(seen["features"]) == 3 and np.linalg.norm(seen["features"][0]) == pytest.approx(1, abs=1e-5)
    json.dumps(jury.missing)


def test_a_smaller_network_stands_beside_schedules_and_is_priced_as_it_is(model, tmp_path):
    from explorer.evidence.rivals import contenders

    widths = [finished(prune(model, "magnitude", config_of("magnitude", {"ratio": ratio}))) for ratio in (0.1, 0.2)]
    found = contenders(model, FULL, [half(model).mask, *widths], [], ["ddim-steps"], ["dog"])
    assert [one.method for one in found] == ["random", "magnitude", "magnitude", *["ddim-steps"] * 3]
    rows = trial(model, found, tmp_path / "t.parquet")
    assert rows.error.isna().all()
    for contender in found[1:3]:
        own = rows[rows.key == contender.key]
        smaller = contender.widths.narrowed(model)
        assert (own.params == smaller.priced().params).all() and own.params.iloc[0] < model.priced().params
        assert own.kept.iloc[0] == pytest.approx(smaller.graph().macs_per_call / model.graph().macs_per_call)
        assert (own.psnr < 70).all()
