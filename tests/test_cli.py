import pytest

from explorer.cli import options
from explorer.evaluation import baselines, results
from explorer.masks.result import load
from explorer.masks.schedule import ScheduleImportance

pytestmark = pytest.mark.slow


def test_models(document):
    rows = document("models")
    assert [row["id"] for row in rows][:6] == [
        *("emoji-unet", "emoji-dit", "emoji-flux", "emoji-flux-turbo", "emoji-ddpm", "sd15")
    ]
    assert all(row["embedded"] and row["available"] for row in rows[:5]) and not rows[5]["available"]


def test_cost_counts_pruned_widths(document):
    found = document("cost", "--model", "ddpm-cifar10", "--channel-ratio", "0.3")
    assert found["params"] == 19_851_157 and found["whole"]["params"] == 35_746_307
    assert round(found["macs_per_call"] / 1e9, 2) == 3.39 and found["channel_ratio"] == 0.3
    newer = document("cost", "--model", "ddpm-cifar10", "--channel-ratio", "0.3", "--rule", "torch-pruning")
    assert newer["params"] == 13_949_333


def test_widths_are_made_shown_counted_and_used(document, tmp_path):
    file, half = tmp_path / "w.safetensors", tmp_path / "half.safetensors"
    assert document("prune", "--method", "magnitude", "--out", file)["kept"] is None
    made = document("prune", "--method", "magnitude", "--ratio", "0.2", "--out", half)
    assert made["kept"] == pytest.approx(0.8, abs=1e-3)
    shown = document("show", file)
    assert (
        shown["kind"] == "importance"
        and len(shown["dims"]) == 81
        and shown["max_ratio"] == pytest.approx(0.4825, abs=1e-3)
    )
    whole = document("cost")
    smaller = document("cost", "--mask", file, "--ratio", "0.2")
    assert smaller == document("cost", "--mask", half)
    assert smaller["params"] == pytest.approx(0.8 * whole["params"], rel=1e-3)
    assert smaller["macs_per_call"] < whole["macs_per_call"] == smaller["whole"]["macs_per_call"]
    assert made["removed"] == smaller["removed"] == document("show", half)["removed"]
    assert list(made["removed"]) == ["heads", "neurons"]
    assert sum(made["removed"].values()) == whole["params"] - smaller["params"]
    generated = document("generate", "--prompt", "dog", "--steps", "2", "--mask", half, "--out", tmp_path / "dog.png")
    assert generated["kept"] == pytest.approx(smaller["kept"]) and generated["macs_total"] == 2 * whole["macs_per_call"]


def test_pruned_widths_are_evaluated_by_method_or_file(document, sd_folder, tmp_path):
    file, prompts, model = tmp_path / "w.safetensors", tmp_path / "prompts.txt", ("--model", sd_folder)
    prompts.write_text("one\ntwo\nsix\ncat\n")
    few = ("--ratio", "0.2", "--steps", "2", "--prompts", "2", "--converged-steps", "0", "--prompt-file", prompts)
    document("prune", *model, "--method", "random-width", "--seed", "1", "--out", file)
    rows = document("evaluate", *model, "--method", "magnitude", "--mask", file, *few, "--out", tmp_path / "e.parquet")
    assert [row["method"] for row in rows] == ["full", "magnitude", "random-width"]
    assert rows[1]["params"] == pytest.approx(0.8 * rows[0]["params"], rel=0.01) and rows[1]["kept"] < 1
    assert rows[2]["params"] == document("cost", *model, "--mask", file, "--ratio", "0.2")["params"] < rows[0]["params"]


def test_cost_counts_calls_and_masks(document, tmp_path):
    plain = document("cost", "--model", "sd15", "--steps", "50", "--sampler", "pndm")
    assert plain["calls"] == 51 and plain["kept"] == 1 and plain["macs_total"] == 51 * plain["macs_per_call"]
    run, file = ("--model", "sd15", "--steps", "50", "--sampler", "ddim"), tmp_path / "u.safetensors"
    document("prune", *run, "--method", "uniform", "--out", file)
    pruned = document("cost", *run, "--mask", file, "--ratio", "0.8")
    assert pruned["kept"] == pytest.approx(0.2)
    keys = {"model", "calls", "macs_per_call", "macs_per_call_attention", "macs_total", "kept", "kept_params", "params"}
    assert set(pruned) == keys | {"units"}


def test_an_empty_setting_is_none():
    assert dict(map(options.parse_setting, ["reach=", "order=1"])) == {"reach": None, "order": "1"}


def test_from_prune_to_picture(document, sd_folder, tmp_path):
    file, picture = tmp_path / "m.safetensors", tmp_path / "p.png"
    setting = ("--model", sd_folder, "--steps", "6")
    made = document("prune", *setting, "--method", "random", "--ratio", "0.5", "--set", "order=1", "--out", file)
    assert set(made) == {"method", "out", "seconds", "peak_mb", "kept"} and made["kept"] == pytest.approx(0.5, abs=0.05)
    shown = document("show", file)
    assert shown["kept"] == made["kept"] and shown["order"] == 1 and shown["pruner"]["name"] == "random"
    generated = document("generate", *setting, "--prompt", "dog", "--mask", file, "--out", picture)
    assert set(generated) == {"seconds", "denoise_seconds", "macs_total", "kept", "calls", "seed", "out"}
    assert generated["kept"] == made["kept"] and picture.read_bytes().startswith(b"\x89PNG")


def test_without_a_ratio_prune_writes_an_importance(document, sd_folder, tmp_path):
    file = tmp_path / "i.safetensors"
    made = document("prune", "--model", sd_folder, "--steps", "6", "--method", "deepcache", "--out", file)
    assert made["kept"] is None and isinstance(load(file), ScheduleImportance)


def test_show_describes_every_schedule_file(run, sd_folder, tmp_path):
    run("prune", "--model", sd_folder, "--method", "uniform", "--out", tmp_path / "u.safetensors")
    code, out, _ = run("show", tmp_path / "u.safetensors")
    assert code == 0 and "an importance of schedules" in out and "10 units" in out


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (("cost", "--model", "nope"), "neither a model of the catalogue"),
        (("cost", "--channel-ratio", "1"), "the channel ratio must be at least 0 and below 1, got 1.0"),
        (
            ("cost", "--channel-ratio", "0.3", "--rule", "magic"),
            "rule 'magic' is unknown; choose one of paper, torch-pruning",
        ),
        (("cost", "--model", "dit-xl-2-256", "--channel-ratio", "0.3"), "not those of a DiTTransformer2DModel"),
        (("cost", "--steps", "0"), "steps must be between 1 and 1000, got 0"),
        (("cost", "--steps", "1000000"), "steps must be between 1 and 1000"),
        (("cost", "--steps", "few"), "'--steps'"),
        (("cost", "--sampler", "heun"), "sampler 'heun' is unknown"),
        (("cost", "--granularity", "head"), "granularity 'head' is unknown"),
        (("cost", "--mask", "missing.safetensors"), "missing.safetensors does not exist"),
        (("generate", "--prompt", "", "--out", "OUT"), "Type what to draw."),
        (("generate", "--prompt", "x" * 10_000, "--out", "OUT"), "at most 500 characters"),
        (("generate", "--prompt", "dog", "--steps", "0", "--out", "OUT"), "steps"),
        (("generate", "--prompt", "dog", "--guidance", "nan", "--out", "OUT"), "guidance"),
        (("generate", "--prompt", "dog", "--out", "/nowhere/p.png"), "/nowhere/p.png cannot be written"),
        (("generate", "--prompt", "dog", "--dtype", "int8", "--out", "OUT"), "dtype 'int8' is unknown"),
        (("generate", "--prompt", "dog", "--model", "sd15", "--out", "OUT"), "weights of sd15"),
        (("prune", "--method", "magic", "--out", "OUT"), "method 'magic' is unknown"),
        (("prune", "--method", "uniform", "--ratio", "nan", "--out", "OUT"), "ratio"),
        (("prune", "--method", "uniform", "--ratio", "1.2", "--out", "OUT"), "ratio"),
        (("prune", "--method", "random", "--ratio", "0.99", "--out", "OUT"), "the largest possible"),
        (
            ("prune", "--method", "uniform", "--set", "every=x", "--out", "OUT"),
            "uniform has no setting 'every'",
        ),
        (("prune", "--method", "uniform", "--set", "every", "--out", "OUT"), "--set needs field=value, got 'every'"),
        (("show", "missing.safetensors"), "does not exist"),
        (("train", "emoji-cat"), "emoji-cat"),
        (("prune", "--method", "similarity", "--model", "sd15", "--out", "OUT"), "weights of sd15"),
        (("prune", "--method", "search", "--prompts", "none.txt", "--out", "OUT"), "none.txt cannot be read"),
        (("fit", "none.safetensors", "--out", "OUT"), "none.safetensors"),
        (("similarity", "--preset", "figure8", "--out", "OUT"), "preset 'figure8' is unknown"),
        (("similarity", "--unit", "attic", "--out", "OUT"), "unit 'attic' is unknown"),
        (("similarity", "--prompts", "0", "--out", "OUT"), "prompts"),
        (("similarity", "--kind", "smell", "--out", "OUT"), "measure 'smell' is unknown"),
        (("evaluate", "--prompts", "1", "--out", "OUT"), "prompts"),
        (("evaluate", "--method", "uniform", "--out", "OUT"), "serves every ratio; say which with --ratio"),
        (("evaluate", "--baseline", "magic", "--ratio", "0.5", "--out", "OUT"), "baseline 'magic' is unknown"),
        (("evaluate", "--method", "uniform", "--ratio", "1.5", "--out", "OUT"), "ratio must be at most 1, not 1.5"),
        (("evaluate", "--mask", "missing.safetensors", "--out", "OUT"), "does not exist"),
        (("evaluate", "--prompt-file", "none.txt", "--out", "OUT"), "none.txt cannot be read"),
        (("dance",), "dance"),
        (("generate",), "prompt"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(run, tmp_path, arguments, reason):
    out = tmp_path / "out"
    code, printed, errors = run(*(out if argument == "OUT" else argument for argument in arguments))
    assert code == 2 and printed == "" and "Traceback" not in errors
    assert reason in errors.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_mask_of_another_model_or_number_of_calls_is_refused(run, sd_folder, tmp_path):
    file = tmp_path / "m.safetensors"
    run("prune", "--model", sd_folder, "--steps", "6", "--method", "random", "--ratio", "0.5", "--out", file)
    code, _, errors = run("cost", "--model", "sd15", "--steps", "6", "--mask", file)
    assert code == 2 and "for the model tiny-sd, not sd15" in errors
    generate = ("generate", "--model", sd_folder, "--prompt", "dog", "--out", tmp_path / "p.png", "--mask", file)
    code, _, errors = run(*generate, "--steps", "5")
    assert code == 2 and "schedules 6 calls" in errors and not (tmp_path / "p.png").exists()
    code, _, errors = run(*generate, "--steps", "6", "--ratio", "0.2")
    assert code == 2 and "leave --ratio out" in errors
    file.write_bytes(file.read_bytes()[:100])
    code, _, errors = run(*generate, "--steps", "6")
    assert code == 2 and "damaged" in errors


def test_similarity_of_a_folder_needs_prompts_and_gives_a_file(run, document, sd_folder, tmp_path):
    out, prompts = tmp_path / "s.safetensors", tmp_path / "prompts.txt"
    setting = ("similarity", "--model", sd_folder, "--steps", "4", "--granularity", "stage", "--out", out)
    code, _, errors = run(*setting)
    assert code == 2 and "give a file of prompts, one per line" in errors
    prompts.write_text("dog\n\n cat\n")
    found = document(*setting, "--prompt-file", prompts, "--prompts", "3")
    assert found["pictures"] == 3 and set(found["adjacent"]) == set(found["units"])
    prompts.write_text("\n")
    code, _, errors = run(*setting, "--prompt-file", prompts)
    assert code == 2 and "must hold 1 to" in errors


def test_evaluation_prints_cost_and_loss_of_each_candidate(document, run, tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "TUNING_IMAGES", 2)
    out = tmp_path / "trial.parquet"
    setting = ("evaluate", "--prompts", "2", "--steps", "4", "--converged-steps", "5", "--out", out)
    setting += ("--method", "uniform", "--method", "random", "--ratio", "0.5", "--baseline", "dpm++-steps")
    rows = document(*setting)
    assert [row["method"] for row in rows] == ["full", "uniform", "random", "dpm++-steps"]
    keys = {"kept", "ssim", "psnr", "clip_score", "retrieval_top1", "retrieval_top5", "fid", "kid", "seconds", "n"}
    assert all(keys <= set(row) for row in rows) and rows[0]["ssim"] > 0.9999 > rows[1]["ssim"]
    assert rows[3]["steps"] == 2 and rows[3]["kept"] == 0.5 and rows[1]["n"] == 2 and rows[1]["ssim_low"] is not None
    code, _, errors = run(*setting)
    assert code == 2 and "--resume" in errors
    code, printed, _ = run(*setting, "--resume")
    assert code == 0 and "dpm++-steps" in printed


def test_evaluation_of_a_folder_uses_a_fourth_of_the_prompts_for_tuning(document, sd_folder, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\nsix\nten\ncat\n")
    setting = ("evaluate", "--model", sd_folder, "--steps", "4", "--converged-steps", "0", "--prompt-file", prompts)
    out = tmp_path / "t.parquet"
    rows = document(*setting, "--prompts", "3", "--ratio", "0.5", "--baseline", "ddim-steps", "--out", out)
    assert [row["method"] for row in rows] == ["full", "ddim-steps"]
    assert set(results.read_results(out)[1].prompt) == {"two", "six", "ten"}


def test_evaluation_of_a_single_prompt_warns_about_it(run, sd_folder, tmp_path):
    (tmp_path / "one.txt").write_text("dog\n")
    setting = ("--prompt-file", tmp_path / "one.txt", "--prompts", "2", "--steps", "4", "--converged-steps", "0")
    code, _, errors = run("evaluate", "--model", sd_folder, *setting, "--out", tmp_path / "one.parquet")
    assert code == 0 and "tuned on the 1 that judge them" in errors


def test_several_models_are_evaluated_with_one_file_each(document, sd_folder, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\nsix\ncat\n")
    setting = ("evaluate", "--model", sd_folder, "--model", "emoji-unet", "--steps", "4", "--converged-steps", "0")
    rows = document(*setting, "--prompt-file", prompts, "--prompts", "2", "--out", tmp_path / "t.parquet")
    assert [(row["model"], row["method"], row["n"]) for row in rows] == [
        (sd_folder.name, "full", 2),
        ("emoji-unet", "full", 2),
    ]
    both = [results.read_results(tmp_path / f"t-{name}.parquet")[1] for name in (sd_folder.name, "emoji-unet")]
    assert [set(rows.model) for rows in both] == [{sd_folder.name}, {"emoji-unet"}]


def test_real_images_need_inception_and_the_error_names_it(run, sd_folder, tmp_path):
    setting = ("evaluate", "--model", sd_folder, "--prompt-file", __file__, "--prompts", "2", "--steps", "4")
    code, _, errors = run(*setting, "--real-images", tmp_path, "--out", tmp_path / "t.parquet")
    assert code == 2 and "Inception features need" in errors and not (tmp_path / "t.parquet").exists()


def test_an_importance_needs_a_ratio(run, sd_folder, tmp_path):
    file = tmp_path / "i.safetensors"
    run("prune", "--model", sd_folder, "--steps", "6", "--method", "uniform", "--out", file)
    generate = ("generate", "--model", sd_folder, "--prompt", "dog", "--steps", "6", "--out", tmp_path / "p.png")
    assert run(*generate, "--mask", file)[0] == 2
    code, _, errors = run(*generate, "--mask", file, "--ratio", "0.99")
    assert code == 2 and "between 0 and 0.8333" in errors
    assert run(*generate, "--mask", file, "--ratio", "0.5")[0] == 0


def test_a_model_is_pruned_for_the_run_that_it_was_made_for(document, tmp_path):
    file = tmp_path / "m.safetensors"
    document("prune", "--model", "emoji-flux-turbo", "--method", "uniform", "--ratio", "0.5", "--out", file)
    shown = document("show", file)
    assert (shown["sampler"], shown["steps"], shown["guidance"]) == ("euler", 4, 3.5)
