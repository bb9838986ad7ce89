"""Diff-Pruning: the expansion by hand, the two ways to stop, networks with layers that do nothing."""

import numpy as np
import pytest
import torch

from explorer import catalogue
from explorer.experiment import config_of, prune
from explorer.pruners.expansion import Expansion
from explorer.pruners.taylor import at_thresholds
from explorer.work import finished

FEW = {"steps": 3, "pictures": 3, "stride": 200, "guidance": 3.0, "threshold": 0.0}
PROMPTS = ["dog", "cat"]


@pytest.fixture(scope="module")
def model(sd_folder):
    return catalogue.load(sd_folder)


def expanded(model, **settings) -> Expansion:
    found = Expansion(model, PROMPTS, config_of("taylor", FEW | settings))
    list(found.walk())
    return found


def test_the_importance_is_what_the_loss_changes_by_to_first_order(model):
    """Moving one weight a little changes the summed losses by what the sum of gradients says."""
    found = expanded(model)
    name, weight = next((n, p) for n, p in found.parameters.items() if n == "conv_in.weight")
    parts, eps = found._pictures(), 1e-3
    noise = [found._noise(part) for part, _ in parts]

    def total() -> float:
        return sum(found._at(t, parts, noise, False)[0] for t, _ in found.trace)

    with torch.no_grad():
        before = weight.clone()
        weight[0, 0, 1, 1] += eps
        above = total()
        weight.copy_(before)
        weight[0, 0, 1, 1] -= eps
        below = total()
        weight.copy_(before)
    assert (above - below) / (2 * eps) == pytest.approx(found.sums[name][0, 0, 1, 1].item(), rel=0.02)
    assert torch.equal(found.values()[name], (weight.detach() * found.sums[name]).abs())


def test_ways_to_add_up(model):
    signed, absolute = expanded(model).values(), expanded(model, accumulate="absolute").values()
    squared = expanded(model, accumulate="squared").values()
    for name in signed:
        assert (signed[name] <= absolute[name] * 1.0001 + 1e-7).all()
        assert (squared[name] <= absolute[name].square() * 1.0001 + 1e-9).all()


def test_the_walk_stops_where_the_loss_is_low_and_goes_on_looking(model):
    everything = expanded(model)
    shares = [share for _, share in everything.trace]
    assert everything.used == len(shares) == 5 and everything.trace[0] == (0, 1.0)
    threshold = (shares[2] + min(shares[:2])) / 2 if shares[2] < min(shares[:2]) else None
    assert threshold is not None, "the loss of this model does not fall"
    before, after = expanded(model, threshold=threshold), expanded(model, threshold=threshold, stop="after")
    assert (before.used, after.used) == (2, 3) and len(before.trace) == 5
    assert before.trace == everything.trace


@pytest.mark.parametrize("stop", ["before", "after"])
def test_one_walk_serves_many_thresholds(model, stop):
    shares = [share for _, share in expanded(model).trace]
    thresholds = [0.0, sorted(shares)[1] + 1e-6, 0.9999]
    config = config_of("taylor", FEW | {"stop": stop})
    together = finished(at_thresholds(model, PROMPTS, config, thresholds))
    for threshold in thresholds:
        alone = finished(prune(model, "taylor", config.model_copy(update={"threshold": threshold}), PROMPTS))
        assert alone.header.pruner == together[threshold].header.pruner
        for name, score in alone.score.items():
            assert np.array_equal(score, together[threshold].score[name])
    some = next(iter(alone.score))
    assert not np.array_equal(together[0.0].score[some], together[0.9999].score[some])


@pytest.mark.parametrize("axis", ["channels", "heads and neurons"])
@pytest.mark.parametrize("folder", ["sd", "ddpm", "dit"])
def test_it_works_on_u_nets_and_on_transformers_without_channels(folder, axis, tmp_path):
    from tests.conftest import PIPELINES

    PIPELINES[folder]().save_pretrained(tmp_path / folder)
    own = catalogue.load(tmp_path / folder)
    prompts = {"sd": PROMPTS, "ddpm": [""], "dit": ["0", "1"]}[folder]
    config = config_of("taylor", FEW | {"axis": axis})
    if (folder, axis) == ("dit", "channels"):
        with pytest.raises(ValueError, match="channels can be cut of"):
            finished(prune(own, "taylor", config, prompts))
        return
    found = finished(prune(own, "taylor", config, prompts))
    half = found.at(found.header.max_ratio / 2)
    smaller = half.narrowed(own)
    assert sum(p.numel() for p in smaller.denoiser.parameters()) == round(half.kept * found.header.params)
    assert len(found.header.trace) == 5 and all((score >= 0).all() for score in found.score.values())


def test_layers_that_do_nothing_have_no_importance_and_nothing_changes(model):
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    other = model.twin()
    other.denoiser.unused = torch.nn.Linear(3, 3)
    found = expanded(other)
    assert not found.values()["unused.weight"].any()
    one = finished(prune(model, "taylor", config_of("taylor", FEW | {"pictures": 1}), PROMPTS))
    again = finished(prune(model, "taylor", config_of("taylor", FEW | {"pictures": 1}), PROMPTS))
    assert all(np.array_equal(one.rank[name], again.rank[name]) for name in one.rank)
    assert all(torch.equal(value, before[name]) for name, value in model.denoiser.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.denoiser.parameters())


def test_what_cannot_be_expanded_is_said(model):
    broken = model.twin()
    layer = broken.denoiser.conv_out
    layer.weight = torch.nn.Parameter(layer.weight * float("nan"), requires_grad=False)
    with pytest.raises(ValueError, match="loss at timestep 0 is not finite"):
        finished(prune(broken, "taylor", config_of("taylor", FEW), PROMPTS))
    with pytest.raises(ValueError, match="threshold"):
        config_of("taylor", {"threshold": float("nan")})
