"""Every embedded model on the page: what it is asked for, what it can be pruned by, what it draws."""

import pytest
from playwright.sync_api import expect

from explorer import catalogue, shipped
from explorer.experiment import Question, compare, loaded, plan
from explorer.prompts import heeded, names
from explorer.pruners.configs import AT_ONCE
from explorer.ui import explore

OTHERS = [name for name in catalogue.EMBEDDED if name != "emoji-unet"]


@pytest.mark.parametrize("model", catalogue.EMBEDDED)
def test_every_embedded_model_draws_under_a_schedule(model):
    asked = Question(model=model, prompt="dog", method="uniform", steps=4, ratio=0.5)
    ends = {frame.role: frame for frame in compare(asked) if frame.done}
    assert list(ends) == ["original", "pruned", "rival"] and ends["pruned"].psnr < ends["original"].calls * 100
    assert plan(asked).calls == 4 and 0.4 < plan(asked).kept < 0.6


@pytest.mark.parametrize("model", OTHERS)
def test_two_prompts_differ_where_the_prompt_is_heeded(model):
    def picture(prompt):
        *_, last = (f for f in compare(Question(model=model, prompt=prompt, steps=2)) if f.role == "original")
        return last.picture

    assert (picture("dog") != picture("red heart")) == heeded(model)


def test_a_transformer_names_the_class_that_it_lacks():
    with pytest.raises(ValueError, match="draws classes, by name or number, and 'zeppelin' is none of them"):
        list(compare(Question(model="emoji-dit", prompt="zeppelin", steps=2)))


@pytest.mark.parametrize("model", OTHERS)
def test_another_model_is_chosen_and_draws(visitor, model):
    page = visitor.open("prompt=dog&method=dipgo&steps=25&ratio=0.5").page
    page.click("#model input")
    page.get_by_role("option", name=model, exact=True).click()
    offered = [*shipped.methods(model), *AT_ONCE]
    expect(page.locator("#method input")).to_have_value("dipgo" if "dipgo" in offered else explore.FALLBACK)
    page.fill("#steps input", "4")
    page.press("#steps input", "Enter")
    units = len(loaded(model).graph().units)
    page.wait_for_function("units => document.querySelector('#keep .plot').data[0].z.length === units", arg=units)
    assert page.locator("#known-names option").count() == len([name for name in names(loaded(model)) if name])
    if not heeded(model):
        expect(page.locator("#unseen")).to_contain_text("the prompt changes nothing")
    visitor.draw()
    assert len(visitor.pictures()) == 3 and not page.locator("#alert [role=alert]").count()
    assert f"model={model}" in page.url
    assert not visitor.complaints and not visitor.foreign
