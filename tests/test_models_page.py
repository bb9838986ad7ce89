"""Every embedded model on the page: its prompts, the methods that prune it, its pictures."""

import pytest
from playwright.sync_api import expect

from explorer.experiment import ExperimentRequest, compare, load_cached, plan
from explorer.models import catalogue
from explorer.models.prompts import model_names, uses_prompt
from explorer.pruners import method_title
from explorer.ui import url_state

pytestmark = pytest.mark.browser


def run_of(model):
    """Name the sampler and guidance of a model that does not take any."""
    return {name: value for name, value in catalogue.own_run(model).items() if name != "steps"}


OTHERS = [name for name in catalogue.EMBEDDED if name != "emoji-unet"]


@pytest.mark.parametrize("model", catalogue.EMBEDDED)
def test_every_embedded_model_generates_under_a_schedule(model):
    request = ExperimentRequest(model=model, prompt="dog", method="uniform", steps=4, ratio=0.5, **run_of(model))
    ends = {frame.role: frame for frame in compare(request) if frame.done}
    assert list(ends) == ["original", "pruned", "baseline"] and ends["pruned"].psnr < ends["original"].calls * 100
    assert plan(request).calls == 4 and 0.4 < plan(request).kept < 0.6


@pytest.mark.parametrize("model", OTHERS)
def test_two_prompts_differ_where_the_prompt_is_used(model):
    def picture(prompt):
        *_, last = (
            f
            for f in compare(ExperimentRequest(model=model, prompt=prompt, steps=2, **run_of(model)))
            if f.role == "original"
        )
        return last.picture

    assert (picture("dog") != picture("red heart")) == uses_prompt(model)


def test_transformer_names_the_unknown_class():
    with pytest.raises(ValueError, match="generates classes, by name or number, and 'zeppelin' is none of them"):
        list(compare(ExperimentRequest(model="emoji-dit", prompt="zeppelin", steps=2)))


@pytest.mark.parametrize("model", OTHERS)
def test_another_model_is_chosen_and_generates(visitor, model):
    page = visitor.open("prompt=dog&method=dipgo&steps=25&ratio=0.5").page
    page.click("#model input")
    page.get_by_role("option", name=model, exact=True).click()
    expect(page.locator("#method input")).to_have_value(
        method_title(url_state.opening_values(model, "dipgo").get("method", "dipgo"))
    )
    page.click("#method input")  # what is learned is for other numbers of steps
    page.get_by_role("option", name="Skip whole steps", exact=True).click()
    page.fill("#ratio input[type=number]", "0.5")
    page.fill("#steps input", "4")
    page.press("#steps input", "Enter")
    units = len(load_cached(model).graph().units)
    page.wait_for_function("units => document.querySelector('#heatmap .plot').map.units.length === units", arg=units)
    assert page.locator("#known-names-list option").count() == len(
        [name for name in model_names(load_cached(model)) if name]
    )
    if not uses_prompt(model):
        expect(page.locator("#unknown-words")).to_contain_text("this model is unconditional: the prompt is ignored")
    visitor.generate()
    assert len(visitor.pictures()) == 3 and not page.locator("#alert [role=alert]").count()
    assert f"model={model}" in page.url
    assert not visitor.errors and not visitor.foreign
