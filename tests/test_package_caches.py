"""Caches of other packages, run as they are on transformers: their MACs are counted, and matched on average."""

import numpy as np
import pytest
import torch

from explorer.evaluation import package_caches
from explorer.evaluation.candidates import Candidate, ReferenceRun, make_samples
from explorer.evaluation.evaluate import evaluate
from explorer.evaluation.package_caches import CACHES, PackageCache, cache_candidate, is_installed, kept_by
from explorer.models import catalogue
from explorer.progress import run_to_completion
from explorer.sampling.generate import generate

pytestmark = pytest.mark.slow

RUNS = {"emoji-flux": ReferenceRun("euler", 8, 3.5), "emoji-dit": ReferenceRun("ddim", 8, 4.0)}
SAMPLES = make_samples(["dog", "octopus"], 2, seed=7)
KINDS = [kind for kind in CACHES if is_installed(kind)]


@pytest.fixture(scope="module", params=RUNS)
def model(request):
    return catalogue.load(request.param)


def pictures(model, reference, cache=None):
    run = (reference.sampler, reference.steps, reference.guidance, cache)
    *_, (_, drawn) = generate(model, ["dog"], [7], *run, previews=1)
    return drawn


def test_one_that_may_skip_nothing_draws_the_plain_picture_with_all_macs(model):
    reference = RUNS[model.id]
    plain = pictures(model, reference)
    for kind in KINDS:
        if kind == "mag-cache":
            continue  # it needs ratios, which a run with nothing skipped gives it
        cache = PackageCache(kind, CACHES[kind].values[0])
        assert kept_by(model, cache, reference, SAMPLES[0]) == pytest.approx(1, abs=1e-6), kind
        torch.testing.assert_close(pictures(model, reference, cache), plain, rtol=0, atol=1e-4)
    assert torch.equal(pictures(model, reference), plain)  # nothing is left of them


@pytest.mark.parametrize("kind", KINDS)
def test_mean_macs_are_as_near_to_those_asked_as_the_setting_allows(model, kind):
    reference, kept = RUNS[model.id], 0.6
    candidate = cache_candidate(model, kind, reference, kept, SAMPLES)
    assert candidate.method == kind and candidate.cache
    found = np.mean([kept_by(model, candidate.cache, reference, sample) for sample in SAMPLES])
    # one call more or less is 0.1 of eight; attentions alone are a small part
    assert abs(found - kept) < 0.11 or kind in ("pab", "taylorseer") and found < 1
    assert not torch.equal(pictures(model, reference, candidate.cache), pictures(model, reference))


def test_each_picture_is_decided_by_itself_and_has_its_own_macs(tmp_path):
    model, reference = catalogue.load("emoji-flux"), RUNS["emoji-flux"]
    cache = PackageCache("first-block-cache", 0.5)
    candidate = Candidate("first-block-cache", "euler", 8, 0.4, cache.settings, cache=cache)
    samples = make_samples(["dog", "octopus", "red apple", "hamburger"], 4)
    work = evaluate(model, reference, [candidate], samples, tmp_path / "rows.parquet", converged_steps=0)
    rows = run_to_completion(work)
    own = rows[rows.method == "first-block-cache"]
    assert own.seconds.isna().all() and own.loop_seconds.isna().all()  # others are timed in batches
    assert own.error.isna().all() and (own.kept < 0.9).all()
    alone = [kept_by(model, PackageCache("first-block-cache", 0.5), reference, sample) for sample in samples]
    assert own.sort_values("seed").kept.tolist() == pytest.approx(alone)


def test_a_cache_whose_package_is_missing_is_one_sentence(monkeypatch):
    monkeypatch.setattr(package_caches, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="dbcache needs the package cache-dit: pip install cache-dit"):
        package_caches.check_installed("dbcache")
    with pytest.raises(ValueError, match="cache 'nope' is unknown; choose one of first-block-cache, "):
        package_caches.check_installed("nope")
