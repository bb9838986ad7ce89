"""The page end to end: real server, real embedded model, real browser."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlparse

import pytest
from playwright.sync_api import expect

from tests.page_fixtures import call_api

pytestmark = pytest.mark.browser

if TYPE_CHECKING:
    from tests.page_fixtures import Visitor

ROOT = Path(__file__).parent.parent


# -- before the first request


def test_building_the_page_needs_no_torch():
    code = "import sys; from explorer.ui import build; build(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# -- what a visitor sees


def test_generates_three_pictures_from_one_request(visitor: Visitor):
    # with 4 steps, the baseline's 2 steps of DPM++ are the same as pruned DDIM's
    visitor.open("steps=8&prompt=dog&method=uniform&ratio=0.5").generate()
    page = visitor.page
    assert len(set(visitor.pictures())) == 3
    assert page.eval_on_selector("#pictures .card .picture", "canvas => canvas.width") >= 32
    assert page.locator(".card .picture").first.get_attribute("aria-label") == "dog, original"
    assert page.locator(".card h2").all_inner_texts() == ["Original", "Pruned", "Same cost, fewer steps"]
    facts = page.locator(".card[data-role=pruned] dd").all_inner_texts()
    assert facts[0].endswith("%")
    assert float(facts[1]) > 0
    assert 0 <= float(facts[2]) <= 1
    assert facts[3].endswith(" dB")
    assert "seed 0" in page.locator("#pictures .footer").inner_text()
    assert not visitor.errors
    assert not visitor.foreign


def test_stop_ends_a_run(visitor: Visitor):
    visitor.open("steps=200&prompt=dog&method=uniform&ratio=0.5")
    visitor.page.click("#generate")
    expect(visitor.page.locator(".card[data-role=original] .counter")).to_contain_text("of 200", timeout=60_000)
    visitor.page.click("#stop")
    expect(visitor.page.locator("#stop")).to_be_disabled()
    counter = visitor.settled("document.querySelector('.card[data-role=original] .counter').textContent")
    assert "of 200" in counter
    assert not visitor.page.locator("#verdict .verdict").count()


def test_a_second_request_ends_the_first(visitor: Visitor):
    page = visitor.open("steps=100&prompt=dog&method=uniform&ratio=0.5").page
    page.click("#generate")
    expect(page.locator(".card[data-role=original] .counter")).to_contain_text("of 100", timeout=60_000)
    page.fill("#steps input", "8")
    page.fill("#prompt input", "cat face")
    page.press("#prompt input", "Enter")
    visitor.wait_until_generated()
    assert "Generated for “cat face”, seed 0, 8 steps" in page.locator("#pictures .footer").inner_text()
    expect(page.locator("#stop")).to_be_disabled()
    expect(page.locator(".history button")).to_have_count(1)


def test_the_heatmap_follows_the_ratio_without_generating(visitor: Visitor):
    visitor.open("steps=8&ratio=0.25&prompt=dog&method=uniform")
    before = visitor.computed()
    visitor.page.locator("#ratio input[type=range]").focus()
    for _ in range(40):
        visitor.page.keyboard.press("ArrowRight")
    visitor.page.wait_for_function(
        "few => Number(document.querySelector('#heatmap .plot').data[1].name.split(' ').at(-1)) < few",
        arg=0.75 * before,
    )
    expect(visitor.page.locator(".tiles dd").first).to_have_text("65.0%")
    assert not visitor.pictures()


def test_pointer_shows_the_status_of_a_cell(visitor: Visitor):
    visitor.open()
    visitor.page.locator("#heatmap .plot").scroll_into_view_if_needed()
    box = visitor.page.locator("#heatmap .nsewdrag[data-subplot=xy]").bounding_box()
    visitor.page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.5)
    visitor.page.mouse.move(box["x"] + box["width"] * 0.375, box["y"] + box["height"] * 0.5)
    text = visitor.page.locator("#heatmap .hovertext").text_content()
    assert "call 1, timestep" in text
    assert "% of a call's MACs" in text
    assert any(status in text for status in ("computed", "reused from call 0", "dead by cascade", "call skipped"))


def test_enter_generates_and_unknown_words_are_named(visitor: Visitor):
    visitor.open("steps=4&prompt=dog&method=uniform&ratio=0.5")
    visitor.page.fill("#prompt input", "xyzzy dog")
    visitor.page.press("#prompt input", "Enter")
    visitor.wait_until_generated()
    assert len(visitor.pictures()) == 3
    assert visitor.page.locator("#unknown-words").inner_text() == "never seen in training: xyzzy"


def test_schedule_equal_to_a_coarser_sampler_is_named_so(visitor: Visitor):
    visitor.open("steps=8&ratio=0.5&method=uniform&sampler=ddim")
    expect(visitor.page.locator(".captions")).to_contain_text("under DDIM that is a sampler of 4 steps")
    visitor.open("steps=8&ratio=0.4&method=deepcache&sampler=ddim")
    expect(visitor.page.locator(".captions")).to_contain_text("the pattern of DeepCache")


def test_known_names_are_suggested(visitor: Visitor):
    visitor.open()
    listed = visitor.page.locator("#prompt input").get_attribute("list")
    names = visitor.page.eval_on_selector_all(f"#{listed} option", "all => all.map(one => one.value)")
    assert "red apple" in names


def test_each_method_has_its_own_settings(visitor: Visitor):
    visitor.open("steps=4&ratio=0.3&prompt=dog&method=deepcache")
    visitor.page.click("#more button")
    expect(visitor.page.locator("#deepcache-branch")).to_be_visible()
    expect(visitor.page.locator("#uniform-interval")).to_have_count(0)


def test_two_visitors_get_their_own_pictures(visitors, served: str):
    requests = [("dog", 1), ("red apple", 2)]
    at_once = [
        visitors().open(f"steps=4&prompt={prompt}&seed={seed}&method=uniform&ratio=0.5") for prompt, seed in requests
    ]
    for one in at_once:
        one.page.click("#generate")
    for one in at_once:
        one.wait_until_generated()
    for one, (prompt, seed) in zip(at_once, requests, strict=True):
        _, (generated,) = call_api(served, "generate", prompt=prompt, steps=4, seed=seed)
        alone = [generated[role]["picture"] for role in ("original", "pruned", "baseline")]
        assert one.pictures() == one.page.evaluate(REPAINTED, alone)


REPAINTED = """pictures => Promise.all(pictures.map(async picture => {
    const image = new Image(), canvas = document.createElement("canvas");
    image.src = "data:image/png;base64," + picture;
    await image.decode();
    canvas.width = canvas.height = image.naturalWidth;
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL();
}))"""


# -- the address


def test_the_state_of_a_view_is_in_its_address(visitors):
    first = visitors().open("steps=4&prompt=dog&method=uniform&ratio=0.5")
    page = first.page
    page.fill("#prompt input", "red apple & co")
    page.fill("#seed input", "7")
    page.fill("#steps input", "6")
    page.locator("#ratio input[type=number]").fill("0.25")
    page.locator("#ratio input[type=number]").press("Tab")
    page.click("#method input")
    page.get_by_role("option", name="random").click()
    page.wait_for_function("location.search.includes('method=random')")
    query = parse_qs(urlparse(page.url).query)
    assert query["prompt"] == ["red apple & co"]
    assert (query["seed"], query["steps"], query["ratio"]) == (["7"], ["6"], ["0.25"])
    second = visitors().open(urlparse(page.url).query).page
    for control in ("#prompt input", "#seed input", "#steps input", "#ratio input[type=number]", "#method input"):
        assert second.locator(control).input_value() == page.locator(control).input_value()


def test_invalid_address_opens_the_page_with_an_error(visitor: Visitor):
    visitor.open("steps=many&prompt=dog&ratio=nan")
    assert visitor.alert().startswith("This address is no view: steps")
    assert visitor.page.locator("#steps input").input_value() == "50"


def test_an_address_cannot_put_markup_into_the_page(visitor: Visitor):
    visitor.open("steps=4&prompt=%3Cimg%20src%3Dx%20onerror%3Dwindow.hit%3D1%3E&method=uniform&ratio=0.5")
    visitor.generate()
    assert visitor.page.evaluate("window.hit") is None


# -- bad input


BAD_INPUT = [
    ("#prompt input", "", "prompt: please say what to generate"),
    ("#prompt input", "x" * 10_000, "prompt: string should have at most"),
    ("#steps input", "0", "steps: input should be greater than or equal to 1"),
    ("#steps input", "1000000", "steps: input should be less than or equal to 1000"),
    ("#seed input", "-1", "seed: input should be greater than or equal to 0"),
]


def test_bad_input_gives_one_sentence_and_loses_nothing(visitor: Visitor):
    page = visitor.open("steps=4&prompt=dog&ratio=0.3&method=uniform").page
    for control, typed, message in BAD_INPUT:
        good = page.locator(control).input_value()
        page.fill(control, typed)
        page.click("#generate")
        expect(page.locator("#alert [role=alert]")).to_contain_text(message)
        assert "\n" not in visitor.alert()
        assert page.locator(control).input_value() == typed
        assert page.locator("#ratio input[type=number]").input_value() == "0.3"
        page.fill(control, good)
        expect(page.locator("#stop")).to_be_disabled()
    visitor.generate()
    assert not page.locator("#alert [role=alert]").count()


# -- the heatmap


def test_the_heatmap_follows_the_width_of_the_window(visitor: Visitor):
    page = visitor.open().page
    for width in (375, 1280):
        page.set_viewport_size({"width": width, "height": 812})
        page.wait_for_function(
            "document.querySelector('#heatmap .main-svg').clientWidth === heatmap.querySelector('.plot').clientWidth"
        )
        drawn, caption = (
            page.locator("#heatmap .main-svg").first.bounding_box(),
            page.locator("#heatmap figcaption").bounding_box(),
        )
        assert drawn["y"] + drawn["height"] <= caption["y"]
        assert drawn["height"] == page.evaluate("heatmap.querySelector('.plot').layout.height")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_heatmap_does_not_overlap_its_caption_in_a_narrow_window(visitor: Visitor):
    page = visitor.open("steps=25&prompt=dog&method=uniform&ratio=0.5").page
    page.set_viewport_size({"width": 375, "height": 800})
    page.wait_for_function(
        "(box => box._fullLayout.width === box.clientWidth)(document.querySelector('#heatmap .plot'))"
    )
    parts = (".plot .main-svg >> nth=0", "figcaption")
    plot, caption = (page.locator(f"#heatmap {part}").bounding_box() for part in parts)
    assert plot["y"] + plot["height"] <= caption["y"] and plot["x"] + plot["width"] <= 375
    placed = page.eval_on_selector_all("#heatmap .xtick text", "all => all.map(one => one.getAttribute('transform'))")
    assert len(placed) > 2 and not any("rotate" in one for one in placed if one)


def test_bundled_importance_is_selectable_and_shows_its_removal_order(visitor: Visitor):
    visitor.open("steps=25&ratio=0.8&prompt=dog&method=dipgo&sampler=ddim")
    expect(visitor.page.locator("#show")).to_be_visible()
    computed = visitor.computed()
    assert 0 < computed < 25 * 28
    visitor.page.locator("#show label", has_text="removal order").click()
    visitor.page.wait_for_function("document.querySelector('#heatmap').textContent.includes('dark goes first')")
    visitor.page.locator("#show label", has_text="score").click()
    visitor.page.wait_for_function("document.querySelector('#heatmap').textContent.includes('bright high')")
    visitor.page.locator("#show label", has_text="decision").click()
    visitor.page.wait_for_function("document.querySelector('#heatmap').textContent.includes('call skipped')")
    assert visitor.computed() == computed


def test_unlearned_trajectory_is_refused_with_the_learned_ones(visitor: Visitor):
    visitor.page.goto(f"{visitor.served}?steps=7&method=dipgo&prompt=dog")
    visitor.page.wait_for_selector("#alert [role=alert]")
    assert "learned for" in visitor.alert() and "not for ddim 7" in visitor.alert()
