"""Accessibility of the page in a real browser: contrast, keyboard, small screens, reduced motion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.page_fixtures import NO_TRANSITIONS, NUM_REQUESTS, OPENED, settled

pytestmark = pytest.mark.browser

if TYPE_CHECKING:
    from tests.page_fixtures import Visitor

CONTRAST = """() => {
    const channels = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
        .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = node => {
        for (; node; node = node.parentElement) {
            const colour = channels(getComputedStyle(node).backgroundColor);
            if (colour.length < 4 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const texts = [...document.querySelectorAll("h1, h2, h3, p, label span, dt, dd, button, figcaption, input")];
    return texts.filter(node => node.checkVisibility() && !node.disabled && !node.closest(".counter")).filter(node => {
        const pair = [channels(getComputedStyle(node).color), behind(node)].map(light).sort((a, b) => b - a);
        return (pair[0] + 0.05) / (pair[1] + 0.05) < 4.5;
    }).map(node => node.outerHTML.slice(0, 160));
}"""


def test_text_has_enough_contrast_in_light_and_dark_and_the_page_can_be_used_by_keyboard(visitor: Visitor):
    page = visitor.open("steps=4&prompt=dog&__theme=dark&method=uniform&ratio=0.5").page
    assert page.evaluate("document.body.classList.contains('dark')")
    assert page.evaluate(CONTRAST) == []
    page.add_style_tag(content=NO_TRANSITIONS)
    page.evaluate("document.body.classList.remove('dark')")
    assert page.evaluate(CONTRAST) == []
    assert page.locator("h1").count() == 1
    reached = set()
    page.locator("#ratio input[type=number]").focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    reached.add(page.evaluate("document.activeElement.closest('[id]:not([id^=component])')?.id"))
    page.locator("#prompt input").focus()
    for _ in range(16):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.closest('[id]:not([id^=component])')?.id"))
    assert {"method", "ratio", "generate", "seed", "new-seed", "steps"} <= reached


def test_page_needs_no_horizontal_scrolling_on_a_phone(visitors):
    phone = visitors(viewport={"width": 375, "height": 812}).open()
    phone.generate()
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 375
    assert phone.page.locator(".card").first.bounding_box()["width"] >= 90


def test_autoplay_is_off_with_reduced_motion(visitors):
    visitor = visitors(reduced_motion="reduce")
    page = visitor.page
    page.goto(visitor.served)
    page.wait_for_function(OPENED)
    settled(page, NUM_REQUESTS)
    assert visitor.settled("document.querySelector('.play').textContent") == "Play"
