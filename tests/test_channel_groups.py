"""Pruning channels: the published counts, equal groups of norms, networks that still run."""

import copy

import diffusers
import numpy as np
import pytest
import torch

from explorer.execution import macs
from explorer.execution.channel_groups import (
    ChannelGroup,
    ChannelGroups,
    Member,
    group_importance,
    index_importance,
    widths_at_channel_ratio,
)
from explorer.masks.channel_rules import keep_mask
from explorer.models import catalogue
from explorer.models.architectures import build_block_graph, spec_of
from explorer.models.prunable_dims import find_prunable_dims, head_and_neuron_producers
from tests.conftest import ddpm_unet, sdxl_unet, small_unet
from tests.test_width_gates import INPUTS, run

pytestmark = pytest.mark.slow

CELEBA = {
    "sample_size": 64,
    "block_out_channels": (128, 256, 256, 256, 512),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
}
LSUN = {
    "sample_size": 256,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
}


def ddpm(**changes):
    config = dict(catalogue.load("ddpm-cifar10", weights=False).denoiser.config) | changes
    return macs.build_on_meta(diffusers.UNet2DModel, {k: v for k, v in config.items() if not k.startswith("_")})


def channel_groups(network, inputs):
    excluded = head_and_neuron_producers(find_prunable_dims(network))
    return ChannelGroups(network, inputs, excluded, spec_of(network).sync_channels)


def left(network, ratio: float, rule: str) -> tuple[int, float]:
    """Count parameters and GMACs of a network on the meta device after pruning."""
    size = network.config.sample_size
    inputs = spec_of(network).example_inputs(network, size, 0)
    channels = channel_groups(network, inputs)
    groups = channels.groups()
    channels.prune_widths(widths_at_channel_ratio(groups, index_importance(groups), ratio, rule))
    architecture = macs.measure_architecture(network, build_block_graph(network), inputs)
    return architecture.params, architecture.graph.macs_per_call / 1e9


@pytest.mark.parametrize(
    ("changes", "ratio", "rule", "params", "gmacs"),
    [  # Fang et al. 2023, tables 1 and 4, LSUN by their code (46.5 M in the paper); the last two: Torch-Pruning 1.6
        ({}, 0.2, "paper", 27_496_590, 5.11),
        ({}, 0.3, "paper", 19_851_157, 3.39),
        ({}, 0.4, "paper", 14_317_624, 2.73),
        (CELEBA, 0.3, "paper", 43_735_002, 13.30),
        (LSUN, 0.3, "paper", 63_205_897, 138.62),
        (LSUN, 0.4, "paper", 44_957_930, 126.18),
        ({}, 0.3, "torch-pruning", 13_949_333, 2.08),
        ({}, 0.25, "torch-pruning", 20_131_203, 3.41),
    ],
)
def test_published_counts_are_reproduced_exactly(changes, ratio, rule, params, gmacs):
    found = left(ddpm(**changes), ratio, rule)
    assert found[0] == params and found[1] == pytest.approx(gmacs, abs=0.005)


NETWORKS = {"sd": small_unet, "sdxl": sdxl_unet, "ddpm": ddpm_unet}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param](), INPUTS[request.param][1]


def random_importance(groups) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.random(group.size) for name, group in groups.items()}


@pytest.mark.parametrize("ratio", [0.3, 0.7])
def test_pruned_network_runs_and_has_the_size_of_its_architecture(network, ratio: float):
    whole, inputs = network
    smaller = copy.deepcopy(whole)
    channels = channel_groups(smaller, inputs)
    widths = widths_at_channel_ratio(channels.groups(), random_importance(channels.groups()), ratio)
    assert any(not keep.all() for keep in widths.values())
    channels.prune_widths(widths)
    found = run(smaller, inputs)
    assert found.shape == run(whole, inputs).shape and bool(found.isfinite().all())
    skeleton = macs.build_on_meta(type(whole), dict(whole.config))
    on_meta = {name: _to_meta(value) for name, value in inputs.items()}
    again = channel_groups(skeleton, on_meta)
    again.prune_widths(widths)
    count = sum(parameter.numel() for parameter in skeleton.parameters())
    assert sum(parameter.numel() for parameter in smaller.parameters()) == count
    assert not any(parameter.requires_grad for parameter in smaller.parameters())


def _to_meta(value):
    if isinstance(value, dict):
        return {name: _to_meta(one) for name, one in value.items()}
    return value.to("meta")


@torch.no_grad()
def test_pruning_zero_channels_does_not_change_the_output(unet):
    """Prune the inner channels of a resnet without norms, which depend on the number of channels."""
    inputs = INPUTS["sd"][1]
    resnet = unet.down_blocks[0].resnets[0]
    resnet.norm2 = torch.nn.Identity()
    keep = np.array([True, False] * 4)
    for layer in (resnet.conv1, resnet.time_emb_proj):
        layer.weight[~torch.from_numpy(keep)] = 0
        layer.bias[~torch.from_numpy(keep)] = 0
    before = run(unet, inputs)
    channels = channel_groups(unet, inputs)
    name = next(
        name
        for name, group in channels.groups().items()
        if any(member.path == "down_blocks.0.resnets.0.conv1" and member.side == "out" for member in group.members)
    )
    channels.prune_widths({name: keep})
    assert resnet.conv1.out_channels == 4 and torch.allclose(run(unet, inputs), before, atol=1e-5)


def test_every_group_of_a_norm_loses_as_many():
    group = ChannelGroup("layer:channels", 12, 3, ())
    importance = np.array([0, 1, 2, 9, 5, 6, 7, 8, 3, 4, 10, 11], dtype=float)
    keep = keep_mask(importance, group.num_norm_groups, 0.3)
    assert keep.reshape(3, 4).sum(axis=1).tolist() == [3, 3, 3] and not keep[[0, 4, 8]].any()
    same = keep_mask(importance, group.num_norm_groups, 0.3, "torch-pruning").reshape(3, 4)
    assert (same == same[0]).all() and same[0].sum() == 2
    assert (
        keep_mask(importance, group.num_norm_groups, 0.0).all()
        and keep_mask(importance, group.num_norm_groups, 0.99).sum() == 3
    )


def test_group_importance_sums_over_all_weights_of_a_channel():
    members = (
        Member("a", "out", (0, 1), (0, 1)),
        Member("b", "in", (3, 2), (0, 1)),
        Member("c", "out", (0, 1), (0, 1)),
    )
    values = {"a.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b.weight": torch.arange(8.0).reshape(2, 4)}
    values["c.weight"] = torch.ones(2)  # a norm, which does not count
    assert group_importance(ChannelGroup("a:channels", 2, 1, members), values).tolist() == [3 + 3 + 7, 7 + 2 + 6]


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (
            lambda channels: widths_at_channel_ratio(channels.groups(), index_importance(channels.groups()), 1.0),
            "at least 0 and below 1, got 1.0",
        ),
        (
            lambda channels: widths_at_channel_ratio(
                channels.groups(), index_importance(channels.groups()), float("nan")
            ),
            "at least 0 and below 1, got nan",
        ),
        (lambda channels: keep_mask(np.arange(4.0), 1, 0.5, "magic"), "rule 'magic' is unknown"),
        (lambda channels: channels.prune_widths({"nothing:channels": np.ones(4, bool)}), "no group of channels"),
        (
            lambda channels: channels.prune_widths({next(iter(channels.groups())): np.ones(3, bool)}),
            "at least one stays",
        ),
    ],
)
def test_invalid_channel_pruning_is_refused_without_changes(unet, attempt, message):
    channels = channel_groups(unet, INPUTS["sd"][1])
    before = run(unet, INPUTS["sd"][1])
    with pytest.raises(ValueError, match=message):
        attempt(channels)
    assert torch.equal(run(unet, INPUTS["sd"][1]), before)
