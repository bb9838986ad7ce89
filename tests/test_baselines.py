"""Methods that need no learning, and the two searches: schedules whose answer is known, ranges, seeds, refusals."""

import itertools

import numpy as np
import pytest

from explorer.experiment import prune
from explorer.masks.schedule import Schedule, ScheduleImportance
from explorer.measures import feature_similarity
from explorer.models import catalogue
from explorer.models.architectures import build_block_graph
from explorer.progress import run_to_completion
from explorer.pruners import PRUNERS, SAMPLER_NAMES, method_config, methods_for
from explorer.pruners.baselines import deepcache_row
from explorer.pruners.objective import Objective
from explorer.pruners.search import initial_candidate, offspring
from explorer.pruners.spacing import halving_order, nested_order, spaced_calls, staleness, thinning_order
from explorer.sampling.schedulers import SAMPLERS

pytestmark = pytest.mark.slow

WITHOUT_WEIGHTS = methods_for("schedule", needs_weights=False)


@pytest.fixture(scope="module")
def sd15():
    return catalogue.load("sd15", weights=False)


def run_method(model, method, **settings):
    return run_to_completion(prune(model, method, method_config(method, {"steps": 50} | settings)))


def test_every_method_prunes_schedules_or_widths_and_every_sampler_has_a_name():
    assert list(PRUNERS) == methods_for("schedule") + methods_for("widths")
    assert all(name == method.name for name, method in PRUNERS.items())
    assert tuple(SAMPLERS) == SAMPLER_NAMES


@pytest.mark.parametrize("method", WITHOUT_WEIGHTS)
@pytest.mark.parametrize("granularity", ["stage", "layer"])
def test_every_method_gives_an_order_for_all_ratios(sd15, method, granularity):
    if method == "deepcache" and granularity == "stage":
        with pytest.raises(ValueError, match="layer"):
            run_method(sd15, method, granularity=granularity)
        return
    importance = run_method(sd15, method, granularity=granularity)
    assert isinstance(importance, ScheduleImportance)
    largest = importance.max_ratio
    for ratio in np.linspace(0, largest, 12):
        mask = importance.at(ratio)
        assert abs(1 - mask.macs_fraction - ratio) < 0.01
    with pytest.raises(ValueError, match="largest possible"):
        importance.at(largest + 0.01)


def test_uniform_computes_every_kth_call_whole(sd15):
    mask = run_method(sd15, "uniform", interval=5)
    assert isinstance(mask, Schedule)
    assert np.flatnonzero(mask.keep.any(axis=1)).tolist() == list(range(0, 50, 5))
    assert mask.keep[::5].all()
    assert mask.macs_fraction == pytest.approx(0.2)


@pytest.mark.parametrize("ratio, calls", [(0, 50), (0.5, 25), (0.7, 15), (0.9, 5), (0.98, 1)])
def test_uniform_at_a_ratio_spaces_calls_evenly(sd15, ratio, calls):
    mask = run_method(sd15, "uniform", ratio=ratio)
    computed = np.flatnonzero(mask.keep.all(axis=1))
    assert len(computed) == calls and computed[0] == 0
    gaps = np.diff([*computed, 50])
    assert gaps.max() - gaps.min() <= 1
    assert mask.header.ratio.asked == ratio and mask.header.ratio.reached == pytest.approx(ratio)


def test_halving_spacing_keeps_calls_evenly_spaced():
    order = halving_order(np.arange(16))
    assert sorted(order) == list(range(16)) and order[0] == 15
    stays = np.sort(np.argsort(order)[-4:])
    assert np.diff([*stays, 16]).tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize("count", [1, 2, 7, 12, 25, 49, 50])
def test_quadratic_spacing_has_decreasing_strides(sd15, count):
    mask = run_method(sd15, "uniform", ratio=1 - count / 50, spacing="quadratic")
    computed = np.flatnonzero(mask.keep.all(axis=1))
    assert len(computed) == count and computed[0] == 0
    ideal = 50 * (1 - (1 - np.arange(count) / count) ** 2)
    if count <= 12:
        assert np.abs(computed - ideal).max() <= 1
    nested_mask = run_method(sd15, "uniform", spacing="quadratic").at(1 - count / 50)
    gaps = np.diff(np.flatnonzero(nested_mask.keep.all(axis=1)))
    assert count != 12 or gaps[:4].mean() > 2 * gaps[-4:].mean()


def test_thinning_spacing_removes_the_call_with_the_nearest_neighbours():
    assert thinning_order(np.arange(8)).tolist() == [7, 0, 4, 1, 6, 2, 5, 3]
    assert thinning_order(np.array([0.0, 1.0, 1.1, 5.0])).tolist() == [3, 0, 1, 2]


@pytest.mark.parametrize("calls", [1, 2, 3, 10, 25, 50])
def test_the_ends_spacing_is_nested_and_densest_at_both_ends(sd15, calls):
    order = nested_order(calls, "ends")
    assert sorted(order) == list(range(calls)) and order[0] == calls - 1
    kept = [set(spaced_calls(calls, count, "ends")) for count in range(1, calls + 1)]
    assert all(fewer < more for fewer, more in itertools.pairwise(kept))
    if calls == 50:
        gaps = np.diff(spaced_calls(50, 25, "ends"))
        assert gaps[0] < gaps.max() > gaps[-1] and gaps.max() == gaps[8:16].max()
        mask = run_method(sd15, "uniform", ratio=0.76, spacing="ends")
        assert np.flatnonzero(mask.keep.any(axis=1)).tolist() == spaced_calls(50, 12, "ends").tolist()


def test_staleness_is_largest_before_a_sudden_change():
    where = np.array([0.0, 0.1, 0.2, 5.0, 5.1, 5.2])  # one sudden change, before call 3
    score = staleness(where)
    assert score[0] == score[3] == 5.2 and score[[1, 2, 4, 5]].max() == pytest.approx(0.2)
    assert not staleness(np.zeros(5)).any()


def test_similarity_skips_units_where_they_change_least(sd_folder):
    model = catalogue.load(sd_folder)
    settings = {"steps": 6, "num_images": 3, "order": 1}
    importance = run_to_completion(prune(model, "similarity", method_config("similarity", settings), ["dog", "cat"]))
    assert importance.header.pruner.config["num_images"] == 3
    prompts = ["dog", "cat", "dog"]
    change = run_to_completion(feature_similarity.measure(model, prompts, steps=6)).change
    expected = np.stack([staleness(np.cumsum(unit, dtype=float)) for unit in change], axis=1)
    assert np.allclose(importance.score, expected, rtol=1e-3)
    mask = run_to_completion(
        prune(model, "similarity", method_config("similarity", settings | {"ratio": 0.4}), ["dog", "cat"])
    )
    assert np.array_equal(mask.keep, importance.at(0.4).keep)


def test_search_is_no_worse_than_what_it_starts_from_and_keeps_to_its_budget(sd_folder):
    model = catalogue.load(sd_folder)
    config = method_config("search", {"steps": 12, "ratio": 0.7, "num_images": 2, "budget": 12})
    mask = run_to_completion(prune(model, "search", config, ["dog", "cat"]))
    objective = Objective(model, ["dog", "cat"], "ddim", 12, 7.5)
    start = run_to_completion(prune(model, "uniform", method_config("uniform", {"steps": 12, "ratio": 0.7})))
    assert mask.keep.any(axis=1).sum() == start.keep.any(axis=1).sum() and mask.keep[0].all()
    assert objective.schedule_loss(model.graph(), mask.keep) <= objective.schedule_loss(model.graph(), start.keep)
    assert np.array_equal(mask.keep, run_to_completion(prune(model, "search", config, ["dog", "cat"])).keep)


def test_genetic_search_is_no_worse_than_its_initial_candidates_and_follows_its_seed(sd_folder):
    model = catalogue.load(sd_folder)
    settings = {"steps": 8, "ratio": 0.6, "num_images": 2, "population": 5}
    found, objective = {}, Objective(model, ["dog", "cat"], "ddim", 8, 7.5)
    for budget in (5, 20):
        work = prune(model, "genetic", method_config("genetic", settings | {"budget": budget}), ["dog", "cat"])
        found[budget] = run_to_completion(work)
        assert 1 - found[budget].macs_fraction == pytest.approx(0.6, abs=0.02)
    losses = {budget: objective.schedule_loss(model.graph("stage"), mask.keep) for budget, mask in found.items()}
    assert losses[20] <= losses[5]
    again = run_to_completion(
        prune(model, "genetic", method_config("genetic", settings | {"budget": 20}), ["dog", "cat"])
    )
    assert np.array_equal(again.keep, found[20].keep)


def test_initial_candidates_are_the_spacings_and_offspring_mix_their_parents():
    rng = np.random.default_rng(0)
    even = initial_candidate(10, 3, 0, rng)
    assert (even == even[:, :1]).all() and even[0].min() > even[1:].max()
    population = [(0.1, np.zeros((200, 3))), (0.2, np.ones((200, 3)))]
    children = np.stack([offspring(population, rng) for _ in range(20)])
    from_first = np.isclose(children, 0).all(axis=2).mean()
    assert 0.5 < from_first < 0.95 and np.isclose(children, 1).all(axis=2).mean() > 0.05


def test_random_follows_its_seed(sd15):
    one, same, other = (run_method(sd15, "random", ratio=0.5, seed=seed).keep for seed in (1, 1, 2))
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
    mask = run_method(sd15, "deepcache", interval=5, branch=0)
    assert mask.keep[::5].all() and mask.keep[1].sum() == 1


def test_deepcache_takes_the_interval_nearest_to_a_ratio(sd15):
    reached = [1 - run_method(sd15, "deepcache", interval=n).macs_fraction for n in range(1, 51)]
    mask = run_method(sd15, "deepcache", ratio=0.4)
    assert 1 - mask.macs_fraction == pytest.approx(min(reached, key=lambda r: abs(r - 0.4)))


@pytest.mark.parametrize("method", WITHOUT_WEIGHTS)
def test_a_ratio_out_of_range_is_refused_with_the_largest(sd15, method):
    largest = run_method(sd15, method, ratio=0.3).header.max_ratio
    assert run_method(sd15, method, ratio=largest).macs_fraction == pytest.approx(1 - largest, abs=1e-3)
    with pytest.raises(ValueError, match=rf"between 0 and {largest:.4f} \(the largest possible here\)"):
        run_method(sd15, method, ratio=largest + 0.01)


def test_a_schedule_that_the_settings_name_has_no_asked_ratio(sd15):
    for method, settings in (("uniform", {"interval": 5}), ("deepcache", {"interval": 5})):
        mask = run_method(sd15, method, ratio=0.1, **settings)
        assert mask.header.ratio.asked is None and mask.header.ratio.reached == pytest.approx(1 - mask.macs_fraction)


def test_deepcache_needs_a_u_net_with_enough_layers(sd15):
    with pytest.raises(ValueError, match="branch may be at most 9 here, got 12"):
        run_method(catalogue.load("sdxl", weights=False), "deepcache", branch=12)
    with pytest.raises(ValueError, match="this model has no up blocks"):
        run_method(catalogue.load("dit-xl-2-256", weights=False), "deepcache", ratio=0.5)


@pytest.mark.parametrize(
    "method, settings, reason",
    [
        ("uniform", {"interval": 0}, "interval"),
        ("uniform", {"interval": "often"}, "interval"),
        ("uniform", {"ratio": float("nan")}, "ratio"),
        ("uniform", {"wings": 2}, "wings"),
        ("random", {"order": 3}, "order"),
        ("random", {"granularity": "head"}, "granularity"),
        ("random", {"steps": 10**6}, "steps"),
    ],
)
def test_bad_settings_are_refused_by_field(method, settings, reason):
    with pytest.raises(ValueError, match=reason):
        method_config(method, settings)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="'magic' is unknown; choose one of uniform, random, deepcache"):
        method_config("magic", {})


def test_the_graph_is_that_whose_macs_the_catalogue_counts(sd15):
    assert build_block_graph(sd15.denoiser, "layer").names == sd15.graph("layer").names
