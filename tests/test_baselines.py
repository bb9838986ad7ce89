import itertools

import numpy as np
import pytest

from explorer import catalogue, similarity
from explorer.experiment import config_of, prune
from explorer.graph import describe
from explorer.masks import Importance, Mask
from explorer.pruners import PRUNERS
from explorer.pruners.baselines import deepcache_row
from explorer.pruners.configs import AT_ONCE, CONFIGS, SAMPLERS, WIDTHS
from explorer.pruners.search import child, founder
from explorer.pruners.spacing import nested, spaced, spread, staleness, thinned
from explorer.trials import Trials
from explorer.work import finished


@pytest.fixture(scope="module")
def sd15():
    return catalogue.load("sd15", weights=False)


def made(model, method, **settings):
    return finished(prune(model, method, config_of(method, {"steps": 50} | settings)))


def test_every_method_has_settings_and_every_sampler_a_name():
    from explorer import trajectory

    assert PRUNERS.keys() == CONFIGS.keys() | WIDTHS.keys()
    assert tuple(trajectory.SAMPLERS) == SAMPLERS


@pytest.mark.parametrize("method", AT_ONCE)
@pytest.mark.parametrize("granularity", ["stage", "layer"])
def test_every_method_gives_an_order_for_all_ratios(sd15, method, granularity):
    if method == "deepcache" and granularity == "stage":
        with pytest.raises(ValueError, match="layer"):
            made(sd15, method, granularity=granularity)
        return
    importance = made(sd15, method, granularity=granularity)
    assert isinstance(importance, Importance)
    largest = importance.header.max_ratio
    for ratio in np.linspace(0, largest, 12):
        mask = importance.at(ratio)
        assert abs(1 - mask.kept - ratio) < 0.01
    with pytest.raises(ValueError, match="largest possible"):
        importance.at(largest + 0.01)


def test_uniform_computes_every_kth_call_whole(sd15):
    mask = made(sd15, "uniform", every=5)
    assert isinstance(mask, Mask)
    assert np.flatnonzero(mask.keep.any(axis=1)).tolist() == list(range(0, 50, 5))
    assert mask.keep[::5].all()
    assert mask.kept == pytest.approx(0.2)


@pytest.mark.parametrize("ratio, calls", [(0, 50), (0.5, 25), (0.7, 15), (0.9, 5), (0.98, 1)])
def test_uniform_at_a_ratio_spaces_calls_evenly(sd15, ratio, calls):
    mask = made(sd15, "uniform", ratio=ratio)
    computed = np.flatnonzero(mask.keep.all(axis=1))
    assert len(computed) == calls and computed[0] == 0
    gaps = np.diff([*computed, 50])
    assert gaps.max() - gaps.min() <= 1
    assert mask.header.ratio.asked == ratio and mask.header.ratio.reached == pytest.approx(ratio)


def test_spread_removes_so_that_what_stays_is_even():
    goes = spread(np.arange(16))
    assert sorted(goes) == list(range(16)) and goes[0] == 15
    stays = np.sort(np.argsort(goes)[-4:])
    assert np.diff([*stays, 16]).tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize("count", [1, 2, 7, 12, 25, 49, 50])
def test_quadratic_spacing_takes_smaller_and_smaller_strides(sd15, count):
    mask = made(sd15, "uniform", ratio=1 - count / 50, spacing="quadratic")
    computed = np.flatnonzero(mask.keep.all(axis=1))
    assert len(computed) == count and computed[0] == 0
    wished = 50 * (1 - (1 - np.arange(count) / count) ** 2)
    if count <= 12:
        assert np.abs(computed - wished).max() <= 1
    nested = made(sd15, "uniform", spacing="quadratic").at(1 - count / 50)
    gaps = np.diff(np.flatnonzero(nested.keep.all(axis=1)))
    assert count != 12 or gaps[:4].mean() > 2 * gaps[-4:].mean()


def test_thinned_takes_out_the_call_whose_neighbours_are_nearest():
    assert thinned(np.arange(8)).tolist() == [7, 0, 4, 1, 6, 2, 5, 3]
    assert thinned(np.array([0.0, 1.0, 1.1, 5.0])).tolist() == [3, 0, 1, 2]


@pytest.mark.parametrize("calls", [1, 2, 3, 10, 25, 50])
def test_the_ends_spacing_is_nested_and_densest_at_both_ends(sd15, calls):
    goes = nested(calls, "ends")
    assert sorted(goes) == list(range(calls)) and goes[0] == calls - 1
    kept = [set(spaced(calls, count, "ends")) for count in range(1, calls + 1)]
    assert all(fewer < more for fewer, more in itertools.pairwise(kept))
    if calls == 50:
        gaps = np.diff(spaced(50, 25, "ends"))
        assert gaps[0] < gaps.max() > gaps[-1] and gaps.max() == gaps[8:16].max()
        mask = made(sd15, "uniform", ratio=0.76, spacing="ends")
        assert np.flatnonzero(mask.keep.any(axis=1)).tolist() == spaced(50, 12, "ends").tolist()


def test_staleness_is_the_stretch_that_a_call_ends():
    where = np.array([0.0, 0.1, 0.2, 5.0, 5.1, 5.2])  # one sudden change, before call 3
    score = staleness(where)
    assert score[0] == score[3] == 5.2 and score[[1, 2, 4, 5]].max() == pytest.approx(0.2)
    assert not staleness(np.zeros(5)).any()


def test_similarity_rests_units_where_they_change_least(sd_folder):
    model = catalogue.load(sd_folder)
    settings = {"steps": 6, "pictures": 3, "order": 1}
    importance = finished(prune(model, "similarity", config_of("similarity", settings), ["dog", "cat"]))
    assert importance.header.pruner.config["pictures"] == 3
    prompts = ["dog", "cat", "dog"]
    change = finished(similarity.measure(model, prompts, steps=6)).change
    expected = np.stack([staleness(np.cumsum(unit, dtype=float)) for unit in change], axis=1)
    assert np.allclose(importance.score, expected, rtol=1e-3)
    mask = finished(prune(model, "similarity", config_of("similarity", settings | {"ratio": 0.4}), ["dog", "cat"]))
    assert np.array_equal(mask.keep, importance.at(0.4).keep)


def test_search_is_no_worse_than_what_it_starts_from_and_keeps_to_its_budget(sd_folder):
    model = catalogue.load(sd_folder)
    config = config_of("search", {"steps": 12, "ratio": 0.7, "pictures": 2, "budget": 12})
    steps = prune(model, "search", config, ["dog", "cat"])
    mask = finished(steps)
    trials = Trials(model, ["dog", "cat"], "ddim", 12, 7.5)
    start = finished(prune(model, "uniform", config_of("uniform", {"steps": 12, "ratio": 0.7})))
    assert mask.keep.any(axis=1).sum() == start.keep.any(axis=1).sum() and mask.keep[0].all()
    assert trials.schedule_loss(model.graph(), mask.keep) <= trials.schedule_loss(model.graph(), start.keep)
    assert np.array_equal(mask.keep, finished(prune(model, "search", config, ["dog", "cat"])).keep)


def test_breeding_is_no_worse_than_its_founders_and_follows_its_seed(sd_folder):
    model = catalogue.load(sd_folder)
    settings = {"steps": 8, "ratio": 0.6, "pictures": 2, "population": 5}
    found, trials = {}, Trials(model, ["dog", "cat"], "ddim", 8, 7.5)
    for budget in (5, 20):
        work = prune(model, "genetic", config_of("genetic", settings | {"budget": budget}), ["dog", "cat"])
        found[budget] = finished(work)
        assert 1 - found[budget].kept == pytest.approx(0.6, abs=0.02)
    losses = {budget: trials.schedule_loss(model.graph("stage"), mask.keep) for budget, mask in found.items()}
    assert losses[20] <= losses[5]
    again = finished(prune(model, "genetic", config_of("genetic", settings | {"budget": 20}), ["dog", "cat"]))
    assert np.array_equal(again.keep, found[20].keep)


def test_founders_are_the_spacings_and_children_mix_their_parents():
    draws = np.random.default_rng(0)
    even = founder(10, 3, 0, draws)
    assert (even == even[:, :1]).all() and even[0].min() > even[1:].max()
    herd = [(0.1, np.zeros((200, 3))), (0.2, np.ones((200, 3)))]
    bred = np.stack([child(herd, draws) for _ in range(20)])
    from_first = np.isclose(bred, 0).all(axis=2).mean()
    assert 0.5 < from_first < 0.95 and np.isclose(bred, 1).all(axis=2).mean() > 0.05


def test_random_follows_its_seed(sd15):
    one, same, other = (made(sd15, "random", ratio=0.5, seed=seed).keep for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert abs(one.mean() - 0.5) < 0.15


def test_deepcache_runs_only_the_outermost_layers_between_full_calls(sd15):
    graph = sd15.graph("layer")
    row = dict(zip(graph.names, deepcache_row(graph, 0), strict=True))
    assert [name for name, runs in row.items() if runs] == ["up_blocks.3.layers.2"]
    row = dict(zip(graph.names, deepcache_row(graph, 2), strict=True))
    assert {name for name, runs in row.items() if runs} == {
        *("down_blocks.0.layers.0", "down_blocks.0.layers.1"),
        *("up_blocks.3.layers.0", "up_blocks.3.layers.1", "up_blocks.3.layers.2"),
    }
    mask = made(sd15, "deepcache", interval=5, branch=0)
    assert mask.keep[::5].all() and mask.keep[1].sum() == 1


def test_deepcache_takes_the_interval_nearest_to_a_ratio(sd15):
    reached = [1 - made(sd15, "deepcache", interval=n).kept for n in range(1, 51)]
    mask = made(sd15, "deepcache", ratio=0.4)
    assert 1 - mask.kept == pytest.approx(min(reached, key=lambda r: abs(r - 0.4)))


@pytest.mark.parametrize("method", AT_ONCE)
def test_a_ratio_out_of_reach_is_refused_with_the_largest(sd15, method):
    largest = made(sd15, method, ratio=0.3).header.max_ratio
    assert made(sd15, method, ratio=largest).kept == pytest.approx(1 - largest, abs=1e-3)
    with pytest.raises(ValueError, match=rf"between 0 and {largest:.4f} \(the largest possible here\)"):
        made(sd15, method, ratio=largest + 0.01)


def test_a_schedule_that_the_settings_name_was_asked_for_no_ratio(sd15):
    for method, settings in (("uniform", {"every": 5}), ("deepcache", {"interval": 5})):
        mask = made(sd15, method, ratio=0.1, **settings)
        assert mask.header.ratio.asked is None and mask.header.ratio.reached == pytest.approx(1 - mask.kept)


def test_deepcache_needs_a_u_net_with_enough_layers(sd15):
    with pytest.raises(ValueError, match="branch may be at most 9 here, got 12"):
        made(catalogue.load("sdxl", weights=False), "deepcache", branch=12)
    with pytest.raises(ValueError, match="this model has no up blocks"):
        made(catalogue.load("dit-xl-2-256", weights=False), "deepcache", ratio=0.5)


@pytest.mark.parametrize(
    "method, settings, said",
    [
        ("uniform", {"every": 0}, "every"),
        ("uniform", {"every": "often"}, "every"),
        ("uniform", {"ratio": float("nan")}, "ratio"),
        ("uniform", {"wings": 2}, "wings"),
        ("random", {"order": 3}, "order"),
        ("random", {"granularity": "head"}, "granularity"),
        ("random", {"steps": 10**6}, "steps"),
    ],
)
def test_bad_settings_are_refused_by_field(method, settings, said):
    with pytest.raises(ValueError, match=said):
        config_of(method, settings)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="'magic' is unknown; choose one of uniform, random, deepcache"):
        config_of("magic", {})


def test_describe_knows_the_graph_that_the_catalogue_prices(sd15):
    assert describe(sd15.denoiser, "layer").names == sd15.graph("layer").names
