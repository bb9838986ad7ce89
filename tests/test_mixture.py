"""The SuperNet in training: equal to the SuperNet that skips, and differentiable through the whole chain."""

import numpy as np
import pytest
import torch

from explorer import trajectory
from explorer.graph import Forecast
from explorer.mixture import Gates, Mixture
from explorer.supernet import NoiseEstimate, SuperNet
from tests.conftest import BETAS, DENOISERS

CONFIG = BETAS | {"prediction_type": "v_prediction"}
EPSILON = BETAS | {"prediction_type": "epsilon"}  # DiT, whose output has the variance beside the noise


class Bare:
    """A denoiser as a model: it draws from noise alone."""

    def __init__(self, kind: str):
        self.denoiser = DENOISERS[kind]().double()
        self.kind, self.config = kind, EPSILON if kind == "dit" else CONFIG

    def conditioning(self, count: int) -> dict:
        draws = torch.Generator().manual_seed(1)
        if self.kind == "sd":
            return {"encoder_hidden_states": torch.randn(count, 5, 12, generator=draws, dtype=torch.double)}
        return {"class_labels": torch.arange(count)} if self.kind == "dit" else {}

    def denoise(self, x, t, conditioning, guidance):
        t = t.expand(len(x)) if self.kind == "dit" else t
        return self.denoiser(x, timestep=t, **conditioning, return_dict=False)[0][:, : x.shape[1]]


def noise_of(model: Bare, count: int = 2) -> torch.Tensor:
    channels = model.denoiser.config.in_channels
    return torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def chosen(graph, calls: int, share: float = 0.5, seed: int = 0) -> np.ndarray:
    """A closed schedule of every kind: calls skipped whole, units reused, units dead."""
    keep = np.random.default_rng(seed).random((calls, len(graph.units))) < share
    keep[0] = True
    keep[2] = False
    return graph.close(keep)


def relaxed(graph, keep: np.ndarray) -> torch.Tensor:
    """Own gates of a closed schedule: what is dead would run if only somebody read it."""
    return torch.from_numpy(keep | ~graph.demanded(keep)).double()


def mixed_end(model, graph, sampler, steps, own, order=0, memory="plain"):
    scheduler = trajectory.sampler(sampler, model.config)
    net = Mixture(model.denoiser, graph, NoiseEstimate.of(scheduler), Forecast(order))
    chain = (steps, noise_of(model), model.conditioning(2), 1.0)
    return trajectory.rollout(model, scheduler, *chain, net.at, Gates.of(own, graph), memory)


def hard_end(model, graph, sampler, steps, keep, order=0):
    scheduler, noise = trajectory.sampler(sampler, model.config), noise_of(model)
    with SuperNet(model.denoiser, graph, keep, NoiseEstimate.of(scheduler), Forecast(order), scheduler):
        *_, last = trajectory.denoise(
            model, scheduler, steps, noise, model.conditioning(len(noise)), 1.0, generators=None
        )
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
    from explorer.graph import describe

    model = Bare(kind)
    graph = describe(model.denoiser, granularity, reuse)
    keep = chosen(graph, 6)
    mixed = mixed_end(model, graph, "ddim", 6, relaxed(graph, keep), order)
    hard = hard_end(model, graph, "ddim", 6, keep, order)
    assert torch.allclose(mixed, hard, atol=1e-9, rtol=0)
    assert not torch.allclose(mixed, hard_end(model, graph, "ddim", 6, np.ones_like(keep)), atol=1e-6, rtol=0)
    assert "forward" not in vars(model.denoiser) and not model.denoiser._forward_hooks


@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "pndm", "unipc", "deis", "euler"])
@pytest.mark.parametrize("memory", ["step", "nested"])
def test_gradients_do_not_depend_on_what_is_computed_again(sampler, memory):
    from explorer.graph import describe

    model = Bare("sd")
    graph = describe(model.denoiser, "stage")
    calls = trajectory.calls_of(sampler, CONFIG, 6)
    found = {}
    for kind in ("plain", memory):
        own = relaxed(graph, chosen(graph, calls)).requires_grad_()
        mixed_end(model, graph, sampler, 6, own, order=1, memory=kind).square().mean().backward()
        found[kind] = own.grad
    assert found["plain"].abs().max() > 0
    assert torch.allclose(found["plain"], found[memory], rtol=1e-5, atol=1e-12)


def test_a_chain_keeps_a_node_of_the_graph_a_call_and_can_be_gone_back_twice():
    from explorer.graph import describe

    model = Bare("sd")
    graph = describe(model.denoiser, "stage")
    nodes = []
    for calls in (3, 6):
        own = torch.ones(calls, len(graph.units), dtype=torch.double, requires_grad=True)
        end = mixed_end(model, graph, "ddim", calls, own, memory="step")
        nodes.append(len(nodes_behind(end.grad_fn)))
        first = torch.autograd.grad(end.sum(), own, retain_graph=True)[0]
        assert torch.equal(first, torch.autograd.grad(end.sum(), own)[0]) and first.abs().max() > 0
    assert nodes[1] - nodes[0] == 3


def nodes_behind(node) -> set:
    """Every node of the graph that a way back from this one comes by."""
    seen, ahead = set(), [node]
    while ahead:
        if (node := ahead.pop()) not in seen:
            seen.add(node)
            ahead += [before for before, _ in node.next_functions if before is not None]
    return seen


def test_the_gradient_of_a_gate_is_the_slope_of_the_loss():
    """Finite differences of the mixture itself, with no gate near where a decision flips."""
    from explorer.graph import describe

    model = Bare("sd")
    graph = describe(model.denoiser, "stage")
    own = torch.rand(4, len(graph.units), generator=torch.Generator().manual_seed(3), dtype=torch.double) * 0.3 + 0.65

    def loss(gates):
        return mixed_end(model, graph, "ddim", 4, gates).square().mean()

    gates = own.clone().requires_grad_()
    loss(gates).backward()
    for call, column in [(1, 0), (1, len(graph.units) - 1), (2, 4), (3, 6)]:
        step = torch.zeros_like(own)
        step[call, column] = 1e-5
        slope = (loss(own + step) - loss(own - step)) / 2e-5
        assert gates.grad[call, column] == pytest.approx(slope.item(), rel=1e-4, abs=1e-12)
        assert slope != 0
    assert (gates.grad[0] == 0).all()


def test_the_gate_of_a_skipped_call_says_what_entering_it_would_change():
    """At a call that is not entered, the slope is towards what the whole call would have computed."""
    from explorer.graph import describe

    model = Bare("sd")
    graph = describe(model.denoiser, "stage")
    keep = np.ones((4, len(graph.units)), dtype=bool)
    keep[2] = False
    own = relaxed(graph, keep).requires_grad_()
    mixed_end(model, graph, "ddim", 4, own).square().mean().backward()
    everything, nothing = (hard_end(model, graph, "ddim", 4, one) for one in (np.ones_like(keep), keep))
    assert own.grad[2, -1] != 0
    assert torch.sign(own.grad[2, -1]) == torch.sign(everything.square().mean() - nothing.square().mean())


def test_the_cascade_is_the_graphs_own():
    from explorer.graph import describe

    for kind, granularity, reuse in CASES:
        graph = describe(DENOISERS[kind](), granularity, reuse)
        draws = np.random.default_rng(0)
        for _ in range(20):
            keep = draws.random((5, len(graph.units))) < 0.7
            gates = Gates.of(torch.from_numpy(keep).double(), graph)
            assert np.array_equal(gates.live.numpy() > 0.5, graph.close(keep))
            assert np.array_equal(gates.enters.numpy() > 0.5, graph.close(keep).any(axis=1))


def test_a_sampler_that_draws_noise_is_refused():
    from explorer.graph import describe

    model = Bare("sd")
    graph = describe(model.denoiser, "stage")
    with pytest.raises(ValueError, match="deterministic"):
        mixed_end(model, graph, "lcm", 4, torch.ones(4, len(graph.units), dtype=torch.double))
    with pytest.raises(ValueError, match="gates for 3"):
        mixed_end(model, graph, "ddim", 4, torch.ones(3, len(graph.units), dtype=torch.double))
