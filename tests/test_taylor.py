"""Diff-Pruning: the expansion by finite differences, the two ways to stop, networks with layers that do nothing."""

import numpy as np
import pytest
import torch

from explorer.experiment import prune
from explorer.models import catalogue
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from explorer.pruners.taylor import taylor_at_thresholds
from explorer.pruners.taylor_walk import TaylorWalk
from tests.conftest import PIPELINES

pytestmark = pytest.mark.slow

FEW = {"steps": 3, "num_images": 3, "stride": 200, "guidance": 3.0, "threshold": 0.0}
PROMPTS = ["dog", "cat"]


@pytest.fixture(scope="module")
def model(sd_folder):
    return catalogue.load(sd_folder)


def run_walk(model, **settings) -> TaylorWalk:
    walk = TaylorWalk(model, PROMPTS, method_config("taylor", FEW | settings))
    list(walk.run())
    return walk


def test_importance_is_the_first_order_change_of_the_loss(model):
    """Compare a small change of one weight with the sum of its gradients."""
    walk, name, eps = run_walk(model), "conv_in.weight", 1e-3
    weight, batches = walk.parameters[name], walk._generate()
    noise = [walk._noise(clean) for clean, _ in batches]

    def total() -> float:
        return sum(walk._loss_at(t, batches, noise, with_gradients=False)[0] for t, _ in walk.trace)

    with torch.no_grad():
        before = weight.clone()
        weight[0, 0, 1, 1] += eps
        above = total()
        weight.copy_(before)
        weight[0, 0, 1, 1] -= eps
        below = total()
        weight.copy_(before)
    assert (above - below) / (2 * eps) == pytest.approx(walk.sums[name][0, 0, 1, 1].item(), rel=0.02)
    assert torch.equal(walk.values()[name], (weight.detach() * walk.sums[name]).abs())


def test_ways_to_accumulate_gradients_are_ordered_by_size(model):
    signed, absolute = run_walk(model).values(), run_walk(model, accumulate="absolute").values()
    squared = run_walk(model, accumulate="squared").values()
    for name in signed:
        assert (signed[name] <= absolute[name] * 1.0001 + 1e-7).all()
        assert (squared[name] <= absolute[name].square() * 1.0001 + 1e-9).all()


def test_gradients_stop_below_the_threshold_and_the_loss_is_still_measured(model):
    whole = run_walk(model)
    shares = [share for _, share in whole.trace]
    assert whole.used == len(shares) == 5 and whole.trace[0] == (0, 1.0)
    threshold = (shares[2] + min(shares[:2])) / 2 if shares[2] < min(shares[:2]) else None
    assert threshold is not None, "the loss of this model does not fall"
    before, after = run_walk(model, threshold=threshold), run_walk(model, threshold=threshold, stop="after")
    assert (before.used, after.used) == (2, 3) and len(before.trace) == 5
    assert before.trace == whole.trace


@pytest.mark.parametrize("stop", ["before", "after"])
def test_one_walk_serves_many_thresholds(model, stop):
    shares = [share for _, share in run_walk(model).trace]
    thresholds = [0.0, sorted(shares)[1] + 1e-6, 0.9999]
    config = method_config("taylor", FEW | {"stop": stop})
    together = run_to_completion(taylor_at_thresholds(model, PROMPTS, config, thresholds))
    for threshold in thresholds:
        alone = run_to_completion(prune(model, "taylor", config.model_copy(update={"threshold": threshold}), PROMPTS))
        assert alone.header.pruner == together[threshold].header.pruner
        for name, score in alone.score.items():
            assert np.array_equal(score, together[threshold].score[name])
    some = next(iter(alone.score))
    assert not np.array_equal(together[0.0].score[some], together[0.9999].score[some])


@pytest.mark.parametrize("axis", ["channels", "heads and neurons"])
@pytest.mark.parametrize("folder", ["sd", "ddpm", "dit"])
def test_taylor_works_on_unets_and_on_transformers_without_channels(folder, axis, tmp_path):
    PIPELINES[folder]().save_pretrained(tmp_path / folder)
    own = catalogue.load(tmp_path / folder)
    prompts = {"sd": PROMPTS, "ddpm": [""], "dit": ["0", "1"]}[folder]
    config = method_config("taylor", FEW | {"axis": axis})
    if (folder, axis) == ("dit", "channels"):
        with pytest.raises(ValueError, match="only the channels of U-Nets can be pruned"):
            run_to_completion(prune(own, "taylor", config, prompts))
        return
    importance = run_to_completion(prune(own, "taylor", config, prompts))
    half = importance.at(importance.max_ratio / 2)
    expected = round(half.params_fraction * importance.header.params)
    assert sum(p.numel() for p in own.prune_widths(half).denoiser.parameters()) == expected
    assert len(importance.header.trace) == 5 and all((score >= 0).all() for score in importance.score.values())


def test_layers_that_do_nothing_have_no_importance_and_nothing_changes(model):
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    other = model.with_shared_weights()
    other.denoiser.unused = torch.nn.Linear(3, 3)
    assert not run_walk(other).values()["unused.weight"].any()
    config = method_config("taylor", FEW | {"num_images": 1})
    one, same = (run_to_completion(prune(model, "taylor", config, PROMPTS)) for _ in range(2))
    assert all(np.array_equal(one.rank[name], same.rank[name]) for name in one.rank)
    assert all(torch.equal(value, before[name]) for name, value in model.denoiser.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.denoiser.parameters())


def test_invalid_taylor_settings_are_refused(model):
    broken = model.with_shared_weights()
    layer = broken.denoiser.conv_out
    layer.weight = torch.nn.Parameter(layer.weight * float("nan"), requires_grad=False)
    with pytest.raises(ValueError, match="loss at timestep 0 is not finite"):
        run_to_completion(prune(broken, "taylor", method_config("taylor", FEW), PROMPTS))
    with pytest.raises(ValueError, match="threshold"):
        method_config("taylor", {"threshold": float("nan")})
