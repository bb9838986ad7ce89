"""DiP-GO on tiny models: what is learned, that it can be stopped at any step, and what it refuses."""

import numpy as np
import pytest
import torch

from explorer import catalogue
from explorer.experiment import prune
from explorer.masks import Importance, Mask
from explorer.mixture import Gates
from explorer.pruners.configs import PUBLISHED, DipgoConfig
from explorer.pruners.dipgo import swept
from explorer.pruners.gradients import LOSSES, Gradients, Part, prices
from explorer.pruners.queries import Network
from explorer.team import Alone
from explorer.trials import Trials
from explorer.work import finished

SMALL = {"steps": 6, "checks": 2, "guidance": 3.0, "granularity": "stage", "iterations": 4, "batch": 2}
PROMPTS = ["dog", "cat", "tree"]


@pytest.fixture(scope="module")
def model(sd_folder):
    return catalogue.load(sd_folder)


def learned(model, state=None, **settings):
    return finished(prune(model, "dipgo", DipgoConfig(**SMALL | settings), PROMPTS, state))


@pytest.mark.parametrize("granularity", ["stage", "layer", "module"])
@pytest.mark.parametrize("decision", ["prefix", "argmax"])
def test_an_importance_serves_every_ratio(model, granularity, decision):
    start = "even" if decision == "prefix" else "keep"
    importance = learned(model, granularity=granularity, decision=decision, start=start, iterations=2)
    assert isinstance(importance, Importance) and importance.header.pruner.name == "dipgo"
    steps = np.diff(importance.saved).max()
    for ratio in (0.1, 0.5, 0.8):
        assert abs(1 - importance.at(ratio).kept - ratio) <= steps / 2 + 1e-9
    assert (importance.at(0.8).keep <= importance.at(0.5).keep).all()


@pytest.mark.parametrize("granularity", ["layer", "module"])
def test_half_a_percent_of_the_macs_is_within_reach_everywhere(granularity):
    graph = catalogue.load("sd15", weights=False).graph(granularity)
    saved = graph.saved(graph.removal_order(np.random.default_rng(0).random((25, len(graph.units)))))
    asked = np.linspace(0, 1 - 1 / 25, 200)
    assert np.abs(saved[:, None] - asked).min(axis=0).max() <= 0.005


def test_learning_brings_the_pruned_run_nearer_to_the_full_one(model):
    def distance(iterations):
        mask = learned(model, iterations=iterations, rate=0.05, batch=3, look=1.0).at(0.6)
        trials = Trials(model, PROMPTS, "ddim", 6, 3.0, seed=100)
        return trials.schedule_loss(model.graph("stage"), mask.keep)

    assert distance(40) < distance(1)


def test_few_calls_are_learned_and_one_is_refused(model):
    found = learned(model, steps=3, batch=1, iterations=30, lowest=0.6, look=0.1)  # often no skipped call is drawn
    assert found.header.calls == 3
    with pytest.raises(ValueError, match="take more steps"):
        learned(model, steps=1)


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adam"}, PUBLISHED | {"iterations": 6, "batch": 2}])
def test_a_search_that_was_stopped_goes_on_to_the_same_end(model, settings):
    settings = {"iterations": 6} | settings
    whole = learned(model, **settings)
    work = prune(model, "dipgo", DipgoConfig(**SMALL | settings), PROMPTS)
    for _ in range(3):
        state = next(work).state
    work.close()
    again = learned(model, state=state, **settings)
    assert np.array_equal(again.rank, whole.rank) and np.array_equal(again.score, whole.score)
    with pytest.raises(ValueError, match="other settings"):
        learned(model, state=state, **settings | {"granularity": "layer"})


def test_the_same_seed_gives_the_same_gates_and_another_seed_others(model):
    one, same, other = (learned(model, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.score, same.score) and not np.array_equal(one.score, other.score)


def test_published_keeps_everything_at_first(model):
    work = prune(model, "dipgo", DipgoConfig(**SMALL | PUBLISHED | {"iterations": 3}), PROMPTS)
    first = next(work)
    assert first.state["score"].shape == (6, 9) and first.picture.startswith(b"\x89PNG")
    # section 3.3: the consistency loss is 0 and the price counts each gate with what falls with it
    assert first.numbers["loss"] == pytest.approx(0, abs=1e-5) and first.numbers["kept"] == 1
    graph = model.graph("stage")
    assert first.numbers["price"] == pytest.approx(prices(graph).sum(), rel=1e-5)


def test_a_price_without_the_cascade_begins_at_one(model):
    config = DipgoConfig(**SMALL | PUBLISHED | {"iterations": 1, "cascade": False})
    first = next(prune(model, "dipgo", config, PROMPTS))
    graph = model.graph("stage")
    assert first.numbers["price"] == pytest.approx(1 - graph.macs_fixed / graph.macs_per_call, rel=1e-5)


PUBLISHED_LOSSES = [("argmax", loss) for loss in ("ssim", "l1", "l2", "l1+ssim", "latent")]


@pytest.mark.parametrize("decision, loss", [("prefix", "latent"), ("prefix", "l2"), *PUBLISHED_LOSSES])
def test_every_loss_moves_the_gates(model, decision, loss):
    settings = {"loss": loss, "decision": decision, "start": "keep" if decision == "argmax" else "ends", "alpha": 0}
    start = learned(model, **settings, iterations=1, rate=1e-9).score
    assert not np.allclose(learned(model, **settings, iterations=3, rate=0.1).score, start, atol=1e-9)


def test_the_worth_of_a_gate_is_what_the_loss_would_change_by_were_it_the_other_way(model):
    graph, calls, columns = model.graph("stage"), 6, len(model.graph("stage").units)
    gradients = Gradients(model, DipgoConfig(**SMALL))
    keep = np.ones((calls, columns), dtype=bool)
    keep[[2, 4]] = False
    looks = np.ones(calls, dtype=bool)
    parts = [Part(step, 0, PROMPTS, (0, 0, 0)) for step in range(16)]  # each draws another random direction
    worth = np.mean([gradients(part, keep, looks).slope for part in parts], axis=0)

    def loss(mask):
        own = torch.from_numpy(mask | ~graph.demanded(mask)).float()
        with torch.no_grad():
            return LOSSES["latent"](*gradients._drawn(parts[0], Gates.of(own, graph))[:2])

    before = loss(keep)
    for call in (1, 2, 3, 4, 5):
        other = keep.copy()
        other[call] = ~other[call]
        change = ((loss(other) - before) / before).mean().item() * (1 if keep[call, -1] else -1)
        assert worth[call, -1] == pytest.approx(change, rel=0.7)


def test_the_published_way_removes_gates_until_little_enough_is_kept(model):
    config = PUBLISHED | {"parametrisation": "table", "iterations": 30, "rate": 4.0, "tau": 0.5, "loss": "l2"}
    work = prune(model, "dipgo", DipgoConfig(**SMALL | config), PROMPTS)
    steps = list(work)
    assert steps[0].numbers["kept"] == 1 and steps[-1].numbers["kept"] < 0.75
    assert any("price" not in step.numbers for step in steps) == any(step.numbers["kept"] < 0.5 for step in steps)


@pytest.mark.parametrize("encoder", ["attention", "linear", "none"])
def test_the_networks_queries_reach_the_gates_through_the_encoder(encoder):
    torch.manual_seed(0)
    network = Network(torch.zeros(3, 4), encoder)
    assert torch.allclose(network(), torch.ones(3, 4))
    torch.nn.init.normal_(network.last)
    network()[1, 2].backward()
    reached = network.queries.grad.abs().sum(dim=-1) > 0
    expected = torch.zeros(3, 4, dtype=torch.bool)
    expected[1] = encoder == "attention"  # the other units of the same call
    expected[1, 2] = True
    assert torch.equal(reached, expected)


def test_what_falls_with_a_unit_is_the_graphs_cascade(model):
    graph = model.graph("stage")
    assert graph.falls[-1].all() and graph.falls[0].sum() == 1
    assert prices(graph)[-1] == pytest.approx(graph.macs.sum() / graph.macs_per_call)


def test_the_sweep_takes_whole_calls_first_and_never_more_than_asked(model):
    graph = model.graph("stage")
    score = np.random.default_rng(0).normal(-6, 1, (10, 9))
    keep = swept(graph, score, 0.55)
    saved = 1 - graph.cost(keep).sum() / (graph.macs_per_call * 10)
    assert 0.5 <= saved <= 0.55 and keep[0].all() and np.array_equal(graph.close(keep), keep)
    assert set(np.flatnonzero(~keep.any(axis=1))) == set(1 + np.argsort(score[1:, -1])[:5])
    mask = learned(model, selection="sweep", ratio=0.5)
    assert isinstance(mask, Mask) and 1 - mask.kept <= 0.5


def test_wrong_use_is_one_sentence(model):
    with pytest.raises(ValueError, match="one ratio"):
        DipgoConfig(selection="sweep")
    with pytest.raises(ValueError, match="above the largest"):
        DipgoConfig(lowest=0.9, highest=0.5)
    with pytest.raises(ValueError, match="squared loss"):
        DipgoConfig(loss="ssim")
    with pytest.raises(ValueError, match="order to begin with"):
        DipgoConfig(start="keep")
    with pytest.raises(ValueError, match="deterministic"):
        learned(model, sampler="lcm")


def test_a_loss_that_is_not_finite_is_said_and_the_last_state_was_good(model):
    twin = model.twin()
    weight = twin.denoiser.conv_out.weight
    work = prune(twin, "dipgo", DipgoConfig(**SMALL), PROMPTS)
    good = next(work).state
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="no longer finite at step 1"):
        next(work)
    with torch.no_grad():
        weight.copy_(kept)
    assert finished(prune(model, "dipgo", DipgoConfig(**SMALL), PROMPTS, good)).header.kind == "importance"


def test_too_little_memory_is_said(model, monkeypatch):
    from explorer import trajectory

    def fails(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")

    monkeypatch.setattr(trajectory, "rollout", fails)
    with pytest.raises(ValueError, match="smaller batch"):
        learned(model)


def test_the_network_is_as_it_was_afterwards(model):
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    learned(model)
    assert all(torch.equal(value, before[name]) for name, value in model.denoiser.state_dict().items())
    assert "forward" not in vars(model.denoiser)


def test_a_dead_unit_moves_with_the_one_it_fell_with(model):
    from explorer.pruners.learning import Learner

    graph = model.graph("layer")
    learner = Learner(Alone(model), graph, 4, ["dog"], DipgoConfig(steps=4, granularity="layer"))
    keep = np.ones((4, len(graph.units)), dtype=bool)
    keep[1] = False
    middle = graph.names.index("mid_block.layers.1")
    keep[2, middle] = False
    leaders = learner._leaders(graph.close(keep))
    itself = np.arange(len(graph.units))
    assert (leaders[[0, 3]] == itself).all() and (leaders[1] == len(graph.units) - 1).all()
    moved = np.flatnonzero(leaders[2] != itself)
    assert moved.tolist() == np.flatnonzero(graph.falls[middle])[:-1].tolist() and len(moved) > 0
    assert (leaders[2, moved] == middle).all()
