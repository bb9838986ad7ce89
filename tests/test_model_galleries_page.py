"""The galleries of the other models on the page: each opens on its own scenes, without a picture being generated."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlparse

import pytest
from playwright.sync_api import expect

from explorer.bundled import gallery
from explorer.models import catalogue
from explorer.pruners import method_title
from tests.page_fixtures import NUM_REQUESTS, query_of, settled
from tests.test_gallery_page import MOVED

pytestmark = pytest.mark.browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.page_fixtures import Visitor

PACKED = [name for name in catalogue.EMBEDDED if (gallery.GALLERIES / name / gallery.TABLE).is_file()]
# A picture whose strip is not loaded yet is transparent.
ALL_PAINTED = """() => [...document.querySelectorAll(".card .picture")].every(one => one.width &&
    one.getContext("2d").getImageData(0, 0, one.width, one.height).data.every((value, at) => at % 4 < 3 || value))"""
OTHERS = [name for name in PACKED if name != "emoji-unet"]


def read_table(model: str) -> dict:
    return json.loads((gallery.GALLERIES / model / gallery.TABLE).read_text(encoding="utf-8"))


def last_ratio(model: str) -> float:
    """Find the last stop but 0.95 of the slider for the method that a model opens with."""
    table, opening = read_table(model), gallery.opening_values(model)["method"]
    results = next(one["results"] for one in table["methods"].values() if one["method"] == opening)
    return max(ratio for ratio, result in zip(table["ratios"], results, strict=True) if result and ratio < 0.95)


def expect_gallery(page: Page, model: str) -> None:
    """Expect the model's own scenes, its opening values in the controls, and three pictures of its gallery."""
    table, values = read_table(model), gallery.opening_values(model)
    scenes = [f"{one['prompt']}, seed {one['seed']}".removeprefix(", ") for one in table["samples"]]
    titles = "[...document.querySelectorAll('#lead .samples button')].map(one => one.title).join()"
    page.wait_for_function(f"scenes => {titles} === scenes", arg=",".join(scenes))
    expect(page.locator("#method input")).to_have_value(method_title(values["method"]))
    expect(page.locator("#ratio input[type=number]")).to_have_value(str(values["ratio"]))
    expect(page.locator("#seed input")).to_have_value(str(values["seed"]))
    expect(page.locator(".view")).to_have_attribute("data-source", "gallery")
    expect(page.locator(".samples button[aria-pressed=true]")).to_have_attribute("title", scenes[0])
    page.wait_for_function(ALL_PAINTED)
    expect(page.locator(".frame.noise")).to_have_count(0)
    units = len(table["graphs"]["layer"]["units"])
    page.wait_for_function("units => document.querySelector('#heatmap .plot').map.units.length === units", arg=units)
    assert page.locator(".methods button").count() == len(table["methods"])
    assert query_of(page)["model"] == [model]


def choose_model(page: Page, model: str) -> None:
    page.click("#model input")
    page.get_by_role("option", name=model, exact=True).click()


@pytest.mark.parametrize("model", OTHERS)
def test_an_address_with_a_model_alone_opens_its_gallery_and_the_slider_moves_it(visitor: Visitor, model: str):
    page = visitor.open(f"model={model}").page
    expect_gallery(page, model)
    end = last_ratio(model)
    for ratio in (0.5, 0.3, end):
        unchanged = page.evaluate(MOVED, ratio)
        assert not {"picture", "heatmap", "tiles"} & {*unchanged}
    page.click(".samples button >> nth=2")
    expect(page.locator("#seed input")).to_have_value(str(read_table(model)["samples"][2]["seed"]))
    page.wait_for_function("end => new URLSearchParams(location.search).get('ratio') === `${end}`", arg=end)
    settled(page, NUM_REQUESTS)
    expect(page.locator(".view")).to_have_attribute("data-source", "gallery")
    assert not page.locator("#verdict .verdict").count() and not page.locator(".history button").count()
    page.goto(page.url)
    page.wait_for_selector("#heatmap .drawn")
    expect(page.locator(".view")).to_have_attribute("data-source", "gallery")
    expect(page.locator("#ratio input[type=number]")).to_have_value(str(end))
    expect(page.locator(".samples button >> nth=2")).to_have_attribute("aria-pressed", "true")
    assert not visitor.errors and not visitor.foreign


def test_another_model_shows_its_gallery_and_the_first_one_comes_back(visitor: Visitor):
    tables: list[str] = []
    visitor.page.on(
        "response", lambda answer: tables.append(answer.url) if answer.url.endswith(gallery.TABLE) else None
    )
    page = visitor.open("prompt=octopus&seed=1&method=dipgo&steps=50&ratio=0.8").page
    expect(page.locator(".view")).to_have_attribute("data-source", "gallery")
    assert {urlparse(url).path for url in tables} == {f"/explorer/gallery/emoji-unet/{gallery.TABLE}"}
    for model in (*OTHERS, "emoji-unet"):
        choose_model(page, model)
        expect_gallery(page, model)
        assert not {"picture", "heatmap"} & {*page.evaluate(MOVED, 0.4)}
        settled(page, NUM_REQUESTS)
    assert not page.locator("#verdict .verdict").count() and not page.locator(".history button").count()
    assert not visitor.errors


@pytest.mark.skipif("emoji-dit" not in OTHERS, reason="its gallery is not made yet: precompute gallery")
def test_an_address_opens_exactly_what_it_names(visitor: Visitor):
    sample, table = read_table("emoji-dit")["samples"][3], read_table("emoji-dit")
    query = f"model=emoji-dit&prompt={sample['prompt']}&seed={sample['seed']}&method=random&ratio=0.3&steps=50"
    page = visitor.open(query).page
    expect(page.locator(".view")).to_have_attribute("data-source", "gallery")
    expect(page.locator(".samples button >> nth=3")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".methods button[data-method=random]")).to_have_attribute("aria-pressed", "true")
    kept = table["methods"]["random"]["results"][table["ratios"].index(0.3)]["kept"]
    expect(page.locator(".card[data-role=pruned] dd").first).to_have_text(f"{100 * kept:.1f} %")
    assert not visitor.errors
