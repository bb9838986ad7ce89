"""Orders over heads and neurons, their file, and networks that are really smaller."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from explorer import catalogue
from explorer.drawing import draw
from explorer.experiment import Question, config_of, prune
from explorer.structure import sites
from explorer.widths import WidthImportance, Widths, found_in, ranked
from explorer.work import finished


@pytest.fixture(scope="module")
def model(sd_folder):
    return catalogue.load(sd_folder)


@pytest.fixture(scope="module")
def importance(model) -> WidthImportance:
    return finished(prune(model, "magnitude", config_of("magnitude", {})))


def params(model) -> int:
    return sum(parameter.numel() for parameter in model.denoiser.parameters())


def test_widths_are_nested_and_nearest_to_the_ratio(importance):
    saved, before = importance.saved, {name: np.ones(len(rank), bool) for name, rank in importance.rank.items()}
    assert saved[-1] == pytest.approx(importance.header.max_ratio) and (np.diff(saved) > 0).all()
    for ratio in np.linspace(0, importance.header.max_ratio, 23):
        found = importance.at(ratio)
        assert 1 - found.kept == pytest.approx(found.header.ratio.reached)
        assert abs(1 - found.kept - ratio) == pytest.approx(np.abs(saved - ratio).min())
        assert not any((found.keep[name] & ~before[name]).any() for name in before)
        before = found.keep


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.25, None])
def test_a_smaller_model_has_as_many_parameters_as_the_file_says_and_draws(model, importance, ratio):
    found = importance.at(importance.header.max_ratio if ratio is None else ratio)
    smaller = found.narrowed(model)
    assert params(smaller) == round(found.kept * params(model)) == smaller.priced().params
    assert smaller.graph().macs_per_call <= model.graph().macs_per_call
    *_, (frame, pictures) = draw(smaller, ["dog"], [0], "ddim", 3, 3.0, previews=1)
    assert frame.done and pictures.shape[0] == 1
    if ratio == 0.0:
        *_, (_, whole) = draw(model, ["dog"], [0], "ddim", 3, 3.0, previews=1)
        assert np.array_equal(pictures, whole)
    else:
        with pytest.raises(ValueError, match="is cut already"):
            smaller.smaller({})


def test_small_weights_go_first_and_heads_compare_with_neurons_by_what_a_parameter_is_worth(model):
    other = model.twin()
    name, site = next((name, site) for name, site in sites(other.denoiser).items() if name.endswith("neurons"))
    quiet = [3, 5]
    for path in site.producers:
        layer = other.denoiser.get_submodule(path)
        layer.weight = type(layer.weight)(layer.weight.clone(), requires_grad=False)
        for neuron in quiet:
            layer.weight[neuron :: site.size] = 0
    for path, _ in site.consumers:
        layer = other.denoiser.get_submodule(path)
        layer.weight = type(layer.weight)(layer.weight.clone(), requires_grad=False)
        layer.weight[:, quiet] = 0
    for norm in (1, 2):
        found = finished(prune(other, "magnitude", config_of("magnitude", {"norm": norm})))
        assert sorted(found.rank[name][quiet]) == [0, 1] and (found.score[name][quiet] == 0).all()


def test_random_widths_follow_the_seed(model):
    def ask(seed):
        return finished(prune(model, "random-widths", config_of("random-widths", {"seed": seed}))).rank

    first, again, other = ask(0), ask(0), ask(1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_the_lowest_score_of_all_sites_goes_first():
    class Site:
        size = 2

    found = ranked({"a": Site, "b": Site}, {"a": np.array([0.5, 0.1]), "b": np.array([0.3, 0.7])})
    assert found["a"].tolist() == [2, 0] and found["b"].tolist() == [1, 3]


def test_files_come_back_as_they_were(importance, tmp_path):
    importance.save(tmp_path / "i.safetensors")
    importance.at(0.1).save(tmp_path / "w.safetensors")
    again, decided = found_in(tmp_path / "i.safetensors"), found_in(tmp_path / "w.safetensors")
    assert isinstance(again, WidthImportance) and isinstance(decided, Widths)
    assert again.header == importance.header and decided.kept == importance.at(0.1).kept
    assert all(np.array_equal(again.rank[name], rank) for name, rank in importance.rank.items())


def _header(importance, **changes) -> dict[str, str]:
    return {"explorer": json.dumps(importance.header.model_dump(mode="json") | changes)}


def _damaged(importance, tensors) -> list[tuple[dict, dict, str]]:
    first = next(name for name in tensors if name.startswith("rank"))
    score = first.replace("rank", "score")
    rank = tensors[first].copy()
    rank[0] = rank[-1]
    sites = [site.model_dump() for site in importance.header.sites]
    return [
        (tensors | {first: rank}, {}, "rank is not an order"),
        (tensors | {score: tensors[score] * np.nan}, {}, "not finite"),
        (tensors | {first: tensors[first][1:]}, {}, "must be int32"),
        (tensors | {"more": rank}, {}, "not those of the sites"),
        (tensors, {"sites": sites[1:]}, "not those of the sites"),
        (tensors, {"sites": [sites[0] | {"name": "../x:heads"}, *sites[1:]]}, "sites.0.name"),
        (tensors, {"params": 0}, "params"),
        (tensors, {"max_ratio": float("nan")}, "max_ratio"),
        (tensors, {"format": 2}, "format"),
        (tensors, {"calls": 3}, "calls: Extra inputs"),
    ]


def test_a_damaged_file_is_refused_in_one_sentence(importance, tmp_path):
    importance.save(tmp_path / "good.safetensors")
    tensors = load_file(tmp_path / "good.safetensors")
    for number, (tables, changes, said) in enumerate(_damaged(importance, tensors)):
        file = tmp_path / f"{number}.safetensors"
        save_file(tables, file, metadata=_header(importance, **changes))
        with pytest.raises(ValueError, match=said) as refused:
            found_in(file)
        assert "\n" not in str(refused.value)
    whole = (tmp_path / "good.safetensors").read_bytes()
    for cut in (0, 4, 200, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="cut.safetensors"):
            found_in(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_a_ratio_that_cannot_be_is_refused_with_the_largest(importance, ratio):
    with pytest.raises(ValueError, match=f"must be between 0 and {importance.header.max_ratio:.4f}"):
        importance.at(ratio)


def test_widths_of_another_model_are_refused(model, importance):
    header = importance.header
    other = header.model_copy(update={"model": header.model.model_copy(update={"id": "other"})})
    with pytest.raises(ValueError, match="is for the model other, not tiny-sd"):
        Widths(other, importance.at(0.1).keep).narrowed(model)
    sized = header.sites[0].model_copy(update={"size": 99})
    keep = importance.at(0.1).keep | {sized.name: np.ones(99, bool)}
    with pytest.raises(ValueError, match="has 99 units in this file, 2 in the model"):
        Widths(header.model_copy(update={"sites": (sized, *header.sites[1:])}), keep).narrowed(model)


def test_a_question_is_about_schedules():
    with pytest.raises(ValueError, match="makes a smaller network, not a schedule of calls"):
        Question(method="magnitude")
