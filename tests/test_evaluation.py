"""The evaluation on tiny models: paired, resumable, with a row for every failure."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from explorer.evaluation import evaluate as evaluation
from explorer.evaluation import inception, results, scorers
from explorer.evaluation.baselines import BASELINES, few_step_baseline, few_step_baselines, make_candidates
from explorer.evaluation.candidates import Candidate, ReferenceRun, make_samples
from explorer.evaluation.evaluate import evaluate
from explorer.evaluation.results import read_results
from explorer.evaluation.scorers import Scorers
from explorer.evaluation.statistics import summarize
from explorer.experiment import prune
from explorer.measures.metrics import psnr
from explorer.measures.table import METRICS
from explorer.models import catalogue
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from explorer.pruners.objective import Objective
from explorer.sampling.generate import generate
from explorer.training import clip
from explorer.training.captions import train_tokenizer

pytestmark = pytest.mark.slow

REFERENCE = ReferenceRun(steps=6)
SAMPLES = make_samples(["dog", "cat"], 5)


@pytest.fixture(scope="module")
def model(sd_folder):
    return catalogue.load(sd_folder)


@pytest.fixture(scope="module")
def candidates(model):
    return [half(model), Candidate("ddim-steps", "ddim", 3)]


@pytest.fixture(scope="module")
def whole(model, candidates, tmp_path_factory):
    """Evaluate two candidates: the rows of an evaluation that nothing interrupted."""
    return evaluate_all(model, candidates, tmp_path_factory.mktemp("whole") / "t.parquet")


@pytest.fixture(scope="module")
def full_run_file(model, tmp_path_factory):
    """Evaluate the full run alone: a file that tests only read."""
    file = tmp_path_factory.mktemp("full") / "t.parquet"
    evaluate_all(model, [], file)
    return file


def half(model, **settings):
    """Make a candidate under a random schedule of half the MACs."""
    config = method_config("random", {"steps": 6, "ratio": 0.5} | settings)
    return Candidate("random", "ddim", 6, ratio=0.5, mask=run_to_completion(prune(model, "random", config)))


def evaluate_all(model, candidates, out, **options):
    options = {"converged_steps": 10, "batch": 2} | options
    return run_to_completion(evaluate(model, REFERENCE, candidates, SAMPLES, out, **options))


def without_times(rows):
    """Select what must not differ between two runs."""
    columns = [name for name in rows.columns if "seconds" not in name]
    return rows[columns].sort_values(["key", "seed"], ignore_index=True)


def test_every_candidate_generates_every_sample_and_the_full_run_equals_itself(model, whole):
    rows = whole
    assert len(rows) == 15 and rows.error.isna().all() and list(rows.groupby("key").size()) == [5, 5, 5]
    full = rows[rows.method == "full"]
    assert (full.ssim > 0.9999).all() and (full.psnr == METRICS["psnr"].best).all() and (full.kept == 1).all()
    fewer = rows[rows.method == "ddim-steps"]
    assert (fewer.kept == 0.5).all() and (fewer.macs == 3 * model.graph().macs_per_call).all()
    assert (fewer.psnr < 60).all() and (fewer.seconds >= fewer.loop_seconds).all()
    prefixes, metrics, boxes = ("", "converged_"), ("ssim", "psnr"), ("", "_box")
    names = {f"{prefix}{metric}{box}" for prefix in prefixes for metric in metrics for box in boxes}
    assert names <= set(rows.columns)


def test_pictures_are_those_that_generating_one_by_one_gives(model, candidates, whole):
    row = whole[(whole.method == "random") & (whole.seed == 3)].iloc[0]
    pictures = [
        list(generate(model, [row.prompt], [3], "ddim", 6, 7.5, mask, previews=1))[-1][1]
        for mask in (candidates[0].mask, None)
    ]
    assert row.psnr == pytest.approx(psnr(*pictures).item(), abs=0.01)


def test_two_runs_agree_and_an_interrupted_one_is_resumed(model, candidates, whole, tmp_path):
    repeated = evaluate_all(model, candidates, tmp_path / "repeated.parquet")
    pd.testing.assert_frame_equal(without_times(whole), without_times(repeated))
    run = (model, REFERENCE, candidates, SAMPLES, tmp_path / "interrupted.parquet")
    work = evaluate(*run, converged_steps=10, batch=2)
    for _ in range(5):  # one batch of three candidates, and two of the next
        next(work)
    work.close()
    assert len(read_results(tmp_path / "interrupted.parquet")[1]) == 6
    steps = evaluate(*run, converged_steps=10, batch=2, resume=True)
    assert next(steps).done == 8
    pd.testing.assert_frame_equal(without_times(run_to_completion(steps)), without_times(whole))
    assert len(read_results(tmp_path / "interrupted.parquet")[1]) == 15


def test_failed_picture_is_a_row_with_the_reason_and_others_continue(model, tmp_path, monkeypatch):
    def fail_at_seed_2(model, prompts, seeds, sampler, *rest, **options):
        if sampler == "euler" and 2 in seeds:
            raise ValueError("the run ended in values that are not finite")
        return generate(model, prompts, seeds, sampler, *rest, **options)

    monkeypatch.setattr(evaluation, "generate", fail_at_seed_2)
    rows = evaluate_all(model, [Candidate("euler-steps", "euler", 3)], tmp_path / "t.parquet")
    failed = rows[rows.error.notna()]
    assert list(failed.seed) == [2] and "not finite" in failed.error.iloc[0] and len(rows) == 10
    monkeypatch.setattr(evaluation, "generate", generate)  # mended: only what failed is generated again
    rows = evaluate_all(model, [Candidate("euler-steps", "euler", 3)], tmp_path / "t.parquet", resume=True)
    assert rows.error.isna().all() and len(rows) == 10


@pytest.mark.parametrize("change", ["one sample", "no prompts", "steps", "mask of another model", "sampler of a mask"])
def test_invalid_evaluation_is_refused_before_generating(model, tmp_path, change):
    out = tmp_path / "t.parquet"
    if change == "no prompts":
        with pytest.raises(ValueError, match="at least one prompt"):
            make_samples([], 3)
    if change == "one sample":
        with pytest.raises(ValueError, match="at least two pictures"):
            run_to_completion(evaluate(model, REFERENCE, [], SAMPLES[:1], out))
    if change == "steps":
        with pytest.raises(ValueError, match="steps must be between 1 and 1000"):
            evaluate_all(model, [Candidate("ddim-steps", "ddim", 0)], out)
    if change == "mask of another model":
        mask = half(model).mask
        header = mask.header.model_copy(update={"model": mask.header.model.model_copy(update={"id": "sd15"})})
        with pytest.raises(ValueError, match="for the model sd15"):
            evaluate_all(model, [Candidate("x", "ddim", 6, mask=type(mask)(header, mask.keep))], out)
    if change == "sampler of a mask":
        with pytest.raises(ValueError, match="full run's sampler"):
            evaluate_all(model, [Candidate("x", "euler", 6, mask=half(model).mask)], out)
    assert not out.exists()


def test_an_existing_file_or_one_of_another_kind_is_refused(model, full_run_file, tmp_path):
    out, before = full_run_file, full_run_file.read_bytes()
    with pytest.raises(ValueError, match="continue it with --resume"):
        evaluate_all(model, [], out)
    with pytest.raises(ValueError, match="was made with converged_steps 10, not 20"):
        evaluate_all(model, [], out, converged_steps=20, resume=True)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="holds no results"):
        read_results(tmp_path / "other.parquet")
    (tmp_path / "truncated.parquet").write_bytes(out.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read as results"):
        read_results(tmp_path / "truncated.parquet")
    assert out.read_bytes() == before


def test_a_file_of_another_version_is_refused(full_run_file, monkeypatch):
    monkeypatch.setattr(results, "FORMAT", 3)
    with pytest.raises(ValueError, match="of format 2, not 3"):
        read_results(full_run_file)


def test_result_file_names_missing_metrics(full_run_file):
    about, _ = read_results(full_run_file)
    assert about["versions"]["torch"] == torch.__version__ and about["hardware"]
    assert any("clip score" in reason for reason in about["missing"])


def test_kept_references_are_those_that_would_be_generated_again(model, tmp_path, monkeypatch):
    first = evaluate_all(model, [half(model)], tmp_path / "first.parquet", keep=tmp_path / "references")
    assert len(list((tmp_path / "references").iterdir())) == 3
    steps = []
    monkeypatch.setattr(
        evaluation, "generate", lambda *given, **options: steps.append(given[4]) or generate(*given, **options)
    )
    second = evaluate_all(model, [half(model)], tmp_path / "second.parquet", keep=tmp_path / "references")
    assert 10 not in steps and steps.count(6) == 6  # the full run as a candidate, and the other one
    pd.testing.assert_frame_equal(without_times(first), without_times(second))


def test_candidates_that_differ_in_anything_have_different_keys(model):
    base = half(model)
    others = [
        half(model, seed=1),
        half(model, order=1),
        Candidate("random", "ddim", 6, ratio=0.5),
        Candidate("random", "ddim", 6, ratio=0.5, solver={"solver_order": 3}),
        Candidate("random", "ddim", 6, ratio=0.5, settings={"a": 1}),
    ]
    assert len({candidate.key for candidate in [base, *others]}) == 6
    assert base.key == half(model).key


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_uses_the_better_of_two_spacings(model, name):
    objective = Objective(model, ["dog", "cat"], "ddim", 12, 7.5)
    baseline = few_step_baseline(model, name, ReferenceRun(steps=12), 0.5, objective)
    losses = {
        spacing: objective.sampler_loss(
            baseline.sampler, baseline.steps, baseline.solver | {"timestep_spacing": spacing}
        )
        for spacing in ("leading", "trailing")
    }
    assert losses[baseline.solver["timestep_spacing"]] == min(losses.values()) < np.inf
    assert baseline.steps in (5, 6)


def test_baselines_out_of_range_are_left_out_and_unknown_ones_refused(model):
    objective = Objective(model, ["dog"], "ddim", 12, 7.5)
    baselines = few_step_baselines(model, ReferenceRun(steps=12), 1 / 12, objective)
    assert {baseline.method for baseline in baselines} >= {"ddim-steps", "dpm++-steps"}
    with pytest.raises(ValueError, match="baseline 'magic' is unknown"):
        few_step_baselines(model, REFERENCE, 0.5, objective, ["magic"])


def test_other_models_are_scored_by_openais_clip_where_it_is_on_disk(model, tmp_path, monkeypatch):
    assert any("openai/clip-vit-base-patch16" in reason for reason in Scorers.of(model).missing)
    tokenizer = train_tokenizer(["dog", "cat"], length=8)
    clip.save(clip.build(tokenizer), tokenizer, tmp_path)
    prepared = {"size": {"shortest_edge": 224}, "crop_size": 224, "image_mean": [0.48] * 3, "image_std": [0.27] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(prepared))  # in the words of OpenAI's own
    monkeypatch.setattr(scorers, "_cached_folder", lambda repo: tmp_path)
    found = Scorers.of(model)
    scores = found.score(torch.rand(2, 3, 16, 16), ["dog", "cat"])
    assert len(scores["clip_score"]) == 2 and scores["rank"] == [None, None]
    assert found.name == scorers.CLIP and any("retrieval" in reason for reason in found.missing)


def test_real_pictures_are_compared_by_inceptions_features(model, tmp_path, monkeypatch):
    def mean_colours(pictures):  # in place of the network, whose packages and weights are not everywhere
        assert pictures.dtype == torch.uint8
        return pictures.float().mean(dim=(2, 3)) / 255

    monkeypatch.setattr(scorers, "load_inception", lambda: mean_colours)
    with pytest.raises(ValueError, match="holds 0 pictures"):
        Scorers.of(model, tmp_path)
    for name, color in {"red": (255, 0, 0), "blue": (0, 0, 255)}.items():
        Image.new("RGB", (9, 7), color).save(tmp_path / f"{name}.png")
    (tmp_path / "note.txt").write_text("no picture")
    with_real = Scorers.of(model, tmp_path)
    assert with_real.real.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert not any("KID" in reason for reason in with_real.missing)
    rows = evaluate_all(model, [], tmp_path / "t.parquet", scorers=with_real)
    assert len(rows.features.iloc[0]) == 3 and summarize(rows, with_real.real).kid.notna().all()
    with pytest.raises(ValueError, match="was made with real"):
        evaluate_all(model, [], tmp_path / "t.parquet", resume=True)


def test_inception_names_missing_parts_and_runs_no_code_from_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: f"{tmp_path}")
    monkeypatch.setattr(inception, "NEEDS", ("a_package_that_is_not_there",))
    with pytest.raises(ValueError, match="need a-package-that-is-not-there, which is not installed"):
        inception.load_inception()
    monkeypatch.setattr(inception, "NEEDS", ())
    with pytest.raises(ValueError, match=f"need the file {inception.WEIGHTS}"):
        inception.load_inception()
    (tmp_path / "checkpoints").mkdir()
    torch.save({"weight": Path}, tmp_path / "checkpoints" / inception.WEIGHTS)
    with pytest.raises(ValueError, match="holds no plain weights"):
        inception.load_inception()


def test_the_scorers_of_an_embedded_model_know_its_names_and_their_synonyms():
    found = Scorers.of(catalogue.load("emoji-unet"))
    synonym = next(words[0] for words in catalogue.vocabulary("emoji-unet")["also"].values() if words)
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    scores = found.score(pictures, ["dog", synonym, "a dog that was never named"])
    assert scores["rank"][0] >= 0 and scores["rank"][1] >= 0 and scores["rank"][2] is None
    assert len(scores["features"]) == 3 and np.linalg.norm(scores["features"][0]) == pytest.approx(1, abs=1e-5)
    json.dumps(found.missing)


def test_pruned_widths_are_compared_with_schedules_by_their_own_macs(model, tmp_path):
    widths = [
        run_to_completion(prune(model, "magnitude", method_config("magnitude", {"ratio": ratio})))
        for ratio in (0.1, 0.2)
    ]
    candidates = make_candidates(model, REFERENCE, [half(model).mask, *widths], [], ["ddim-steps"], ["dog"])
    assert [one.method for one in candidates] == ["random", "magnitude", "magnitude", *["ddim-steps"] * 3]
    rows = evaluate_all(model, candidates, tmp_path / "t.parquet")
    assert rows.error.isna().all()
    for candidate in candidates[1:3]:
        own = rows[rows.key == candidate.key]
        pruned = model.prune_widths(candidate.widths)
        assert (own.params == pruned.architecture().params).all() and own.params.iloc[0] < model.architecture().params
        assert own.kept.iloc[0] == pytest.approx(pruned.graph().macs_per_call / model.graph().macs_per_call)
        assert (own.psnr < 70).all()
