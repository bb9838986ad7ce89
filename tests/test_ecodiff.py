"""EcoDiff: masks that are drawn once a step, learned through the chain, an order that beats chance."""

import numpy as np
import pytest
import torch

from explorer import catalogue, trajectory
from explorer.experiment import config_of, prune
from explorer.pruners.concrete import Learner, hard_concrete, open_share
from explorer.pruners.orders import places
from explorer.structure import Gates
from explorer.work import finished

PROMPTS = ["dog", "cat"]
FEW = {"steps": 3, "iterations": 3, "batch": 2, "pictures": 4, "guidance": 3.0}


@pytest.fixture(scope="module")
def model(sd_folder):
    return catalogue.load(sd_folder)


def learner(model, **settings) -> Learner:
    config = config_of("ecodiff", FEW | settings)
    return Learner(model, places(model, config), PROMPTS, config)


def test_masks_are_those_of_the_paper_and_their_openness_is_exact():
    lots = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    for logit in (-2.0, 0.0, 1.5):
        logits = torch.full_like(lots, logit)
        drawn = hard_concrete(logits, lots, noise=0.0)
        assert drawn.min() >= 0 and drawn.max() <= 1
        assert (drawn > 0).float().mean() == pytest.approx(open_share(logits[:1]).item(), abs=0.005)
    # the figures of the specification: at logit 3 and noise 0.5 nearly every mask is 1
    drawn = hard_concrete(torch.full_like(lots, 3.0), lots, noise=0.5)
    assert drawn.mean() == pytest.approx(0.9998, abs=1e-4) and (drawn == 1).float().mean() == pytest.approx(
        0.965, abs=0.005
    )


@pytest.mark.parametrize("memory", ["step", "nested"])
def test_the_gradient_through_checkpoints_is_that_of_plain_back_propagation(model, memory):
    plain, other = learner(model, memory="plain", start=0.5), learner(model, memory=memory, start=0.5)
    (far, slope), (again, same) = plain._distance(), other._distance()
    assert far == pytest.approx(again) and far > 0 and slope.abs().max() > 0
    assert torch.allclose(slope, same, atol=1e-6 * slope.abs().max().item() + 1e-9)


def test_the_loss_is_that_of_the_masked_network(model):
    one = learner(model, start=0.2)
    masks = {name: mask.detach() for name, mask in one._masks().items()}
    noise, _ = model.noise([2**30, 2**30 + 1])
    chain = (3, noise, model.encode(PROMPTS, 3.0), 3.0)

    def drawn(masks):
        with Gates(one.model.denoiser, masks):
            scheduler = trajectory.sampler("ddim", model.scheduler_config)
            *_, last = trajectory.denoise(one.model, scheduler, *chain, generators=None)
        return last.latents

    expected = (drawn(masks) - drawn({})).square().mean().item()
    assert one._distance()[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("settings", [{}, {"distance": "call"}, {"price": "l1"}, {"ranking": "local", "round_to": 4}])
def test_a_run_that_is_stopped_goes_on_to_the_same_order(model, settings):
    config = config_of("ecodiff", FEW | settings)
    whole = finished(prune(model, "ecodiff", config, PROMPTS))
    work = prune(model, "ecodiff", config, PROMPTS)
    first = next(work)
    work.close()
    assert first.picture is None or first.picture.startswith(b"\x89PNG")
    again = finished(prune(model, "ecodiff", config, PROMPTS, state=first.state))
    assert all(np.array_equal(whole.score[name], again.score[name]) for name in whole.score)
    assert whole.header.pruner.name == "ecodiff" and whole.at(0.1).kept == pytest.approx(0.9, abs=0.01)


def test_a_unit_that_does_nothing_goes_before_its_like(model):
    """The price falls on all alike, so what the picture does not miss must lose its logit first."""
    other = model.twin()
    name, site = next((n, s) for n, s in places(model, config_of("ecodiff", {})).items() if n.endswith("neurons"))
    for path, first in site.consumers:
        layer = other.denoiser.get_submodule(path)
        layer.weight = torch.nn.Parameter(layer.weight.clone(), requires_grad=False)
        layer.weight *= 30  # so that the others are missed
        layer.weight[:, first : first + 4] = 0
    config = config_of("ecodiff", FEW | {"iterations": 12, "start": 0.5, "noise": 0.1, "weight": 0.02})
    found = finished(prune(other, "ecodiff", config, PROMPTS)).score[name]
    assert found[:4].max() < np.median(found[4:])


def test_what_goes_wrong_is_said_in_a_sentence_and_the_model_is_unchanged(model):
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    broken = model.twin()
    layer = broken.denoiser.conv_in
    layer.weight = torch.nn.Parameter(layer.weight * float("nan"), requires_grad=False)
    with pytest.raises(ValueError, match="no longer finite at step 0"):
        finished(prune(broken, "ecodiff", config_of("ecodiff", FEW), PROMPTS))
    with pytest.raises(ValueError, match="learned with other settings"):
        finished(
            prune(
                model, "ecodiff", config_of("ecodiff", FEW), PROMPTS, state={"logits": np.zeros(3), "done": np.array(1)}
            )
        )
    with pytest.raises(ValueError, match="draws noise at each step"):
        finished(prune(model, "ecodiff", config_of("ecodiff", FEW | {"sampler": "lcm"}), PROMPTS))
    assert all(torch.equal(value, before[name]) for name, value in model.denoiser.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.denoiser.parameters())
