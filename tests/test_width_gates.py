"""Removing heads and neurons of every known kind of network: a pruned network equals the gated one."""

import copy

import numpy as np
import pytest
import torch

from explorer.execution.width_gates import WidthGates, prune_widths
from explorer.models.prunable_dims import find_prunable_dims
from tests.conftest import ddpm_unet, sd_unet, sdxl_unet
from tests.test_supernet import inputs_of
from tests.tiny_transformers import TRANSFORMERS

BATCH = 2
LATENTS, TOKENS, TIME = torch.randn(BATCH, 4, 8, 8), torch.randn(BATCH, 5, 32), torch.tensor([300, 700])
INPUTS = {
    "sd": (sd_unet, dict(sample=LATENTS, timestep=TIME, encoder_hidden_states=TOKENS[..., :12])),
    "sdxl": (
        sdxl_unet,
        dict(sample=LATENTS, timestep=TIME, encoder_hidden_states=TOKENS[..., :24])
        | dict(added_cond_kwargs={"text_embeds": torch.randn(BATCH, 12), "time_ids": torch.ones(BATCH, 6)}),
    ),
    "ddpm": (ddpm_unet, dict(sample=LATENTS[:, :3], timestep=TIME)),
}
CUTTABLE = [*INPUTS, *(name for name in TRANSFORMERS if name != "wan")]


@pytest.fixture(params=CUTTABLE)
def network(request):
    """Make (network, its inputs): weights and biases random, so that nothing is zero by its initialisation."""
    make, inputs = INPUTS.get(request.param) or (TRANSFORMERS[request.param], None)
    made = make().eval().requires_grad_(False)
    torch.manual_seed(3)
    for parameter in made.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return made, inputs or inputs_of(made, batch=BATCH)


@torch.no_grad()
def run(network, inputs):
    return network(**inputs, return_dict=False)[0]


def prune(network, widths):
    prune_widths(network, find_prunable_dims(network, any(name.endswith(":adaln_channels") for name in widths)), widths)


def widths_of(network, left) -> dict[str, np.ndarray]:
    """Keep a random choice of `left(dim)` elements of every dimension."""
    rng, found = np.random.default_rng(0), {}
    for name, dim in find_prunable_dims(network).items():
        keep = np.zeros(dim.size, dtype=bool)
        keep[rng.permutation(dim.size)[: left(dim)]] = True
        found[name] = keep
    return found


LEFT = {
    "30 %": lambda dim: max(1, round(0.3 * dim.size)),
    "70 %": lambda dim: max(1, round(0.7 * dim.size)),
    "one of each": lambda dim: 1,
    "no head": lambda dim: 0 if dim.name.endswith("heads") else dim.size - 1,
    "nothing": lambda dim: 0,
    "every other dimension": lambda dim: 0 if sum(map(ord, dim.name)) % 2 else dim.size,
}


@pytest.mark.parametrize("left", LEFT)
def test_pruned_network_equals_gated_network_and_has_the_predicted_parameters(network, left: str):
    whole, inputs = network
    widths = widths_of(whole, LEFT[left])
    there = find_prunable_dims(whole)
    smaller = copy.deepcopy(whole)
    prune(smaller, widths)
    with WidthGates(whole, find_prunable_dims(whole), widths):
        gated = run(whole, inputs)
    found = run(smaller, inputs)
    assert (gated - run(whole, inputs)).abs().max() > 1e-3  # the gates had an effect, and were removed
    assert (found - gated).abs().max() <= 1e-4 * gated.abs().max().clamp(min=1)
    before, after = (sum(parameter.numel() for parameter in one.parameters()) for one in (whole, smaller))
    assert before - after == sum(there[name].removed_params(keep) for name, keep in widths.items())


def test_a_pruned_network_can_be_pruned_again(network):
    whole, inputs = network
    first = widths_of(whole, lambda dim: max(1, dim.size - 1))
    once, twice = copy.deepcopy(whole), copy.deepcopy(whole)
    prune(twice, first)
    second = widths_of(twice, lambda dim: max(1, dim.size // 2))
    prune(twice, second)
    both = {name: keep.copy() for name, keep in first.items()}
    for name, keep in second.items():
        both[name][both[name]] = keep
    prune(once, both)
    assert torch.equal(run(once, inputs), run(twice, inputs))


@pytest.mark.parametrize(("dtype", "share"), [(torch.float16, 0.1), (torch.bfloat16, 0.2)])  # of the largest output
def test_a_pruned_network_runs_in_half_precision(network, dtype, share):
    whole, inputs = network
    prune(whole, widths_of(whole, LEFT["30 %"]))
    reference = run(whole, inputs)
    half = {name: _cast(value, dtype) for name, value in inputs.items()}
    found = run(whole.to(dtype), half)
    assert found.dtype == dtype and (found.float() - reference).abs().max() < share * reference.abs().max()


def _cast(value, dtype):
    if isinstance(value, dict):
        return {name: _cast(one, dtype) for name, one in value.items()}
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def test_gradients_reach_soft_gates(network):
    whole, inputs = network
    gates = {name: torch.full((dim.size,), 0.9, requires_grad=True) for name, dim in find_prunable_dims(whole).items()}
    with WidthGates(whole, find_prunable_dims(whole), gates):
        whole(**inputs, return_dict=False)[0].square().sum().backward()
    unread = ("transformer_blocks.2.txt_mlp:neurons",)  # of Qwen-Image's last block: nothing reads the text after it
    touched = {name for name, gate in gates.items() if gate.grad is not None and bool(gate.grad.ne(0).any())}
    assert gates.keys() - touched <= {*unread}


def test_width_gates_are_removed_after_an_error(network):
    whole, inputs = network
    before = run(whole, inputs)
    with (
        pytest.raises(KeyError, match="stop"),
        WidthGates(whole, find_prunable_dims(whole), widths_of(whole, LEFT["30 %"])),
    ):
        raise KeyError("stop")
    assert torch.equal(run(whole, inputs), before)


def test_pruning_does_not_change_networks_that_share_weights(network):
    whole, inputs = network
    before = run(whole, inputs)
    shared = {id(tensor): tensor for tensor in (*whole.parameters(), *whole.buffers())}
    prune(copy.deepcopy(whole, shared), widths_of(whole, LEFT["30 %"]))
    assert torch.equal(run(whole, inputs), before)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"mid_block.nothing:heads": np.ones(2, bool)}, "is no dimension of this UNet2DConditionModel"),
        ({"mid_block.attentions.0.transformer_blocks.0.attn1:heads": np.ones(3, bool)}, "has 2 elements in this model"),
    ],
)
@pytest.mark.parametrize("way", [prune_widths, WidthGates])
def test_widths_of_another_model_are_refused_and_change_nothing(unet, widths, message, way):
    good = {"mid_block.attentions.0.transformer_blocks.0.ff:neurons": np.zeros(64, bool)}
    before = {name: parameter.clone() for name, parameter in unet.named_parameters()}
    with pytest.raises(ValueError, match=message):
        way(unet, find_prunable_dims(unet), good | widths)
    assert all(torch.equal(parameter, before[name]) for name, parameter in unet.named_parameters())


def test_a_film_model_names_what_cannot_be_cut():
    with pytest.raises(
        ValueError, match=r"6 layers, blocks.0.attn1 the first, are a WanAttention, which takes the norm"
    ):
        find_prunable_dims(TRANSFORMERS["wan"]())


def test_an_attention_of_an_unknown_class_is_named():
    network = TRANSFORMERS["pixart"]()
    network.transformer_blocks[1].attn1.__class__ = type(
        "OwnAttention", (type(network.transformer_blocks[1].attn1),), {}
    )
    with pytest.raises(ValueError, match=r"transformer_blocks.1.attn1 the first, are a OwnAttention, whose parts"):
        find_prunable_dims(network)
