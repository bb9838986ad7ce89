"""EcoDiff: masks that are sampled once per step, learned through all calls, and an order that beats a random one."""

import numpy as np
import pytest
import torch

from explorer.execution.width_gates import WidthGates
from explorer.experiment import prune
from explorer.models import catalogue
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from explorer.pruners.ecodiff_rollout import RolloutSet
from explorer.pruners.gauss_newton import GaussNewtonScorer
from explorer.pruners.hard_concrete import HardConcreteTrainer, hard_concrete, open_probability
from explorer.pruners.width_ranking import select_dims

pytestmark = pytest.mark.slow

PROMPTS = ["dog", "cat"]
FEW = {"steps": 3, "iterations": 3, "batch": 2, "num_images": 4, "guidance": 3.0}


@pytest.fixture(scope="module")
def model(sd_folder):
    return catalogue.load(sd_folder)


HARD_CONCRETE = FEW | {"algorithm": "hard_concrete"}


def make_trainer(model, **settings) -> HardConcreteTrainer:
    config = method_config("ecodiff", HARD_CONCRETE | settings)
    return HardConcreteTrainer(RolloutSet(model, select_dims(model, config), PROMPTS, config))


def test_masks_are_those_of_the_paper_and_the_probability_that_they_are_open_is_exact():
    uniform = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    for logit in (-2.0, 0.0, 1.5):
        logits = torch.full_like(uniform, logit)
        masks = hard_concrete(logits, uniform, noise=0.0)
        assert masks.min() >= 0 and masks.max() <= 1
        assert (masks > 0).float().mean() == pytest.approx(open_probability(logits[:1]).item(), abs=0.005)
    # the figures of the specification: at logit 3 and noise 0.5 nearly every mask is 1
    masks = hard_concrete(torch.full_like(uniform, 3.0), uniform, noise=0.5)
    assert masks.mean() == pytest.approx(0.9998, abs=1e-4)
    assert (masks == 1).float().mean() == pytest.approx(0.965, abs=0.005)


@pytest.mark.parametrize("checkpointing", ["per_call", "sqrt"])
def test_the_gradient_through_checkpoints_is_that_of_plain_back_propagation(model, checkpointing):
    trainers = [make_trainer(model, checkpointing=kind, init=0.5) for kind in ("none", checkpointing)]
    (distance, gradient), (same_distance, same_gradient) = (one._distance(one.rollouts.batch(0)) for one in trainers)
    assert distance == pytest.approx(same_distance) and distance > 0 and gradient.abs().max() > 0
    assert torch.allclose(gradient, same_gradient, atol=1e-6 * gradient.abs().max().item() + 1e-9)


def test_the_loss_is_that_of_the_masked_network(model):
    trainer = make_trainer(model, init=0.2)
    masks, rollouts = trainer._masks().detach(), trainer.rollouts
    batch = rollouts.batch(0)

    def generate(factors):
        with WidthGates(rollouts.model.denoiser, rollouts.dims, factors):
            *_, last = rollouts.calls(rollouts.model, batch)
        return last.latents

    expected = (generate(rollouts.by_dim(masks)) - generate({})).square().mean().item()
    assert trainer._distance(batch)[0] == pytest.approx(expected, rel=1e-4)


def test_score_of_an_element_is_the_loss_of_removing_it(model):
    """Compare on average only: the score is of second order, and measured along random directions."""
    config = method_config("ecodiff", FEW | {"iterations": 20, "warmup_steps": 20, "batch": 4})
    rollouts = RolloutSet(model, select_dims(model, config), PROMPTS, config)
    scorer, batch = GaussNewtonScorer(rollouts), rollouts.batch(0)
    for _ in range(config.iterations):
        scorer.step()
    score, costs = scorer.score() * rollouts.params, []
    some = np.random.default_rng(0).permutation(len(score))[:30]
    for element in some:
        gates = torch.ones(len(score))
        gates[element] = 0
        costs.append((rollouts.run_gated(gates, batch) - rollouts.full(batch)).square().mean().item())
    ranks = [np.argsort(np.argsort(values)) for values in (score[some], costs)]
    assert np.corrcoef(*ranks)[0, 1] > 0.8
    assert np.median(score[some] / np.array(costs)) == pytest.approx(1, rel=0.5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"warmup_steps": 1, "ranking": "local", "round_to": 4},
        HARD_CONCRETE,
        HARD_CONCRETE | {"loss_on": "single_call"},
        HARD_CONCRETE | {"penalty": "l1"},
    ],
)
def test_a_run_that_is_stopped_is_resumed_to_the_same_order(model, settings):
    config = method_config("ecodiff", FEW | settings)
    whole = run_to_completion(prune(model, "ecodiff", config, PROMPTS))
    work = prune(model, "ecodiff", config, PROMPTS)
    first = next(work)
    work.close()
    assert first.picture is None or first.picture.startswith(b"\x89PNG")
    resumed = run_to_completion(prune(model, "ecodiff", config, PROMPTS, state=first.state))
    assert all(np.array_equal(whole.score[name], resumed.score[name]) for name in whole.score)
    assert whole.header.pruner.name == "ecodiff" and whole.at(0.1).params_fraction == pytest.approx(0.9, abs=0.01)


def test_element_without_effect_is_removed_first(model):
    """Check that the logit of an element that the picture does not need falls first: all have the same penalty."""
    other = model.with_shared_weights()
    dims = select_dims(model, method_config("ecodiff", {}))
    name, dim = next((name, dim) for name, dim in dims.items() if name.endswith("neurons"))
    for path, first in dim.consumers:
        layer = other.denoiser.get_submodule(path)
        layer.weight = torch.nn.Parameter(layer.weight.clone(), requires_grad=False)
        layer.weight *= 30  # so that the others are needed
        layer.weight[:, first : first + 4] = 0
    config = method_config(
        "ecodiff", HARD_CONCRETE | {"iterations": 12, "init": 0.5, "noise": 0.1, "penalty_weight": 0.02}
    )
    score = run_to_completion(prune(other, "ecodiff", config, PROMPTS)).score[name]
    assert score[:4].max() < np.median(score[4:])


def test_errors_are_one_sentence_and_leave_the_model_unchanged(model):
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    broken = model.with_shared_weights()
    layer = broken.denoiser.conv_in
    layer.weight = torch.nn.Parameter(layer.weight * float("nan"), requires_grad=False)
    with pytest.raises(ValueError, match="no longer finite at step 0"):
        run_to_completion(prune(broken, "ecodiff", method_config("ecodiff", FEW), PROMPTS))
    with pytest.raises(ValueError, match="learned with other settings"):
        state = {"logits": np.zeros(3), "done": np.array(1)}
        run_to_completion(prune(model, "ecodiff", method_config("ecodiff", FEW), PROMPTS, state=state))
    with pytest.raises(ValueError, match="draws noise at each step"):
        run_to_completion(prune(model, "ecodiff", method_config("ecodiff", FEW | {"sampler": "lcm"}), PROMPTS))
    assert all(torch.equal(value, before[name]) for name, value in model.denoiser.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.denoiser.parameters())
