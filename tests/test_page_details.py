"""Small things of the page that were once wrong: features on a phone, the tour's place, zoom, layout, long words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.page_fixtures import NO_TRANSITIONS, query_of

pytestmark = pytest.mark.browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.page_fixtures import Visitor

EXPLORE = "prompt=octopus&seed=1&method=dipgo&steps=50&ratio=0.8"
FIGURE = "document.querySelector('#similarity .plot')"


def open_features(visitor: Visitor, query: str = EXPLORE) -> Page:
    page = visitor.open(query).page
    page.get_by_role("tab", name="Features").click()
    page.wait_for_selector("#similarity .drawn")
    return page


def test_features_fill_a_phone_and_show_no_call_before_the_first(visitors):
    page = open_features(visitors(viewport={"width": 375, "height": 812}))
    low, high = page.evaluate(f"{FIGURE}._fullLayout.xaxis.range")
    calls = page.evaluate(f"{FIGURE}.data[0].z.length ?? {FIGURE}.data[0].z.shape.split(',')[0] * 1")
    assert (low, high) == (-0.5, calls - 0.5)
    assert page.evaluate(f"{FIGURE}._fullLayout.xaxis._length") > 200  # pixels
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_the_scale_of_features_stays_and_the_unit_is_in_the_address(visitor: Visitor):
    page = open_features(visitor)
    scale = f"[{FIGURE}.data[0].zmin, {FIGURE}.data[0].zmax]"
    assert page.evaluate(scale) == [0, 1]
    page.click("#unit input")
    page.get_by_role("option").nth(5).click()
    chosen = page.locator("#unit input").input_value()
    page.wait_for_function("new URLSearchParams(location.search).get('unit')?.startsWith('down_blocks.')")
    assert page.evaluate(scale) == [0, 1]
    page.goto(page.url)
    expect(page.locator("#unit input")).to_have_value(chosen)
    assert not visitor.errors


def test_the_tour_stands_beside_what_it_explains(visitor: Visitor):
    page = visitor.open(EXPLORE).page
    page.click(".start-tour")
    for number in (1, 2, 3):
        expect(page.locator(".tour small")).to_have_text(f"{number} of 3")
        tour, target = (page.locator(one).bounding_box() for one in (".tour", ".tour-target"))
        assert tour["y"] >= 0 and tour["y"] + tour["height"] <= page.viewport_size["height"]
        gap = max(target["y"] - tour["y"] - tour["height"], tour["y"] - target["y"] - target["height"])
        if target["height"] < page.viewport_size["height"] / 2:
            assert 0 <= gap < 30, number
        page.keyboard.press("Enter")


def test_zoom_says_how_far_it_is_and_magnifies_all_three_pictures(visitor: Visitor):
    page = visitor.open(EXPLORE).page
    page.add_style_tag(content=NO_TRANSITIONS)
    for times, pressed in ((2, "true"), (4, "true"), (1, "false")):
        page.click(".toolbar .zoom")
        expect(page.locator(".toolbar .zoom")).to_have_text(f"Zoom {times}×")
        expect(page.locator(".toolbar .zoom")).to_have_attribute("aria-pressed", pressed)
        scales = page.eval_on_selector_all(
            ".card .picture", "all => all.map(one => new DOMMatrix(getComputedStyle(one).transform).a)"
        )
        assert scales == [times] * 3


LENS = """(card) => {
    const [picture, lens] = [card.querySelector(".picture"), card.querySelector(".lens")];
    const at = (canvas, x, y) => canvas.getContext("2d").getImageData(x, y, 1, 1).data.join();
    const shown = [at(lens, 44, 44), at(lens, 4, 44)];
    return [getComputedStyle(lens).opacity, ...shown, at(picture, 16, 32), at(picture, 11, 32)];
}"""


def test_the_lens_shows_the_pixels_under_the_pointer_in_all_three_pictures(visitor: Visitor):
    page = visitor.open(EXPLORE).page
    page.wait_for_function("[...document.querySelectorAll('.card .picture')].every((one) => one.width === 64)")
    box = page.locator(".card .frame").first.bounding_box()
    page.mouse.move(box["x"] + 16.5 / 64 * box["width"], box["y"] + 32.5 / 64 * box["height"])
    for opacity, middle, left, pixel, left_pixel in page.eval_on_selector_all(".card", f"all => all.map({LENS})"):
        assert (opacity, middle, left) == ("1", pixel, left_pixel)
    page.click(".toolbar .zoom")
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    assert page.locator(".card .lens").first.evaluate("one => getComputedStyle(one).opacity") == "0"


def test_nothing_moves_between_the_ways_of_comparing(visitor: Visitor):
    page = visitor.open(EXPLORE).page
    places = """[...document.querySelectorAll(".viewer .frame, #heatmap .plot")]
        .map((one) => one.getBoundingClientRect().top + scrollY)"""
    before = page.evaluate(places)
    for mode in ("wipe", "blink", "difference", "side"):
        page.click(f".modes [data-mode={mode}]")
        expect(page.locator(".view")).to_have_attribute("data-mode", mode)
        assert page.evaluate(places) == before


@pytest.mark.parametrize("width", [375, 640, 1280])  # 640: 1280 at 200 %
def test_long_words_widen_nothing(visitors, width: int):
    visitor = visitors(viewport={"width": width, "height": 800})
    word = "x" * 200
    page = visitor.open(f"steps=4&prompt={word}&method=uniform&ratio=0.5").page
    page.wait_for_selector("#unknown-words p")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert query_of(page)["prompt"] == [word]
