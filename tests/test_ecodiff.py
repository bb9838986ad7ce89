"""EcoDiff: masks that are drawn once a step, learned through the chain, an order that beats chance."""

import numpy as np
import pytest
import torch

from explorer import catalogue
from explorer.experiment import config_of, prune
from explorer.pruners.chain import Chain
from explorer.pruners.concrete import Concrete, hard_concrete, open_share
from explorer.pruners.orders import places
from explorer.pruners.worth import Worth
from explorer.structure import Gates
from explorer.work import finished

PROMPTS = ["dog", "cat"]
FEW = {"steps": 3, "iterations": 3, "batch": 2, "pictures": 4, "guidance": 3.0}


@pytest.fixture(scope="module")
def model(sd_folder):
    return catalogue.load(sd_folder)


CONCRETE = FEW | {"decision": "concrete"}


def learner(model, **settings) -> Concrete:
    config = config_of("ecodiff", CONCRETE | settings)
    return Concrete(Chain(model, places(model, config), PROMPTS, config))


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
    (far, slope), (again, same) = (one._distance(one.chain.batch(0)) for one in (plain, other))
    assert far == pytest.approx(again) and far > 0 and slope.abs().max() > 0
    assert torch.allclose(slope, same, atol=1e-6 * slope.abs().max().item() + 1e-9)


def test_the_loss_is_that_of_the_masked_network(model):
    one = learner(model, start=0.2)
    masks, batch, chain = one._masks().detach(), one.chain.batch(0), one.chain

    def drawn(masks):
        with Gates(chain.model.denoiser, masks):
            *_, last = chain.calls(chain.model, batch)
        return last.latents

    expected = (drawn(chain.by_site(masks)) - drawn({})).square().mean().item()
    assert one._distance(batch)[0] == pytest.approx(expected, rel=1e-4)


def test_the_worth_of_a_unit_is_what_its_absence_costs(model):
    """To second order, and for directions that are drawn: so only on average, and where the order can be seen."""
    config = config_of("ecodiff", FEW | {"iterations": 40, "first": 40, "batch": 4})
    chain = Chain(model, places(model, config), PROMPTS, config)
    worth, batch = Worth(chain), chain.batch(0)
    for _ in range(config.iterations):
        worth.step()
    found, truth = worth.score() * chain.params, []
    some = np.random.default_rng(0).permutation(len(found))[:40]
    for unit in some:
        gates = torch.ones(len(found))
        gates[unit] = 0
        truth.append((chain.gated(gates, batch) - chain.full(batch)).square().mean().item())
    ranks = [np.argsort(np.argsort(values)) for values in (found[some], truth)]
    assert np.corrcoef(*ranks)[0, 1] > 0.8
    assert np.median(found[some] / np.array(truth)) == pytest.approx(1, rel=0.5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"first": 1, "ranking": "local", "round_to": 4},
        CONCRETE,
        CONCRETE | {"distance": "call"},
        CONCRETE | {"price": "l1"},
    ],
)
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
    config = config_of("ecodiff", CONCRETE | {"iterations": 12, "start": 0.5, "noise": 0.1, "weight": 0.02})
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
