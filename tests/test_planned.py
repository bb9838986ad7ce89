"""Planned calls: the cheapest of all plans, by errors that are the SuperNet's own, weighted by what they lead to."""

import itertools
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from explorer.execution.feature_cache import extrapolate
from explorer.experiment import prune
from explorer.models import catalogue
from explorer.progress import run_to_completion
from explorer.pruners import full_run, method_config
from explorer.pruners.call_planning import MAX_CALLS, CallPlanner
from explorer.pruners.schedule_configs import PlannedConfig
from explorer.sampling.rollout import denoise
from explorer.sampling.schedulers import make_scheduler

pytestmark = pytest.mark.slow

CALLS, STEPS = 7, 6
CONFIG = {"prediction_type": "epsilon", "clip_sample": False}
SMALL = {"steps": STEPS, "guidance": 3.0, "num_images": 2}


def error_of(plan, values, weights, order, reach, landing):
    """Add up the errors of a plan as its definition says, by what the SuperNet extrapolates with."""
    error = 0.0
    for at, (first, end) in enumerate(zip(plan, [*plan[1:], CALLS], strict=True)):
        known = [(call, torch.from_numpy(values[call])) for call in plan[max(at - order, 0) : at + 1]]
        missed = [
            weights[call] * (extrapolate(known, call, reach).numpy() - values[call]) for call in range(first + 1, end)
        ]
        if missed:
            error += (np.sum(missed, axis=0) ** 2).sum() if landing else (np.array(missed) ** 2).sum()
    return error


@pytest.mark.parametrize("landing", [False, True])
@pytest.mark.parametrize(("order", "reach"), [(0, None), (1, None), (1, 1)])
def test_plans_are_the_best_of_all_and_the_nested_order_removes_the_least(order, reach, landing):
    rng = np.random.default_rng(0)
    values, weights = np.cumsum(rng.normal(size=(CALLS, 5)), axis=0), rng.random(CALLS)
    planner = CallPlanner(values @ values.T, weights, order, reach, landing)

    def error(plan):
        return error_of(plan, values, weights, order, reach, landing)

    plans = planner.plans(CALLS)
    assert plans[-1] == tuple(range(CALLS))
    for count, plan in enumerate(plans, start=1):
        best = min(error((0, *rest)) for rest in itertools.combinations(range(1, CALLS), count - 1))
        assert len(plan) == count and error(plan) == pytest.approx(best) == pytest.approx(planner.total(plan))
    left = list(range(CALLS))
    for call in np.argsort(planner.nested_order())[:-1].tolist():
        rises = {one: error([other for other in left if other != one]) for one in left[1:]}
        assert rises[call] == pytest.approx(min(rises.values()))
        left.remove(call)
    assert left == [0]


def test_too_many_calls_are_refused():
    with pytest.raises(ValueError, match=f"at most {MAX_CALLS} calls, and there are 401"):
        CallPlanner(np.eye(MAX_CALLS + 1), np.ones(MAX_CALLS + 1))


class Linear:
    """A network whose estimate of the noise is a share of its input, and changes by `changes` (T, B, C, H, W)."""

    scheduler_config, denoiser = CONFIG, torch.nn.Identity()

    def __init__(self, share, changes=None):
        self.share, self.changes, self.call = share, changes, 0

    def denoise(self, x, t, conditioning, guidance):
        self.call += 1
        return self.share * x + (0 if self.changes is None else self.changes[self.call - 1])


def final_latents(sampler, share, changes):
    scheduler = make_scheduler(sampler, CONFIG)
    noise = torch.ones(changes.shape[1:]).double()
    *_, last = denoise(Linear(share, changes), scheduler, STEPS, noise, {}, 1.0, None)
    return last.latents


@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "unipc", "pndm", "euler"])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_weights_are_what_a_change_of_one_call_leads_to(sampler, share):
    config = PlannedConfig(sampler=sampler, steps=STEPS, gain="closed")
    scheduler = make_scheduler(sampler, CONFIG)
    scheduler.set_timesteps(STEPS)
    calls = len(scheduler.timesteps)
    noise = torch.ones(1, 1, 8, 8).double()
    none = torch.zeros(calls, *noise.shape).double()
    led_to = []
    for call in range(calls):
        changes = none.clone()
        changes[call] = 0.1
        difference = final_latents(sampler, share, changes) - final_latents(sampler, share, none)
        led_to.append(float(difference.mean()) / 0.1)
    found = full_run.closed_loop_weights(Linear(share), config, noise, {}, 0)
    np.testing.assert_allclose(found / found[1], np.abs(led_to) / abs(led_to[1]), rtol=1e-3)
    if not share:
        final, following = full_run.open_loop_weights(Linear(share), config, calls)
        np.testing.assert_allclose(final[1:], np.abs(led_to)[1:], rtol=1e-3)
        assert following[-1] == pytest.approx(final[-1])


def test_weight_of_a_ddim_step_is_that_of_its_equation():
    scheduler = make_scheduler("ddim", CONFIG)
    scheduler.set_timesteps(STEPS)
    alphas = np.append(scheduler.alphas_cumprod[scheduler.timesteps], scheduler.final_alpha_cumprod).astype(float)
    factor = np.sqrt(alphas[1:] / alphas[:-1])
    expected = np.abs(np.sqrt(1 - alphas[1:]) - factor * np.sqrt(1 - alphas[:-1]))
    later = np.append(np.cumprod(factor[::-1])[::-1][1:], 1)
    final, following = full_run.open_loop_weights(Linear(0), PlannedConfig(steps=STEPS), STEPS)
    np.testing.assert_allclose(following[1:], expected[1:], rtol=1e-4)
    np.testing.assert_allclose(final[1:], (expected * later)[1:], rtol=1e-4)


@pytest.fixture(scope="module")
def model(sd_folder):
    return catalogue.load(sd_folder)


def run(model, method, **settings):
    return run_to_completion(prune(model, method, method_config(method, SMALL | settings), ["dog", "cat"]))


@pytest.mark.parametrize("gain", ["spread", "step", "open", "closed"])
@pytest.mark.parametrize("sampler", ["ddim", "pndm"])
def test_a_plan_is_of_whole_calls_and_the_same_each_time(model, gain, sampler):
    mask = run(model, "planned", gain=gain, sampler=sampler, ratio=0.5)
    computed = mask.keep.any(axis=1)
    assert (mask.keep == computed[:, None]).all() and computed.sum() == round(len(computed) / 2)
    assert (run(model, "planned", gain=gain, sampler=sampler, ratio=0.5).keep == mask.keep).all()
    importance = run(model, "planned", gain=gain, sampler=sampler)
    for count in range(1, len(computed) + 1):
        keep = importance.at(min(1 - count / len(computed), importance.max_ratio)).keep
        assert keep.any(axis=1).sum() == count and (keep == keep[:, :1]).all()


def test_pictures_of_two_batches_count_alike(model, monkeypatch):
    planned = import_module("explorer.pruners.planned")  # by its attribute, the package has the function
    whole = run_to_completion(planned.make_planner(model, ["dog", "cat"], PlannedConfig(**SMALL, gain="step")))
    monkeypatch.setattr(planned, "BATCH", 1)
    parts = run_to_completion(planned.make_planner(model, ["dog", "cat"], PlannedConfig(**SMALL, gain="step")))
    assert parts.total([0, 2, 3]) == pytest.approx(whole.total([0, 2, 3]), rel=0.05)


def test_dipgo_begins_with_a_plan_and_continues_without_another(model, monkeypatch):
    settings = {"granularity": "stage", "batch": 2, "init": "planned", "iterations": 2, "validate_every": 0}
    config = method_config("dipgo", {"steps": STEPS, "guidance": 3.0} | settings)
    steps = list(prune(model, "dipgo", config, ["dog", "cat"]))
    assert [step.message for step in steps][0] == "planning on a full run" and steps[0].state is None
    order = run(model, "planned", order=config.order, max_extrapolation=config.max_extrapolation, num_images=8)
    whole = run_to_completion(prune(model, "dipgo", config, ["dog", "cat"]))
    assert order.rank[0].min() > order.rank[1:].max()
    monkeypatch.setattr(import_module("explorer.pruners.dipgo"), "make_planner", None)  # would fail
    resumed = run_to_completion(prune(model, "dipgo", config, ["dog", "cat"], steps[1].state))
    np.testing.assert_array_equal(whole.score, resumed.score)


def test_run_that_is_not_finite_is_refused(model, monkeypatch):
    broken = SimpleNamespace(
        denoise=lambda x, *_: x * float("nan"),
        encode=lambda prompts, guidance: {},
        initial_latents=model.initial_latents,
        scheduler_config=model.scheduler_config,
    )
    with pytest.raises(ValueError, match="not finite; lower the guidance"):
        full_run.measure_batch(broken, ["dog"], 0, PlannedConfig(steps=STEPS))
