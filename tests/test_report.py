"""Rankings of made-up rows whose order is known, and the committed results."""

import numpy as np
import pandas as pd
import pytest

from explorer.evaluation.results import FORMAT, Results, publish, read_results
from explorer.models import catalogue
from explorer.studies import report

LEVELS = {"good": 30.0, "fair": 28.0, "random": 20.0}


@pytest.fixture
def rows() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for ratio in (0.5, 0.8):
        for method, level in LEVELS.items():
            for seed in range(3 if method == "random" else 1):
                for picture in range(20):
                    own = {"key": f"{method}-{ratio}-{seed}", "method": method, "ratio": ratio, "settings": "{}"}
                    own |= {"prompt": f"p{picture}", "seed": picture, "error": None, "kept": 1 - ratio}
                    own |= {"psnr_box": level - 10 * ratio + rng.normal(0, 0.5), "loop_seconds": 2 * (1 - ratio)}
                    rows.append(own | {"features": np.zeros(4, np.float32)})
    return pd.DataFrame(rows)


def test_ranking_lists_the_best_first_and_the_others_with_their_gap(rows):
    table = report.ranking(rows, 0.8)
    assert list(table.name) == ["good", "fair", "random"] and (table.n == 20).all()
    fair = table.iloc[1]
    assert fair.behind == pytest.approx(2, abs=0.5) and fair.behind_low > 0 and fair.wins_of_best == 20
    assert table.iloc[0].behind == 0


def test_the_seeds_of_a_method_count_as_one(rows):
    random = report.ranking(rows, 0.5).set_index("name").loc["random"]
    assert random["mean"] == pytest.approx(rows[(rows.method == "random") & (rows.ratio == 0.5)].psnr_box.mean())


def test_a_failed_picture_is_left_out_for_all_candidates(rows):
    rows.loc[(rows.key == "fair-0.8-0") & (rows.prompt == "p3"), "error"] = "not finite"
    assert (report.ranking(rows, 0.8).n == 19).all()


def test_a_ratio_without_candidates_is_refused(rows):
    with pytest.raises(ValueError, match="no candidate at the ratio 0.7"):
        report.ranking(rows, 0.7)


def test_the_description_names_the_best_and_its_lead(rows):
    line = report.describe_ranking(rows, 0.8)
    assert line.startswith("80%: good 22.") and "fair" in line and "in 20 of 20" in line


def test_published_rows_are_small_and_give_the_same_ranking(rows, tmp_path):
    results = Results(tmp_path / "whole.parquet", {"format": FORMAT, "model": {"id": "tiny"}}, rows)
    results.write()
    publish(tmp_path / "whole.parquet", tmp_path / "small.parquet")
    about, small = read_results(tmp_path / "small.parquet")
    assert about["format"] == FORMAT and "features" not in small
    assert np.allclose(report.ranking(small, 0.8)["mean"], report.ranking(rows, 0.8)["mean"])


def test_figures_are_written_next_to_the_results(rows, tmp_path):
    Results(tmp_path / "trial.parquet", {"format": FORMAT, "model": {"id": "tiny"}}, rows).write()
    files = report.draw_figures(tmp_path / "trial.parquet")
    assert [file.name for file in files] == ["trial-kept.svg", "trial-loop-seconds.svg"]
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert all(name in text for name in LEVELS)


RESULTS = sorted((catalogue.ASSETS / "results").glob("*.parquet"))


def test_committed_results_match_the_bundled_model():
    suites = {"emoji-unet-ddim-50", "emoji-unet-ddim-50-deepcache", "emoji-unet-dpm++-25"}
    num_images = {f"emoji-unet-{trajectory}-head-to-head": 25 for trajectory in ("ddim-25", "dpm++-20", "pndm-50")}
    num_images |= {f"emoji-dit-ddim-{steps}-head-to-head": 25 for steps in (25, 50)}
    num_images |= {
        "emoji-flux-euler-20-head-to-head": 100,
        "emoji-flux-euler-20-extrapolation": 64,
        "emoji-dit-ddim-50-extrapolation": 64,
        "emoji-unet-ddim-50-planned": 48,
        "emoji-flux-euler-20-planned": 64,
        "emoji-unet-ddim-50-head-to-head": 200,
        "emoji-unet-ddim-50-seeds": 64,
    }
    ratios = {"emoji-unet-ddim-25-heads": (0.05, 0.1, 0.2, 0.3), "emoji-unet-ddim-25-channels": (0.2, 0.3, 0.5)}
    ratios |= {"emoji-dit-ddim-25-heads": (0.05, 0.1, 0.2, 0.3), "emoji-ddpm-ddim-50-channels": (0.2, 0.3, 0.5)}
    ratios |= {f"emoji-flux-{run}-heads": (0.1, 0.2, 0.3) for run in ("euler-20", "turbo-euler-4")}
    ratios |= {f"{run}-caches": (0.5, 0.75) for run in ("emoji-flux-euler-20", "emoji-dit-ddim-50")}
    ratios |= {"emoji-flux-turbo-euler-4-head-to-head": (0.5, 0.7), "emoji-dit-ddim-250-head-to-head": (0.6, 0.75)}
    of_one_method = {"emoji-unet-ddim-50-uniform-ends": 200, "emoji-dit-ddim-50-readings": 100}
    assert {file.stem for file in RESULTS} == suites | set(num_images) | set(ratios) | set(of_one_method)
    records = {name: catalogue.load(name).record.model_dump() for name in catalogue.EMBEDDED}
    for file in RESULTS:
        about, rows = read_results(file)
        assert about["model"] == records[max(filter(file.stem.startswith, records), key=len)]
        if file.stem in num_images:
            assert all(report.ranking(rows, ratio).n.min() == num_images[file.stem] for ratio in (0.5, 0.7, 0.8, 0.9))
            continue
        if file.stem in ratios:
            tables = [report.ranking(rows, ratio) for ratio in ratios[file.stem]]
            assert all(len(table) >= 4 and table.n.min() >= 8 for table in tables)
            continue
        if file.stem in of_one_method:
            assert all((report.ranking(rows, ratio).n == of_one_method[file.stem]).all() for ratio in (0.5, 0.7))
            continue
        assert about["converged_steps"] == 500
        summary = pd.read_json(file.with_suffix(".json"))
        of_deepcache = file.stem.endswith("-deepcache")  # every point of one family, on fewer pictures
        assert set(summary.key) == set(rows.key)
        assert (summary.n + summary.failed >= (16 if of_deepcache else 100)).all()
        for ratio in () if of_deepcache else (0.1, 0.5, 0.7, 0.8, 0.9, 0.95):
            table = report.ranking(rows, ratio)
            assert {"search", "uniform, tuned", "random", "unipc3-steps"} <= set(table.name) and (table.n >= 100).all()
        assert all(file.with_name(f"{file.stem}-{axis}.svg").is_file() for axis in ("kept", "loop-seconds"))
