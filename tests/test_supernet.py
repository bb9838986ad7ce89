"""Exact properties of the SuperNet under a schedule."""

import diffusers
import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map

from explorer.execution.feature_cache import FeatureCache
from explorer.execution.macs import COUNTED_LAYERS, count_layer_macs, measure_architecture
from explorer.execution.prediction import Prediction
from explorer.execution.supernet import SuperNet
from explorer.masks.block_graph import Extrapolation
from explorer.models.architectures import build_block_graph
from tests.conftest import DENOISERS, example_inputs

EPSILON = Prediction("epsilon")
CALLS = 4


def inputs_of(denoiser, call=0, batch=1):
    """Make inputs that differ from call to call."""
    generator = torch.Generator().manual_seed(100 + call)
    inputs = example_inputs(denoiser)
    name = "hidden_states" if "hidden_states" in inputs else "sample"
    inputs[name] = torch.randn(batch, *inputs[name].shape[1:], generator=generator)
    thousands = 1 if {"img_ids", "img_shapes"} & inputs.keys() else 1000  # which FLUX and Qwen-Image multiply by
    inputs["timestep"] = torch.full((batch,), thousands * (0.9 - 0.1 * call))
    if "encoder_hidden_states" in inputs:
        shape = (batch, 5, inputs["encoder_hidden_states"].shape[-1])
        inputs["encoder_hidden_states"] = torch.randn(shape, generator=generator)
    if "class_labels" in inputs:
        inputs["class_labels"] = torch.arange(batch)
    inputs = tree_map(lambda one: _repeat(one, batch), inputs)
    if "img_shapes" in inputs:
        inputs["img_shapes"] *= batch
    return inputs


def _repeat(value, batch):
    """Give each picture of a batch its own, of what has one per picture."""
    has_one = isinstance(value, torch.Tensor) and value.ndim and len(value) == 1
    return value.repeat(batch, *[1] * (value.ndim - 1)) if has_one else value


@torch.no_grad()
def run(denoiser, calls=CALLS, **kwargs):
    return [denoiser(**inputs_of(denoiser, call, **kwargs), return_dict=False)[0] for call in range(calls)]


def state_of(denoiser):
    return {path: dict(vars(module)) for path, module in denoiser.named_modules()}


def schedules(graph, seed=0):
    """Make closed random schedules, and one that skips whole calls."""
    keep = np.random.default_rng(seed).random((CALLS, len(graph.units))) < 0.6
    keep[0] = True
    keep[2] = False
    return graph.close(keep)


@pytest.mark.parametrize("granularity", ["stage", "layer", "module"])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_everything_kept_equals_the_plain_denoiser_bit_for_bit(denoiser, granularity, order):
    graph = build_block_graph(denoiser, granularity)
    plain = run(denoiser)
    with SuperNet(denoiser, graph, np.ones((CALLS, len(graph.units)), dtype=bool), EPSILON, Extrapolation(order)):
        kept = run(denoiser)
    assert all(torch.equal(a, b) for a, b in zip(plain, kept, strict=True))


@pytest.mark.parametrize("reuse", ["output", "residual"])
@pytest.mark.parametrize("granularity", ["stage", "layer", "module"])
def test_supernet_restores_the_network_after_exit_or_exception(denoiser, granularity, reuse):
    graph = build_block_graph(denoiser, granularity, reuse)
    before, plain = state_of(denoiser), run(denoiser, 1)
    with SuperNet(denoiser, graph, schedules(graph), EPSILON):
        run(denoiser)
    assert state_of(denoiser) == before
    with pytest.raises(KeyError, match="stop"), SuperNet(denoiser, graph, schedules(graph), EPSILON):
        run(denoiser, 2)
        raise KeyError("stop")
    assert state_of(denoiser) == before
    assert torch.equal(run(denoiser, 1)[0], plain[0])


@pytest.mark.parametrize("reuse", ["output", "residual"])
@pytest.mark.parametrize("granularity", ["stage", "layer", "module"])
def test_only_computed_units_run_and_counted_macs_equal_predicted_macs(denoiser, granularity, reuse):
    """Compare the counted runs of each unit's layers, and the counted MACs, with the schedule's prediction."""
    graph = measure_architecture(
        denoiser, build_block_graph(denoiser, granularity, reuse), example_inputs(denoiser)
    ).graph
    keep = schedules(graph)
    ran, current = np.zeros_like(keep), {"call": 0}
    for column, modules in enumerate(graph.modules):
        last_layer(denoiser, modules[0]).register_forward_hook(
            lambda module, args, output, column=column: ran.__setitem__((current["call"], column), True)
        )
    with SuperNet(denoiser, graph, keep, EPSILON), count_layer_macs(denoiser) as macs, torch.no_grad():
        for call in range(CALLS):
            current["call"], before = call, sum(macs.values())
            denoiser(**inputs_of(denoiser, call))
            assert sum(macs.values()) - before == graph.cost(keep)[call]
    assert np.array_equal(ran, keep)


def last_layer(denoiser, path):
    """Take the last block, because DiT's head uses the first layers of block 0."""
    layers = [module for module in denoiser.get_submodule(path).modules() if isinstance(module, COUNTED_LAYERS)]
    return layers[-1]


def test_dead_unit_does_not_run_although_its_bit_is_set(unet):
    graph = build_block_graph(unet, "stage")
    keep = np.ones((2, 9), dtype=bool)
    keep[1, 7] = False  # kills all but the first and the last stage
    counts = {}
    for name in graph.names:
        unet.get_submodule(name).resnets[0].register_forward_hook(
            lambda module, args, output, name=name: counts.update({name: counts.get(name, 0) + 1})
        )
    with SuperNet(unet, graph, keep, EPSILON):
        run(unet, 2)
    assert counts == dict.fromkeys(graph.names, 1) | {"down_blocks.0": 2, "up_blocks.3": 2}


def test_skipped_unit_returns_its_last_computed_output(unet):
    graph = build_block_graph(unet, "layer")
    column = graph.names.index("up_blocks.2.layers.1")
    keep = np.ones((3, len(graph.units)), dtype=bool)
    keep[1:, column] = False
    keep = graph.close(keep)
    taken = []
    unet.up_blocks[2].resnets[2].register_forward_pre_hook(lambda module, args: taken.append(args[0]))
    computed = []
    unet.up_blocks[2].attentions[1].register_forward_hook(lambda module, args, output: computed.append(output[0]))
    with SuperNet(unet, graph, keep, EPSILON):
        run(unet, 3)
    width = computed[0].shape[1]
    assert all(torch.equal(x[:, :width], computed[0]) for x in taken)


def test_a_residual_is_added_to_the_fresh_input():
    denoiser = DENOISERS["dit"]()
    graph = build_block_graph(denoiser, "layer", "residual")
    keep = np.ones((2, len(graph.units)), dtype=bool)
    keep[1, 1] = False
    taken, handed_on = [], []  # by block 1: it runs in the first call only
    denoiser.transformer_blocks[0].register_forward_hook(lambda module, args, output: taken.append(output))
    denoiser.transformer_blocks[2].register_forward_pre_hook(lambda module, args: handed_on.append(args[0]))
    with SuperNet(denoiser, graph, keep, EPSILON):
        run(denoiser, 2)
    torch.testing.assert_close(handed_on[1], taken[1] + (handed_on[0] - taken[0]))
    assert not torch.equal(taken[0], taken[1])


@pytest.mark.parametrize("order, values", [(0, [5, 5]), (1, [7, 9]), (2, [10, 17])])
def test_a_cache_continues_a_polynomial_through_call_indices(order, values):
    """Extrapolate through (0, 2), (1, 1), (3, 5): the constant 5, the line 2 t - 1, the parabola t^2 - 2 t + 2."""
    cache = FeatureCache(Extrapolation(order))
    for call, value in ((0, 2.0), (1, 1.0), (3, 5.0)):
        cache.push(call, (torch.tensor(value),))
    assert [cache.at(call)[0].item() for call in (4, 5)] == pytest.approx(values)


def test_a_polynomial_is_continued_for_max_extrapolation_calls():
    cache = FeatureCache(Extrapolation(1, 2))
    for call, value in ((0, 1.0), (4, 5.0)):
        cache.push(call, torch.tensor(value))
    assert [cache.at(call).item() for call in (5, 6, 7, 20)] == pytest.approx([6, 7, 7, 7])


def test_a_lower_order_holds_until_there_are_enough_values():
    cache = FeatureCache(Extrapolation(2))
    cache.push(0, torch.tensor(3.0))
    assert cache.at(1).item() == 3.0
    cache.push(1, torch.tensor(5.0))
    assert cache.at(2).item() == pytest.approx(7.0)


def first_of(inputs, batch=2):
    """Take the first picture's, of what has one per picture."""
    per_picture = tree_map(lambda one: one[:1] if isinstance(one, torch.Tensor) and len(one) == batch else one, inputs)
    return per_picture | ({"img_shapes": inputs["img_shapes"][:1]} if "img_shapes" in inputs else {})


def test_batch_elements_do_not_mix(denoiser):
    graph = build_block_graph(denoiser, "layer")
    keep = schedules(graph)
    with SuperNet(denoiser, graph, keep, EPSILON):
        both = run(denoiser, batch=2)
    singles = [first_of(inputs_of(denoiser, call, batch=2)) for call in range(CALLS)]
    with SuperNet(denoiser, graph, keep, EPSILON), torch.no_grad():
        alone = [denoiser(**single, return_dict=False)[0] for single in singles]
    for a, b in zip(both, alone, strict=True):
        torch.testing.assert_close(a[:1], b, atol=1e-5, rtol=1e-4)


def test_two_contexts_keep_counts_and_caches_of_their_own(denoiser):
    graph = build_block_graph(denoiser, "layer")
    keep = schedules(graph)

    def alone(shift):
        with SuperNet(denoiser, graph, keep, EPSILON), torch.no_grad():
            return [denoiser(**inputs_of(denoiser, call + shift), return_dict=False)[0] for call in range(CALLS)]

    mixed = {"cond": [], "uncond": []}
    with SuperNet(denoiser, graph, keep, EPSILON) as net, torch.no_grad():
        for call in range(CALLS):
            for shift, name in ((0, "cond"), (10, "uncond")):
                with net.in_context(name):
                    mixed[name].append(denoiser(**inputs_of(denoiser, call + shift), return_dict=False)[0])
    assert all(torch.equal(a, b) for a, b in zip(mixed["cond"], alone(0), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(mixed["uncond"], alone(10), strict=True))


def test_too_many_and_too_few_calls_raise(unet):
    graph = build_block_graph(unet, "stage")
    keep = np.ones((3, 9), dtype=bool)
    with (
        pytest.raises(ValueError, match="more often than the schedule's 3 calls"),
        SuperNet(unet, graph, keep, EPSILON),
    ):
        run(unet, 4)
    with pytest.raises(ValueError, match="made 2 calls, but the schedule has 3"), SuperNet(unet, graph, keep, EPSILON):
        run(unet, 2)


def test_the_sampler_is_refused_at_once_when_it_makes_another_number_of_calls(unet):
    graph, scheduler = build_block_graph(unet, "stage"), diffusers.DDIMScheduler()
    under = SuperNet(unet, graph, np.ones((3, 9), dtype=bool), EPSILON, scheduler=scheduler)
    with pytest.raises(ValueError, match="makes 5 calls, but the schedule has 3"), under:
        scheduler.set_timesteps(5)
    scheduler.set_timesteps(5)
    assert "set_timesteps" not in vars(scheduler)


def test_a_cancelled_run_leaves_no_state(unet):
    graph, scheduler = build_block_graph(unet, "layer"), diffusers.DDIMScheduler()
    keep = schedules(graph)
    with SuperNet(unet, graph, keep, EPSILON, scheduler=scheduler):
        scheduler.set_timesteps(CALLS)
        clean = run(unet)
        scheduler.set_timesteps(CALLS)
        run(unet, 2)  # cancelled
        scheduler.set_timesteps(CALLS)
        again = run(unet)
    assert all(torch.equal(a, b) for a, b in zip(clean, again, strict=True))


def test_one_schedule_at_a_time(unet):
    graph = build_block_graph(unet, "stage")
    net = SuperNet(unet, graph, np.ones((1, 9), dtype=bool), EPSILON)
    with net:
        with pytest.raises(RuntimeError, match="already"), SuperNet(unet, graph, net.keep, EPSILON):
            pass
        run(unet, 1)


def test_output_can_be_a_dataclass(denoiser):
    graph = build_block_graph(denoiser, "layer")
    keep = np.ones((2, len(graph.units)), dtype=bool)
    keep[1] = False
    with SuperNet(denoiser, graph, keep, EPSILON), torch.no_grad():
        first, second = (denoiser(**inputs_of(denoiser, call)) for call in range(2))
    assert type(second) is type(first) and torch.equal(second.sample, first.sample)
