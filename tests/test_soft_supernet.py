"""SoftSuperNet: equal to the SuperNet at hard gates, and differentiable through all calls."""

import numpy as np
import pytest
import torch

from explorer.execution.prediction import Prediction
from explorer.execution.soft_supernet import ScheduleGates, SoftSuperNet
from explorer.execution.supernet import SuperNet
from explorer.masks.block_graph import Extrapolation
from explorer.models.architectures import build_block_graph
from explorer.sampling.rollout import denoise, rollout
from explorer.sampling.schedulers import make_scheduler, num_function_evals
from tests.conftest import BETAS, DENOISERS, small_unet

CONFIG = BETAS | {"prediction_type": "v_prediction"}
EPSILON = BETAS | {"prediction_type": "epsilon"}  # DiT, whose output has the variance as well as the noise


class BareModel:
    """Make a model of a denoiser, without a pipeline."""

    def __init__(self, kind: str):
        self.denoiser = (small_unet if kind == "small" else DENOISERS[kind])().double()
        self.kind, self.config = kind, EPSILON if kind == "dit" else CONFIG

    def conditioning(self, count: int) -> dict:
        draws = torch.Generator().manual_seed(1)
        if self.kind in ("sd", "small"):
            return {"encoder_hidden_states": torch.randn(count, 5, 12, generator=draws, dtype=torch.double)}
        return {"class_labels": torch.arange(count)} if self.kind == "dit" else {}

    def denoise(self, x, t, conditioning, guidance):
        t = t.expand(len(x)) if self.kind == "dit" else t
        return self.denoiser(x, timestep=t, **conditioning, return_dict=False)[0][:, : x.shape[1]]


def noise_of(model: BareModel, count: int = 2) -> torch.Tensor:
    channels = model.denoiser.config.in_channels
    return torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def random_schedule(graph, calls: int, share: float = 0.5, seed: int = 0) -> np.ndarray:
    """Make a closed schedule with skipped calls, reused units and dead units."""
    keep = np.random.default_rng(seed).random((calls, len(graph.units))) < share
    keep[0] = True
    keep[2] = False
    return graph.close(keep)


def own_gates(graph, keep: np.ndarray) -> torch.Tensor:
    """Make the own gates of a closed schedule: a dead unit would run if another unit read it."""
    return torch.from_numpy(keep | ~graph.needed(keep)).double()


def soft_end(model, graph, sampler, steps, own, order=0, checkpointing="none"):
    scheduler = make_scheduler(sampler, model.config)
    net = SoftSuperNet(model.denoiser, graph, Prediction.of(scheduler), Extrapolation(order))
    run = (steps, noise_of(model), model.conditioning(2), 1.0)
    return rollout(model, scheduler, *run, net.at, ScheduleGates.of(own, graph), checkpointing)


def hard_end(model, graph, sampler, steps, keep, order=0):
    scheduler, noise = make_scheduler(sampler, model.config), noise_of(model)
    with SuperNet(model.denoiser, graph, keep, Prediction.of(scheduler), Extrapolation(order), scheduler):
        *_, last = denoise(model, scheduler, steps, noise, model.conditioning(len(noise)), 1.0, generators=None)
    return last.latents


CASES = [
    *[("sd", granularity, "output") for granularity in ("stage", "layer", "module")],
    ("sd", "layer", "residual"),
    ("dit", "layer", "residual"),
    ("dit", "module", "output"),
    ("ddpm", "layer", "output"),
]


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize(("kind", "granularity", "reuse"), CASES)
def test_with_hard_gates_it_is_the_supernet_that_skips(kind, granularity, reuse, order):
    model = BareModel(kind)
    graph = build_block_graph(model.denoiser, granularity, reuse)
    keep = random_schedule(graph, 6)
    mixed = soft_end(model, graph, "ddim", 6, own_gates(graph, keep), order)
    hard = hard_end(model, graph, "ddim", 6, keep, order)
    assert torch.allclose(mixed, hard, atol=1e-9, rtol=0)
    assert not torch.allclose(mixed, hard_end(model, graph, "ddim", 6, np.ones_like(keep)), atol=1e-6, rtol=0)
    assert "forward" not in vars(model.denoiser) and not model.denoiser._forward_hooks


@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "pndm", "unipc", "deis", "euler"])
def test_gradients_do_not_depend_on_checkpointing(sampler):
    model = BareModel("small")
    graph = build_block_graph(model.denoiser, "stage")
    calls = num_function_evals(sampler, CONFIG, 6)
    found = {}
    for kind in ("none", "per_call", "sqrt"):
        own = own_gates(graph, random_schedule(graph, calls)).requires_grad_()
        soft_end(model, graph, sampler, 6, own, order=1, checkpointing=kind).square().mean().backward()
        found[kind] = own.grad
    assert found["none"].abs().max() > 0
    for kind in ("per_call", "sqrt"):
        assert torch.allclose(found["none"], found[kind], rtol=1e-5, atol=1e-12)


def test_a_rollout_keeps_one_node_of_the_graph_per_call_and_allows_two_backward_passes():
    model = BareModel("small")
    graph = build_block_graph(model.denoiser, "stage")
    nodes = []
    for calls in (3, 6):
        own = torch.ones(calls, len(graph.units), dtype=torch.double, requires_grad=True)
        end = soft_end(model, graph, "ddim", calls, own, checkpointing="per_call")
        nodes.append(len(nodes_behind(end.grad_fn)))
        first = torch.autograd.grad(end.sum(), own, retain_graph=True)[0]
        assert torch.equal(first, torch.autograd.grad(end.sum(), own)[0]) and first.abs().max() > 0
    assert nodes[1] - nodes[0] == 3


def nodes_behind(node) -> set:
    """List the nodes of the autograd graph that a backward pass from this one visits."""
    seen, ahead = set(), [node]
    while ahead:
        if (node := ahead.pop()) not in seen:
            seen.add(node)
            ahead += [before for before, _ in node.next_functions if before is not None]
    return seen


def test_the_gradient_of_a_gate_is_the_slope_of_the_loss():
    """Compare with finite differences, with no gate near the point where a decision flips."""
    model = BareModel("sd")
    graph = build_block_graph(model.denoiser, "stage")
    own = torch.rand(4, len(graph.units), generator=torch.Generator().manual_seed(3), dtype=torch.double) * 0.3 + 0.65

    def loss(gates):
        return soft_end(model, graph, "ddim", 4, gates).square().mean()

    gates = own.clone().requires_grad_()
    loss(gates).backward()
    for call, column in [(1, 0), (1, len(graph.units) - 1), (2, 4), (3, 6)]:
        step = torch.zeros_like(own)
        step[call, column] = 1e-5
        slope = (loss(own + step) - loss(own - step)) / 2e-5
        assert gates.grad[call, column] == pytest.approx(slope.item(), rel=1e-4, abs=1e-12)
        assert slope != 0
    assert (gates.grad[0] == 0).all()


def test_gradient_of_a_skipped_calls_gate_is_the_effect_of_running_it():
    """Check the gradient at a skipped call: it points towards the output of the whole call."""
    model = BareModel("sd")
    graph = build_block_graph(model.denoiser, "stage")
    keep = np.ones((4, len(graph.units)), dtype=bool)
    keep[2] = False
    own = own_gates(graph, keep).requires_grad_()
    soft_end(model, graph, "ddim", 4, own).square().mean().backward()
    everything, nothing = (hard_end(model, graph, "ddim", 4, one) for one in (np.ones_like(keep), keep))
    assert own.grad[2, -1] != 0
    assert torch.sign(own.grad[2, -1]) == torch.sign(everything.square().mean() - nothing.square().mean())


def test_the_cascade_is_the_graphs_own():
    for kind, granularity, reuse in CASES:
        graph = build_block_graph(DENOISERS[kind](), granularity, reuse)
        draws = np.random.default_rng(0)
        for _ in range(20):
            keep = draws.random((5, len(graph.units))) < 0.7
            gates = ScheduleGates.of(torch.from_numpy(keep).double(), graph)
            assert np.array_equal(gates.live.numpy() > 0.5, graph.close(keep))
            assert np.array_equal(gates.runs_forward.numpy() > 0.5, graph.close(keep).any(axis=1))


def test_stochastic_sampler_is_refused():
    model = BareModel("sd")
    graph = build_block_graph(model.denoiser, "stage")
    with pytest.raises(ValueError, match="deterministic"):
        soft_end(model, graph, "lcm", 4, torch.ones(4, len(graph.units), dtype=torch.double))
    with pytest.raises(ValueError, match="gates for 3"):
        soft_end(model, graph, "ddim", 4, torch.ones(3, len(graph.units), dtype=torch.double))
