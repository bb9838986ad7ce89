"""Importances of heads and neurons, their files, and the pruned networks."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from explorer.experiment import ExperimentRequest, find_result, prune, widths_at
from explorer.library import prune_widths
from explorer.masks.channel_rules import keep_mask
from explorer.masks.result import load
from explorer.masks.width import WidthImportance, Widths, rank_elements
from explorer.models import catalogue
from explorer.models.prunable_dims import find_prunable_dims
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from explorer.sampling.generate import generate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(sd_folder):
    return catalogue.load(sd_folder)


@pytest.fixture(scope="module", params=["heads and neurons", "channels"])
def importance(request, model) -> WidthImportance:
    return run_to_completion(prune(model, "magnitude", method_config("magnitude", {"axis": request.param})))


@pytest.fixture(scope="module", params=["paper", "torch-pruning"])
def importance_by_rule(request, model) -> WidthImportance:
    config = method_config("magnitude", {"axis": "channels", "rule": request.param})
    return run_to_completion(prune(model, "magnitude", config))


def params(model) -> int:
    return sum(parameter.numel() for parameter in model.denoiser.parameters())


def test_widths_are_nested_and_nearest_to_the_ratio(importance):
    stops, saved = importance.reachable
    before = {name: np.ones(len(rank), bool) for name, rank in importance.rank.items()}
    assert saved[-1] == pytest.approx(importance.header.max_ratio) and (np.diff(saved) > 0).all()
    assert stops[0] == 0 and (np.diff(stops) == 1).all() == (not importance.header.layers)
    for ratio in np.linspace(0, importance.header.max_ratio, 23):
        found = importance.at(ratio)
        assert 1 - found.params_fraction == pytest.approx(found.header.ratio.reached)
        assert abs(1 - found.params_fraction - ratio) == pytest.approx(np.abs(saved - ratio).min())
        assert not any((found.keep[name] & ~before[name]).any() for name in before)
        before = found.keep


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.25, None])
def test_pruned_model_has_the_parameters_of_its_file_and_generates(model, importance, ratio):
    most = 0.6 if importance.header.layers else 1.0  # torch normalises no single value, which a block is at the end
    found = importance.at(most * importance.header.max_ratio if ratio is None else ratio)
    smaller = prune_widths(model, found)
    assert params(smaller) == round(found.params_fraction * params(model)) == smaller.architecture().params
    assert smaller.graph().macs_per_call == round(found.macs_fraction * model.graph().macs_per_call)
    *_, (frame, pictures) = generate(smaller, ["dog"], [0], "ddim", 3, 3.0, previews=1)
    assert frame.done and pictures.shape[0] == 1
    if ratio == 0.0:
        *_, (_, whole) = generate(model, ["dog"], [0], "ddim", 3, 3.0, previews=1)
        assert np.array_equal(pictures, whole)
    else:
        with pytest.raises(ValueError, match="is pruned already"):
            smaller.without({})


def test_magnitude_removes_small_weights_first_and_scores_per_parameter(model):
    other = model.with_shared_weights()
    name, dim = next(
        (name, dim) for name, dim in find_prunable_dims(other.denoiser).items() if name.endswith("neurons")
    )
    quiet = [3, 5]
    for path in dim.producers:
        layer = other.denoiser.get_submodule(path)
        layer.weight = type(layer.weight)(layer.weight.clone(), requires_grad=False)
        for neuron in quiet:
            layer.weight[neuron :: dim.size] = 0
    for path, _ in dim.consumers:
        layer = other.denoiser.get_submodule(path)
        layer.weight = type(layer.weight)(layer.weight.clone(), requires_grad=False)
        layer.weight[:, quiet] = 0
    for norm in (1, 2):
        found = run_to_completion(prune(other, "magnitude", method_config("magnitude", {"norm": norm})))
        assert sorted(found.rank[name][quiet]) == [0, 1] and (found.score[name][quiet] == 0).all()


def test_random_widths_follow_the_seed(model):
    def ask(seed):
        return run_to_completion(prune(model, "random-width", method_config("random-width", {"seed": seed}))).rank

    first, again, other = ask(0), ask(0), ask(1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_lowest_score_of_all_dims_is_removed_first():
    found = rank_elements({"a": np.array([0.5, 0.1]), "b": np.array([0.3, 0.7])})
    assert found["a"].tolist() == [2, 0] and found["b"].tolist() == [1, 3]


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.3, 0.5, 0.8])
def test_channel_ratio_follows_its_rule_and_the_removal_order(model, importance_by_rule, ratio):
    found, rule = importance_by_rule, importance_by_rule.header.pruner.config["rule"]
    groups = model.prunable_dims(channels=True)
    thin = found.at_channel_ratio(ratio)
    for name, keep in thin.keep.items():
        assert np.array_equal(
            keep, keep_mask(found.score[name].astype(float), groups[name].num_norm_groups, ratio, rule)
        )
    gone = sum(int((~keep).sum()) for keep in thin.keep.values())
    assert gone in found.reachable[0] and all(
        np.array_equal(keep, found.rank[name] >= gone) for name, keep in thin.keep.items()
    )
    assert thin.header.ratio.of == "channels" and params(prune_widths(model, thin)) == round(
        thin.params_fraction * params(model)
    )


def test_a_channel_ratio_is_for_channels(model):
    with pytest.raises(ValueError, match="make one with axis=channels"):
        run_to_completion(prune(model, "magnitude", method_config("magnitude", {}))).at_channel_ratio(0.3)


def test_round_to_and_local_ranking_keep_multiples_and_equal_shares(model):
    settings = {"round_to": 8, "ranking": "local"}
    found = run_to_completion(prune(model, "magnitude", method_config("magnitude", settings)))
    assert len(found.reachable[0]) < sum(dim.size for dim in found.header.dims)
    for ratio in (0.05, 0.1, 0.2):
        keep = found.at(ratio).keep
        shares = [kept.mean() for name, kept in keep.items() if name.endswith("neurons")]
        assert all(kept.sum() % 8 == 0 for name, kept in keep.items() if name.endswith("neurons"))
        assert max(shares) - min(shares) <= 8 / min(len(k) for n, k in keep.items() if n.endswith("neurons")) + 1e-9
        assert params(prune_widths(model, found.at(ratio))) == round(found.at(ratio).params_fraction * params(model))


def test_whole_blocks_are_removed_on_request(model):
    found = run_to_completion(prune(model, "magnitude", method_config("magnitude", {"ranking": "blocks"})))
    blocks: dict[str, list[str]] = {}
    for name in found.rank:
        blocks.setdefault(name.rpartition(":")[0].rpartition(".")[0], []).append(name)
    for names in blocks.values():
        places = np.sort(np.concatenate([found.rank[name] for name in names]))
        assert places[-1] - places[0] == len(places) - 1
    assert len(blocks) > 2 and all(len(names) == 3 for names in blocks.values())


def test_blocks_of_a_norm_that_are_not_equally_large_are_refused(model):
    found = run_to_completion(prune(model, "magnitude", method_config("magnitude", {"axis": "channels"}))).at(0.0)
    dim = next(dim for dim in found.header.dims if dim.multiple_of > 1)
    uneven = np.arange(dim.size) >= 1
    with pytest.raises(ValueError, match="which must stay equally large"):
        prune_widths(model, Widths(found.header, found.keep | {dim.name: uneven}))


def test_width_files_round_trip(importance, tmp_path):
    importance.save(tmp_path / "i.safetensors")
    importance.at(0.1).save(tmp_path / "w.safetensors")
    again, decided = load(tmp_path / "i.safetensors"), load(tmp_path / "w.safetensors")
    assert isinstance(again, WidthImportance) and isinstance(decided, Widths)
    assert again.header == importance.header and decided.params_fraction == importance.at(0.1).params_fraction
    assert all(np.array_equal(again.rank[name], rank) for name, rank in importance.rank.items())


LAYER = {"kernel": 1, "bias": 0, "positions": 1, "outputs": {}, "inputs": {}, "fixed_outputs": 1, "fixed_inputs": 1}


def _header(importance, **changes) -> dict[str, str]:
    return {"explorer": json.dumps(importance.header.model_dump(mode="json") | changes)}


def _damaged(importance, tensors) -> list[tuple[dict, dict, str]]:
    first = next(name for name in tensors if name.startswith("rank"))
    score = first.replace("rank", "score")
    rank = tensors[first].copy()
    rank[0] = rank[-1]
    dims = [dim.model_dump() for dim in importance.header.dims]
    return [
        (tensors | {first: rank}, {}, "rank is not an order"),
        (tensors | {score: tensors[score] * np.nan}, {}, "not finite"),
        (tensors | {first: tensors[first][1:]}, {}, "must be int32"),
        (tensors | {"more": rank}, {}, "not those of the dimensions"),
        (tensors, {"dims": dims[1:], "layers": []}, "not those of the dimensions"),
        (tensors, {"dims": [dims[0] | {"name": "../x:heads"}, *dims[1:]]}, "dims.0.name"),
        (tensors, {"params": 0}, "params"),
        (tensors, {"layers": [LAYER | {"outputs": {"nothing": 1}}]}, "channels of nothing"),
        (tensors, {"layers": [LAYER | {"kernel": -1}]}, "layers.0.kernel"),
        (tensors, {"max_ratio": float("nan")}, "max_ratio"),
        (tensors, {"format": 3}, "format"),
        (tensors, {"calls": 3}, "calls: Extra inputs"),
    ]


def test_a_damaged_file_is_refused_in_one_sentence(importance, tmp_path):
    importance.save(tmp_path / "good.safetensors")
    tensors = load_file(tmp_path / "good.safetensors")
    for number, (tables, changes, message) in enumerate(_damaged(importance, tensors)):
        file = tmp_path / f"{number}.safetensors"
        save_file(tables, file, metadata=_header(importance, **changes))
        with pytest.raises(ValueError, match=message) as refused:
            load(file)
        assert "\n" not in str(refused.value)
    whole = (tmp_path / "good.safetensors").read_bytes()
    for end in (0, 4, 200, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:end])
        with pytest.raises(ValueError, match="cut.safetensors"):
            load(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_width_ratio_out_of_range_is_refused_with_the_largest(importance, ratio):
    with pytest.raises(ValueError, match=f"must be between 0 and {importance.header.max_ratio:.4f}"):
        importance.at(ratio)


def test_widths_of_another_model_are_refused(model, importance):
    header = importance.header
    other = header.model_copy(update={"model": header.model.model_copy(update={"id": "other"})})
    with pytest.raises(ValueError, match="is for the model other, not tiny-sd"):
        prune_widths(model, Widths(other, importance.at(0.1).keep))
    sized = header.dims[0].model_copy(update={"size": 99})
    keep = importance.at(0.1).keep | {sized.name: np.ones(99, bool)}
    with pytest.raises(ValueError, match=r"has 99 elements in this file, \d+ in the model"):
        prune_widths(model, Widths(header.model_copy(update={"dims": (sized, *header.dims[1:])}), keep))


def test_request_for_pruned_widths_has_no_schedule(model):
    with pytest.raises(ValueError, match="makes a smaller network, not a schedule of calls"):
        find_result(model, ExperimentRequest(method="magnitude"))
    with pytest.raises(ValueError, match="no widths of magnitude with these settings"):
        widths_at(ExperimentRequest(method="magnitude", settings={"norm": 1, "round_to": 999}))
