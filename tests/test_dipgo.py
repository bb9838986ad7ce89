"""DiP-GO on tiny models: what it learns, that it can be stopped at any step, and what it refuses."""

import numpy as np
import pytest
import torch

from explorer.execution.soft_supernet import ScheduleGates
from explorer.experiment import prune
from explorer.masks.schedule import Schedule, ScheduleImportance
from explorer.models import catalogue
from explorer.progress import run_to_completion
from explorer.pruners import PUBLISHED, dipgo_gradients
from explorer.pruners.dipgo import sweep_selection
from explorer.pruners.dipgo_gradients import LOSSES, GradientTask, MicroBatch, macs_share
from explorer.pruners.dipgo_trainer import DipgoTrainer
from explorer.pruners.gate_network import GateNetwork
from explorer.pruners.objective import Objective
from explorer.pruners.schedule_configs import DipgoConfig
from explorer.pruners.worker_pool import SerialPool

pytestmark = pytest.mark.slow

SMALL = {"steps": 6, "validate_every": 2, "guidance": 3.0, "granularity": "stage", "iterations": 4, "batch": 2}
SMALL |= {"checkpointing": "none"}  # which would only cost time here; test_soft_supernet compares the gradients
PROMPTS = ["dog", "cat", "tree"]


@pytest.fixture(scope="module")
def model(sd_folder):
    return catalogue.load(sd_folder)


def learn(model, state=None, **settings):
    return run_to_completion(prune(model, "dipgo", DipgoConfig(**SMALL | settings), PROMPTS, state))


@pytest.mark.parametrize("granularity", ["stage", "layer", "module"])
@pytest.mark.parametrize("algorithm", ["nested", "argmax"])
def test_an_importance_serves_every_ratio(model, granularity, algorithm):
    init = "even" if algorithm == "nested" else "keep"
    importance = learn(model, granularity=granularity, algorithm=algorithm, init=init, iterations=2)
    assert isinstance(importance, ScheduleImportance) and importance.header.pruner.name == "dipgo"
    steps = np.diff(importance.saved_macs).max()
    for ratio in (0.1, 0.5, 0.8):
        assert abs(1 - importance.at(ratio).macs_fraction - ratio) <= steps / 2 + 1e-9
    assert (importance.at(0.8).keep <= importance.at(0.5).keep).all()


@pytest.mark.parametrize("granularity", ["layer", "module"])
def test_every_ratio_can_be_reached_within_half_a_percent_of_the_macs(granularity):
    graph = catalogue.load("sd15", weights=False).graph(granularity)
    saved_macs = graph.saved_macs(graph.removal_order(np.random.default_rng(0).random((25, len(graph.units)))))
    ratios = np.linspace(0, 1 - 1 / 25, 200)
    assert np.abs(saved_macs[:, None] - ratios).min(axis=0).max() <= 0.005


def test_learning_reduces_the_distance_to_the_full_run(model):
    def distance(iterations):
        settings = {"learning_rate": 0.1, "batch": 3, "probe_fraction": 1.0, "validate_every": 4}
        mask = learn(model, iterations=iterations, **settings).at(0.6)
        objective = Objective(model, PROMPTS, "ddim", 6, 3.0, seed=100)
        return objective.schedule_loss(model.graph("stage"), mask.keep)

    assert distance(8) < distance(1)


def test_few_calls_are_learned_and_one_is_refused(model):
    # often no skipped call is evaluated
    importance = learn(model, steps=3, batch=1, iterations=6, min_ratio=0.6, probe_fraction=0.1)
    assert importance.header.calls == 3
    with pytest.raises(ValueError, match="use more steps"):
        learn(model, steps=1)


@pytest.mark.parametrize(
    "settings", [{"checkpointing": "per_call"}, {"optimizer": "adam"}, PUBLISHED | {"iterations": 4, "batch": 2}]
)
def test_a_search_that_was_stopped_is_resumed_to_the_same_end(model, settings):
    whole = learn(model, **settings)
    work = prune(model, "dipgo", DipgoConfig(**SMALL | settings), PROMPTS)
    for _ in range(2):
        state = next(work).state
    work.close()
    resumed = learn(model, state=state, **settings)
    assert np.array_equal(resumed.rank, whole.rank) and np.array_equal(resumed.score, whole.score)
    with pytest.raises(ValueError, match="other settings"):
        learn(model, state=state, **settings | {"granularity": "layer"})


def test_the_same_seed_gives_the_same_gates_and_another_seed_others(model):
    one, same, other = (learn(model, seed=seed, iterations=2) for seed in (0, 0, 1))
    assert np.array_equal(one.score, same.score) and not np.array_equal(one.score, other.score)


def test_published_keeps_everything_at_first(model):
    work = prune(model, "dipgo", DipgoConfig(**SMALL | PUBLISHED | {"iterations": 3}), PROMPTS)
    first = next(work)
    assert first.state["score"].shape == (6, len(model.graph("stage").units)) and first.picture.startswith(b"\x89PNG")
    # section 3.3: the consistency loss is 0 and the penalty counts each gate with its cascade
    assert first.metrics["loss"] == pytest.approx(0, abs=1e-5) and first.metrics["kept"] == 1
    graph = model.graph("stage")
    assert first.metrics["penalty"] == pytest.approx(macs_share(graph).sum(), rel=1e-5)


def test_penalty_without_the_cascade_starts_at_one(model):
    config = DipgoConfig(**SMALL | PUBLISHED | {"iterations": 1, "cascade": False})
    first = next(prune(model, "dipgo", config, PROMPTS))
    graph = model.graph("stage")
    assert first.metrics["penalty"] == pytest.approx(1 - graph.macs_fixed / graph.macs_per_call, rel=1e-5)


PUBLISHED_LOSSES = [("argmax", loss) for loss in ("ssim", "l1", "l2", "l1+ssim", "latent")]


@pytest.mark.parametrize("algorithm, loss", [("nested", "latent"), ("nested", "l2"), *PUBLISHED_LOSSES])
def test_every_loss_changes_the_gates(model, algorithm, loss):
    settings = {"loss": loss, "algorithm": algorithm, "init": "keep" if algorithm == "argmax" else "ends", "alpha": 0}
    initial = learn(model, **settings, iterations=1, learning_rate=1e-9).score
    assert not np.allclose(learn(model, **settings, iterations=2, learning_rate=0.1).score, initial, atol=1e-9)


def test_contribution_of_a_gate_is_the_loss_change_when_it_is_flipped(model):
    graph, calls, columns = model.graph("stage"), 6, len(model.graph("stage").units)
    task = GradientTask(model, DipgoConfig(**SMALL))
    keep = np.ones((calls, columns), dtype=bool)
    keep[[2, 4]] = False
    evaluated_calls = np.ones(calls, dtype=bool)
    batches = [MicroBatch(step, 0, PROMPTS, (0, 0, 0)) for step in range(16)]  # each has another random direction
    contribution = np.mean([task(batch, keep, evaluated_calls).gradient for batch in batches], axis=0)

    def loss(mask):
        own = torch.from_numpy(mask | ~graph.needed(mask)).float()
        with torch.no_grad():
            return LOSSES["latent"](*task._generate(batches[0], ScheduleGates.of(own, graph))[:2])

    before = loss(keep)
    for call in (1, 2, 3, 4, 5):
        other = keep.copy()
        other[call] = ~other[call]
        change = ((loss(other) - before) / before).mean().item() * (1 if keep[call, -1] else -1)
        assert contribution[call, -1] == pytest.approx(change, rel=0.7)


def test_published_algorithm_removes_gates_until_the_target_is_reached(model):
    config = PUBLISHED | {"parametrisation": "table", "iterations": 10, "learning_rate": 4.0, "tau": 0.5, "loss": "l2"}
    work = prune(model, "dipgo", DipgoConfig(**SMALL | config), PROMPTS)
    steps = list(work)
    assert steps[0].metrics["kept"] == 1 and steps[-1].metrics["kept"] < 0.75
    without_penalty = ["penalty" not in step.metrics for step in steps]
    assert any(without_penalty) == any(step.metrics["kept"] < 0.5 for step in steps)


@pytest.mark.parametrize("encoder", ["attention", "linear", "none"])
def test_gate_network_queries_reach_the_gates_through_the_encoder(encoder):
    torch.manual_seed(0)
    network = GateNetwork(torch.zeros(3, 4), encoder)
    assert torch.allclose(network(), torch.ones(3, 4))
    torch.nn.init.normal_(network.last)
    network()[1, 2].backward()
    reached = network.queries.grad.abs().sum(dim=-1) > 0
    expected = torch.zeros(3, 4, dtype=torch.bool)
    expected[1] = encoder == "attention"  # the other units of the same call
    expected[1, 2] = True
    assert torch.equal(reached, expected)


def test_the_macs_of_a_gate_are_those_of_its_cascade(model):
    graph = model.graph("stage")
    assert graph.cascades[-1].all() and graph.cascades[0].sum() == 1
    assert macs_share(graph)[-1] == pytest.approx(graph.macs.sum() / graph.macs_per_call)


def test_sweep_removes_whole_calls_first_and_at_most_the_ratio(model):
    graph = model.graph("stage")
    score = np.random.default_rng(0).normal(-6, 1, (10, len(graph.units)))
    keep = sweep_selection(graph, score, 0.55)
    saved_macs = 1 - graph.cost(keep).sum() / (graph.macs_per_call * 10)
    assert 0.5 <= saved_macs <= 0.55 and keep[0].all() and np.array_equal(graph.close(keep), keep)
    assert set(np.flatnonzero(~keep.any(axis=1))) == set(1 + np.argsort(score[1:, -1])[:5])
    mask = learn(model, selection="sweep", ratio=0.5, iterations=1)
    assert isinstance(mask, Schedule) and 1 - mask.macs_fraction <= 0.5


def test_wrong_settings_are_refused_in_one_sentence(model):
    with pytest.raises(ValueError, match="one ratio"):
        DipgoConfig(selection="sweep")
    with pytest.raises(ValueError, match="above max_ratio"):
        DipgoConfig(min_ratio=0.9, max_ratio=0.5)
    with pytest.raises(ValueError, match="squared loss"):
        DipgoConfig(loss="ssim")
    with pytest.raises(ValueError, match="order to begin with"):
        DipgoConfig(init="keep")
    with pytest.raises(ValueError, match="deterministic"):
        learn(model, sampler="lcm")


def test_a_loss_that_is_not_finite_is_refused_and_the_last_state_was_good(model):
    other = model.with_shared_weights()
    weight = other.denoiser.conv_out.weight
    work = prune(other, "dipgo", DipgoConfig(**SMALL), PROMPTS)
    good = next(work).state
    before = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="no longer finite at step 1"):
        next(work)
    with torch.no_grad():
        weight.copy_(before)
    assert run_to_completion(prune(model, "dipgo", DipgoConfig(**SMALL), PROMPTS, good)).header.kind == "importance"


def test_too_little_memory_is_refused_with_advice(model, monkeypatch):
    def fail(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")

    monkeypatch.setattr(dipgo_gradients, "rollout", fail)
    with pytest.raises(ValueError, match="smaller batch"):
        learn(model)


def test_network_is_unchanged_after_learning(model):
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    learn(model, iterations=2)
    assert all(torch.equal(value, before[name]) for name, value in model.denoiser.state_dict().items())
    assert "forward" not in vars(model.denoiser)


def test_dead_unit_is_updated_with_the_unit_of_its_cascade(model):
    graph = model.graph("layer")
    trainer = DipgoTrainer(SerialPool(model), graph, ["dog"], DipgoConfig(steps=4), np.zeros((4, len(graph.units))))
    keep = np.ones((4, len(graph.units)), dtype=bool)
    keep[1] = False
    middle = graph.names.index("mid_block.layers.1")
    keep[2, middle] = False
    leaders = trainer._leaders(graph.close(keep))
    itself = np.arange(len(graph.units))
    assert (leaders[[0, 3]] == itself).all() and (leaders[1] == len(graph.units) - 1).all()
    dead = np.flatnonzero(leaders[2] != itself)
    assert dead.tolist() == np.flatnonzero(graph.cascades[middle])[:-1].tolist() and len(dead) > 0
    assert (leaders[2, dead] == middle).all()
