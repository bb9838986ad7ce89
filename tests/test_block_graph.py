import numpy as np
import pytest
import torch

from explorer.execution.feature_cache import map_tensors
from explorer.masks.block_graph import BlockGraph, Unit
from explorer.models.architectures import build_block_graph
from tests.conftest import example_inputs


def unit(name, reads, reuse="output", kind="stream", macs=1):
    return Unit(name=name, kind=kind, reuse=reuse, macs=macs, reads=reads)


def test_sd_stages_are_the_papers_nine_with_its_edges(unet):
    graph = build_block_graph(unet, "stage")
    d0, d1, d2, d3, mid, u0, u1, u2, u3 = range(9)
    assert graph.names == (*(f"down_blocks.{i}" for i in range(4)), "mid_block", *(f"up_blocks.{i}" for i in range(4)))
    reads = [set(unit.reads) for unit in graph.units]
    assert reads == [set(), {d0}, {d1}, {d2}, {d3}, {mid, d3, d2}, {u0, d2, d1}, {u1, d1, d0}, {u2, d0}]


def test_cascade_of_the_specification(unet):
    graph = build_block_graph(unet, "stage")
    keep = np.ones((3, 9), dtype=bool)
    keep[1, 8] = False  # the last up stage reused: nothing of this call is read
    keep[2, 7] = False  # the one before it: only what the last one reads runs, like DeepCache
    runs = graph.close(keep)
    assert runs[0].all() and not runs[1].any()
    assert np.flatnonzero(runs[2]).tolist() == [0, 8]


def test_a_branch_or_a_residual_still_needs_its_input():
    graph = BlockGraph([unit("a", ()), unit("b", (0,), kind="branch"), unit("c", (1,), reuse="residual")], "module")
    keep = np.array([[True, False, False]])
    assert graph.close(keep).tolist() == [[True, False, False]]
    assert BlockGraph([unit("a", ()), unit("b", (0,))], "layer").close(np.array([[True, False]])).tolist() == [
        [False, False]
    ]


@pytest.mark.parametrize("granularity", ["stage", "layer", "module"])
@pytest.mark.parametrize("reuse", ["output", "residual"])
def test_every_prefix_of_a_removal_order_is_closed(denoiser, granularity, reuse):
    graph = build_block_graph(denoiser, granularity, reuse)
    calls = 3
    rank = graph.removal_order(np.random.default_rng(0).random((calls, len(graph.units))))
    assert np.array_equal(np.sort(rank, axis=None), np.arange(rank.size))
    assert rank[0].min() == rank.size - len(graph.units)
    removed = np.arange(rank.size - len(graph.units) + 1)[:, None, None]
    keep = (rank[1:] >= removed).reshape(-1, len(graph.units))  # the cascade stays within a call
    assert np.array_equal(graph.close(keep), keep)


def test_what_goes_with_a_unit_is_what_closing_the_call_without_it_removes(denoiser):
    graph, lot = build_block_graph(denoiser, "module"), np.random.default_rng(0)
    units = len(graph.units)
    for running in graph.close(lot.random((20, units)) < 0.8):
        for column in np.flatnonzero(running):
            without = running & (np.arange(units) != column)
            kept = without if graph.units[column].passes_input else graph.close(without[None])[0]
            assert np.array_equal(graph.cascade_of(running, column), running & ~kept)


def test_removal_order_takes_the_lowest_score_first(unet):
    graph = build_block_graph(unet, "stage")
    score = np.ones((3, 9))
    score[2, 3] = 0
    score[1, 0] = 0.5
    rank = graph.removal_order(score)
    assert rank[2, 3] == 0 and rank[1, 0] == 1


@pytest.mark.parametrize("granularity", ["stage", "layer", "module"])
def test_reads_are_what_really_reads(denoiser, granularity):
    """Replace one unit's output by NaN and see which later units read it: exactly those that the graph says."""
    graph = build_block_graph(denoiser, granularity)
    inputs = example_inputs(denoiser)
    for column in range(0, len(graph.units), 1 if len(graph.units) < 30 else 5):
        modules = graph.modules[column]
        taken, handles = set(), []
        hook = denoiser.get_submodule(modules[-1]).register_forward_hook(
            lambda module, args, output: map_tensors(lambda y: y * float("nan"), output)
        )
        for other, paths in enumerate(graph.modules):
            if other > column:
                handles.append(
                    denoiser.get_submodule(paths[0]).register_forward_pre_hook(_record(taken, other), with_kwargs=True)
                )
        with torch.no_grad():
            denoiser(**inputs)
        for handle in (hook, *handles):
            handle.remove()
        # a branch beside another may be said to be read by both streams: nothing ends with it
        assert taken <= _reach(graph, column) if granularity == "module" else taken == _reach(graph, column)


def _record(taken, other):
    def record(module, args, kwargs):
        flat = torch.utils._pytree.tree_leaves((args, kwargs))
        if any(isinstance(leaf, torch.Tensor) and leaf.isnan().any() for leaf in flat):
            taken.add(other)

    return record


def _reach(graph, column):
    """List the columns that read `column`, directly or through others."""
    reached = {column}
    for other, unit in enumerate(graph.units):
        if reached & set(unit.reads):
            reached.add(other)
    return reached - {column}


def test_an_unknown_class_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="Linear is not a known denoiser; known are UNet, DiT, PixArt, SD3, Flux, "):
        build_block_graph(torch.nn.Linear(1, 1))


def test_an_unknown_block_or_granularity_is_refused(unet):
    with pytest.raises(ValueError, match="granularity 'head'"):
        build_block_graph(unet, "head")
    unet.mid_block = torch.nn.Identity()
    with pytest.raises(ValueError, match="Identity is not a known U-Net block; known are AttnDownBlock2D"):
        build_block_graph(unet)


def test_reads_to_the_right_are_refused():
    with pytest.raises(ValueError, match="unit a reads"):
        BlockGraph([unit("a", (1,)), unit("b", ())], "layer")
