"""Means, intervals and differences of made-up rows whose answer is known."""

import numpy as np
import pandas as pd
import pytest
import torch

from explorer.evaluation.statistics import interval, paired_difference, summarize


def rows(shift: float = 0.0, prompts: int = 30, each: int = 4, noise: float = 0.05) -> pd.DataFrame:
    """Make rows of the full run and of one candidate whose ssim is lower by `shift`; hard prompts are hard for both."""
    rng = np.random.default_rng(0)
    hard = np.repeat(rng.normal(0, 0.2, prompts), each)
    about = {
        "model": "emoji-unet",
        "ratio": 0.5,
        "settings": "{}",
        "sampler": "ddim",
        "steps": 6,
        "kept": 0.5,
        "macs": 10,
        "params": 7,
        "error": None,
    }
    frames = []
    for key, off, seconds in (("full", 0.0, 2.0), ("worse", shift, 1.0)):
        own = {"key": key, "method": key, "prompt": np.repeat([f"p{i}" for i in range(prompts)], each)}
        own |= {"seed": np.arange(prompts * each), "batch": np.arange(prompts * each) // 8}
        own |= {"ssim": 0.7 + hard - off + rng.normal(0, noise, prompts * each)}
        own |= {"loop_seconds": seconds * (1 + own["batch"]), "seconds": seconds * 3, "rank": own["seed"] % 10}
        frames.append(pd.DataFrame(own | about))
    return pd.concat(frames, ignore_index=True)


def test_interval_has_its_nominal_coverage():
    rng, num_inside = np.random.default_rng(1), 0
    for trial in range(200):
        prompts = np.repeat(np.arange(25), 4)
        values = np.repeat(rng.normal(0, 1, 25), 4) + rng.normal(0, 0.3, 100)
        found = interval(values, prompts, seed=trial)
        num_inside += found.low <= 0 <= found.high
        naive = interval(values, np.arange(100), seed=trial)
        assert naive.high - naive.low < found.high - found.low  # pictures of one prompt are no independent evidence
    assert 0.88 <= num_inside / 200 <= 0.98


def test_paired_difference_finds_a_worse_candidate_despite_prompt_variance():
    found = paired_difference(rows(0.03), "worse", "full", "ssim")
    assert found.high < 0 and found.mean == pytest.approx(-0.03, abs=0.015)
    assert found.n == 120 and found.lower > found.higher and found.lower + found.higher + found.equal == 120
    nothing = paired_difference(rows(0.0), "worse", "full", "ssim")
    assert nothing.low < 0 < nothing.high


def test_difference_uses_only_pictures_that_both_generated():
    some = rows(0.03)
    some.loc[(some.key == "worse") & (some.seed < 10), "error"] = "failed"
    assert paired_difference(some, "worse", "full", "ssim").n == 110
    with pytest.raises(ValueError, match="no picture in common"):
        paired_difference(some[some.key == "full"], "worse", "full", "ssim")


def test_summary_counts_failures():
    some = rows(0.03)
    some.loc[(some.key == "worse") & (some.seed < 10), "error"] = "values that are not finite"
    worse = summarize(some).set_index("key").loc["worse"]
    assert (worse.n, worse.failed) == (110, 10) and "not finite" in worse.error
    assert worse.ssim_low < worse.ssim < worse.ssim_high
    some.loc[some.key == "worse", "error"] = "all of it failed"
    worse = summarize(some).set_index("key").loc["worse"]
    assert (worse.n, worse.failed) == (0, 120) and np.isnan(worse.ssim)


def test_speed_is_taken_batch_by_batch():
    full, worse = (summarize(rows()).set_index("key").loc[key] for key in ("full", "worse"))
    assert full.speedup == 1 and worse.speedup == worse.speedup_low == worse.speedup_high == 2


def test_retrieval_counts_ranks_and_has_an_interval():
    full = summarize(rows()).iloc[0]
    assert (full.retrieval_top1, full.retrieval_top5) == (0.1, 0.5)
    assert full.retrieval_top5_low < 0.5 < full.retrieval_top5_high


def test_kid_of_other_pictures_is_larger_than_its_spread():
    some, generator = rows(), torch.Generator().manual_seed(0)
    near, far = torch.randn(120, 6, generator=generator), torch.randn(120, 6, generator=generator) + 1
    some["features"] = [*near.numpy(), *far.numpy()]
    found = summarize(some, torch.randn(200, 6, generator=generator)).set_index("key")
    assert abs(found.kid["full"]) < 3 * found.kid_spread["full"] < found.kid["worse"]
    assert found.fid["full"] < found.fid["worse"]
    assert summarize(some).kid.isna().all()
