"""The SuperNet tab in a real browser: drawing, cascade, scenes by keyboard, languages, links, a projector."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from explorer.masks.encoding import decode_bits, encode_bits
from explorer.models import catalogue
from tests.page_fixtures import NO_TRANSITIONS, NUM_REQUESTS, VIEWPORT, query_of, settled
from tests.test_lesson import TABLE, TEXTS

pytestmark = pytest.mark.browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.page_fixtures import Visitor

SCENES = [scene["id"] for scene in TEXTS["en"]["scenes"]]
CALLS, UNITS = TABLE["steps"], len(TABLE["graph"]["units"])
READY = ".lesson:not([hidden])"
WITH_CLICKS, WITHOUT_DRAWING = ("subnet", "path", "game"), ("surprise", "widths")
MAX_STOPS = 60  # of the Tab key in one scene
FOCUSED = "(document.activeElement.getAttribute('class') || document.activeElement.outerHTML.slice(0, 200))"
LAST = UNITS - 1  # up 4, through which all of a call goes


def open_lesson(visitor: Visitor, query: str = "") -> Page:
    visitor.page.goto(f"{visitor.served}?tab=supernet&lang=en{query}")
    visitor.page.wait_for_selector(READY)
    visitor.page.add_style_tag(content=NO_TRANSITIONS)
    return visitor.page


def block(page: Page, call: int, unit: int):
    return page.locator(f'.lesson .block[data-call="{call}"][data-unit="{unit}"]')


def final_tile(page: Page) -> str:
    return page.locator(".lesson .final .tile").evaluate(
        "one => one.getAttribute('viewBox') + one.firstChild.href.baseVal"
    )


def test_a_click_stops_all_that_nothing_reads_and_picture_meter_words_and_address_follow(visitor: Visitor):
    page = open_lesson(visitor, "&scene=subnet")
    before = final_tile(page)
    assert page.locator(".lesson .kept").inner_text() == "100.0 %"
    block(page, 2, 7).click()  # up 3: down 1 and up 4 stay, as in DeepCache
    looks = [block(page, 2, unit).get_attribute("class").split()[-1] for unit in range(UNITS)]
    assert looks == ["computed", "dead", "dead", "dead", "dead", "dead", "dead", "reused", "computed"]
    assert final_tile(page) != before
    keep = decode_bits(query_of(page)["subnet"][0], (CALLS, UNITS))
    graph = catalogue.load("emoji-unet").graph("stage")
    share = graph.cost(keep).sum() / (graph.macs_per_call * CALLS)
    assert page.locator(".lesson .kept").inner_text() == f"{100 * share:.1f} %"
    assert "6 more stop with it" in page.locator(".lesson .live").inner_text()
    page.locator(".in-words summary").click()
    assert "call 2: 2 of 9 blocks are computed; kept from before: up 3" in page.locator(".in-words p").inner_text()
    kept = page.locator(".lesson .kept").inner_text()
    block(page, 2, LAST).click()
    assert {block(page, 2, unit).get_attribute("class").split()[-1] for unit in range(UNITS)} == {"dead"}
    assert "the whole call is left out" in page.locator(".lesson .pointed").inner_text()
    block(page, 2, LAST).click()  # and all is as it was
    expect(block(page, 2, LAST)).to_have_attribute("aria-pressed", "true")
    assert page.locator(".lesson .kept").inner_text() == kept
    block(page, 0, 3).click(force=True)
    assert page.locator(".lesson .live").inner_text() == TEXTS["en"]["words"]["fixed"]
    assert not visitor.errors and not visitor.foreign


def test_the_lesson_calls_python_only_for_a_subnet_that_is_not_prepared(visitor: Visitor):
    page = open_lesson(visitor, "&scene=game")
    settled(page, NUM_REQUESTS)
    calls: list[str] = []
    page.on("request", lambda request: calls.append(request.url) if "gradio_api" in request.url else None)
    for call, unit in ((1, 8), (2, 7), (3, 6), (4, 5)):
        block(page, call, unit).click()
        expect(page.locator(".lesson .psnr")).to_contain_text("dB")
    for scene in range(len(SCENES)):
        page.click(f'.lesson .scenes button[data-scene="{scene}"]')
    page.click('.lesson .scenes button[data-scene="4"]')
    settled(page, NUM_REQUESTS)
    assert not [url for url in calls if "heartbeat" not in url]
    page.click(".lesson .reset")
    block(page, 3, 1).click()  # down 2 alone
    expect(page.locator(".lesson .psnr")).to_have_text("…")
    expect(page.locator(".lesson .psnr")).to_contain_text("dB")
    assert final_tile(page).count("data:image/png") == 1 and calls
    assert not visitor.errors


def test_the_browser_finds_the_same_picture_as_python_for_every_prepared_choice(visitor: Visitor):
    page = open_lesson(visitor)
    levels = np.array(TABLE["levels"], dtype=bool)
    choices = [tuple(random.Random(seed).choices(range(len(levels)), k=CALLS - 1)) for seed in range(60)]
    texts = [encode_bits(np.stack([levels[-1], *(levels[level] for level in choice)])) for choice in choices]
    numbers = page.evaluate(
        """async texts => {
            const load = name => import(new URL(`explorer/static/${name}`, document.baseURI));
            const { Choice } = await load("supernet/choice.js");
            const { unpack } = await load("schedule.js");
            const lesson = await (await fetch("explorer/lesson/lesson.json")).json();
            return texts.map(text => {
                const choice = new Choice(lesson);
                choice.compute(unpack(text, choice.keep.length));
                return choice.number;
            });
        }""",
        texts,
    )
    assert numbers == [int("".join(map(str, choice)), len(levels)) for choice in choices]


def test_every_scene_is_operated_by_keyboard_alone(visitor: Visitor):
    page = open_lesson(visitor)
    for number, texts in enumerate(TEXTS["en"]["scenes"]):
        expect(page.locator(".lesson .scenes [aria-current=step]")).to_contain_text(texts["title"])
        page.locator(".lesson .sentence").focus()
        reached = walk_with_tab(page, texts)
        scene = texts["id"]
        if scene not in WITHOUT_DRAWING:
            assert any(one.startswith("block") for one in reached) and {"play", "step"} <= reached
        assert (scene in WITH_CLICKS) == ("subnet" in query_of(page))
        assert page.locator(".lesson [data-verdict=right]").count() == bool(texts["answers"])
        if number + 1 < len(SCENES):
            page.locator(".lesson .next").press("Enter")
    assert not visitor.errors


def walk_with_tab(page: Page, texts: dict) -> set[str]:
    """Go through a scene by the Tab key, switch a block and try every answer; returns the classes of all stops."""
    reached: set[str] = set()
    while "language" not in reached and len(reached) < MAX_STOPS:
        page.keyboard.press("Tab")
        reached.add(page.evaluate(FOCUSED))
        if page.evaluate("document.activeElement.matches('.block')"):
            page.keyboard.press("ArrowRight")
            page.keyboard.press("Enter")
        if page.evaluate("document.activeElement.matches('[data-answer]')"):
            page.keyboard.press("Enter")
            assert page.locator(".lesson .feedback").inner_text() in (texts["yes"], texts["no"])
    assert "language" in reached
    return reached


def test_a_wrong_answer_is_explained_and_the_right_one_is_that_of_the_data(visitor: Visitor):
    page = open_lesson(visitor, "&scene=similar")
    texts = TEXTS["en"]["scenes"][1]
    similarity = np.array(TABLE["similarity"])
    most = int(similarity[[0, 4, LAST], 0, 1].argmin())  # of down 1, middle and up 4
    for answer in range(len(texts["answers"])):
        page.click(f'.lesson [data-answer="{answer}"]')
        expect(page.locator(".lesson .feedback")).to_have_text(texts["yes" if answer == most else "no"])
    block(page, 2, 4).hover()
    expect(page.locator(".lesson .panel .said")).to_contain_text("middle: call 1 and call 2")
    assert not visitor.errors


def test_scenes_choice_and_language_are_in_the_address_and_a_link_brings_them_back(visitor: Visitor):
    page = open_lesson(visitor, "&scene=subnet")
    block(page, 4, 6).click()
    page.select_option(".lesson .language", "de")
    expect(page.locator(".lesson .todo")).to_contain_text("Rechenarbeit")
    kept = page.locator(".lesson .kept").inner_text()
    page.goto(page.url)
    page.wait_for_selector(READY)
    assert page.locator(".lesson .kept").inner_text() == kept != "100.0 %"
    assert page.locator(".lesson").get_attribute("lang") == "de"
    page.click(".lesson .next")
    expect(page.locator(".lesson .scenes [aria-current=step]")).to_contain_text("Wer wählt?")
    assert query_of(page)["scene"] == ["gates"] and "subnet" not in query_of(page)  # each scene begins whole
    page.goto(f"{visitor.served}?tab=supernet&scene=nonsense&subnet=%F0%9F%90%99&lang=xx")
    page.wait_for_selector(READY)
    assert page.locator(".lesson .kept").inner_text() == "100.0 %"
    assert not visitor.errors


def test_a_browser_in_german_gets_german(visitors):
    visitor = visitors()
    context = visitor.context.browser.new_context(locale="de-DE")
    page = context.new_page()
    page.goto(f"{visitor.served}?tab=supernet")
    page.wait_for_selector(READY)
    expect(page.locator(".lesson .next")).to_have_text("Weiter")
    context.close()


def test_the_same_cells_open_on_explore(visitor: Visitor):
    page = open_lesson(visitor, "&scene=subnet")
    block(page, 1, 7).click()
    block(page, 3, LAST).click()
    keep = decode_bits(query_of(page)["subnet"][0], (CALLS, UNITS))
    page.click(".lesson .explore")
    page.wait_for_selector("#heatmap .drawn")
    page.wait_for_function("document.querySelector('#heatmap .plot').map.units.length === 9")
    shown = page.evaluate("Array.from(document.querySelector('#heatmap .plot').map.status)")
    assert (np.array(shown).reshape(50, UNITS) == 0).tolist() == np.repeat(keep, 10, axis=0).tolist()
    assert not visitor.errors


def test_blocks_unfold_to_layers_with_the_same_choice(visitor: Visitor):
    page = open_lesson(visitor, "&scene=subnet")
    block(page, 2, 7).click()
    block(page, 4, LAST).click()
    kept, picture = page.locator(".lesson .kept").inner_text(), final_tile(page)
    page.click(".lesson .layers")
    layers = len(TABLE["layers"]["units"])
    expect(page.locator(".lesson .block")).to_have_count(CALLS * layers)
    finer = page.locator(".lesson .kept").inner_text()  # the last layer of down 1 is read by nothing now
    assert 0 <= float(kept.removesuffix(" %")) - float(finer.removesuffix(" %")) < 0.3
    assert final_tile(page) == picture and "dB" in page.locator(".lesson .psnr").inner_text()
    block(page, 1, 4).click()  # one layer of down 2
    expect(page.locator(".lesson .psnr")).to_have_text("…")
    expect(page.locator(".lesson .psnr")).to_contain_text("dB")
    page.goto(page.url)
    page.wait_for_selector(READY)
    expect(page.locator(".lesson .block")).to_have_count(CALLS * layers)
    expect(block(page, 1, 4)).to_have_attribute("aria-pressed", "false")
    page.click(".lesson .next")  # a scene about stages
    expect(page.locator(".lesson .block")).to_have_count(CALLS * UNITS)
    assert page.locator(".lesson .kept").inner_text() == "100.0 %"
    assert not visitor.errors


def test_other_tabs_link_to_scenes_and_the_lesson_is_found_as_it_was_left(visitor: Visitor):
    page = open_lesson(visitor, "&scene=supernet")
    page.click(".lesson .layers")
    page.get_by_role("tab", name="Features").click()
    page.wait_for_selector("#similarity .drawn")
    page.get_by_role("tab", name="SuperNet").click()
    expect(page.locator(".lesson .scenes [aria-current=step]")).to_contain_text("The SuperNet")
    for tab, scene in {"Explore": "subnet", "Features": "similar", "Masks": "gates"}.items():
        page.get_by_role("tab", name=tab).click()
        link = page.locator(f'a[href="?tab=supernet&scene={scene}"]')
        expect(link).to_be_visible()
    link.click()
    page.wait_for_selector(READY)
    expect(page.locator(".lesson .scenes [aria-current=step]")).to_contain_text("Who chooses?")
    assert not visitor.errors


def test_the_data_can_be_followed_step_by_step(visitor: Visitor):
    page = open_lesson(visitor)
    page.click(".lesson .step")
    expect(page.locator(".lesson .block.active")).to_have_attribute("data-unit", "0")
    page.click(".lesson .step")
    expect(page.locator(".lesson .block.active")).to_have_attribute("data-unit", "1")
    page.click(".lesson .play")
    expect(page.locator(".lesson .play")).to_have_text(TEXTS["en"]["words"]["stop"])
    expect(page.locator(".lesson .play")).to_have_text(TEXTS["en"]["words"]["play"])  # it ends by itself
    expect(page.locator(".lesson .block.active")).to_have_count(0)
    assert not visitor.errors


def test_with_reduced_motion_the_dot_jumps_from_block_to_block(visitors):
    page = open_lesson(visitors(reduced_motion="reduce"))
    page.click(".lesson .play")
    page.wait_for_selector(".lesson .block.active[data-unit='3']")
    places = page.evaluate(
        """() => new Promise((resolve) => {
            const dot = document.querySelector(".lesson .packet");
            const seen = new Set();
            const look = () => {
                seen.add(`${dot.getAttribute("cx")} ${dot.getAttribute("cy")}`);
                return seen.size < 4 ? requestAnimationFrame(look) : resolve([...seen]);
            };
            look();
        })"""
    )
    ends = page.eval_on_selector_all(
        ".lesson .wire, .lesson .flow",
        "all => all.map(one => one.getPointAtLength(one.getTotalLength())).map(({ x, y }) => `${x} ${y}`)",
    )
    assert set(places) <= {*ends}


def test_the_search_is_replayed_and_its_order_serves_every_ratio(visitor: Visitor):
    page = open_lesson(visitor, "&scene=gates")
    page.click(".lesson [data-speed='10']")
    steps = len(TABLE["search"]["scores"])
    expect(page.locator(".lesson .search .note").first).to_contain_text(f"step {steps} of {steps}")
    kept = []
    for ratio in ("0.2", "0.4", "0.6", "0.8"):
        page.locator(".lesson .order").fill(ratio)
        kept.append(float(page.locator(".lesson .kept").inner_text().removesuffix(" %")))
    assert kept == sorted(kept, reverse=True)
    assert all(left <= 100 - 100 * ratio + 0.1 for left, ratio in zip(kept, (0.2, 0.4, 0.6, 0.8), strict=True))
    gate = page.locator(".lesson .gate input")
    gate.fill("1")
    expect(block(page, 2, LAST - 1)).to_have_attribute("aria-pressed", "true")
    gate.fill("-1")
    expect(page.locator(".lesson .gate .forward")).to_contain_text("kept from before")
    expect(block(page, 2, LAST - 1)).to_have_attribute("aria-pressed", "false")
    gate.fill("0.1")
    expect(page.locator(".lesson .gate .forward")).to_contain_text("computed")
    expect(page.locator(".lesson .gate .backward")).to_contain_text("0.25")


def test_skipped_calls_cut_the_corners_of_the_path(visitor: Visitor):
    page = open_lesson(visitor, "&scene=path")
    path = page.locator(".lesson .path path.yours")
    whole = path.get_attribute("d")
    block(page, 2, 3).click()  # any block stands for its call here
    assert query_of(page)["subnet"] and path.get_attribute("d") != whole
    held = path.get_attribute("d"), page.locator(".lesson .psnr").inner_text(), final_tile(page)
    page.locator(".lesson .panel label", has_text="go on in its direction").click()
    ahead = path.get_attribute("d"), page.locator(".lesson .psnr").inner_text(), final_tile(page)
    assert all(one != other for one, other in zip(held, ahead, strict=True))
    assert "4 of 5 calls" in page.locator(".lesson .key .yours").inner_text()


def test_the_lesson_has_no_axe_violations_and_fits_a_phone(visitor: Visitor):
    page = open_lesson(visitor)
    for scene in range(len(SCENES)):
        page.set_viewport_size(VIEWPORT)
        page.click(f'.lesson .scenes button[data-scene="{scene}"]')
        for dark in ("true", "false"):
            page.evaluate(f"document.body.classList.toggle('dark', {dark})")
            found = Axe().run(page).response["violations"]
            assert not [(scene, dark, one["id"], one["nodes"][0]["html"][:160]) for one in found]
        for width in (375, 640):  # a phone, and 1280 at 200 %
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_projector_shows_the_lesson_alone_and_arrows_walk(visitor: Visitor):
    page = open_lesson(visitor, "&present=1")
    expect(page.locator("#header")).to_be_hidden()
    expect(page.get_by_role("tab", name="Explore")).to_be_hidden()
    size = "parseFloat(getComputedStyle(document.querySelector('.lesson .sentence')).fontSize)"
    assert page.evaluate(size) >= 1.6 * 24 - 0.5
    page.locator(".lesson .sentence").focus()
    for key, scene in (("ArrowRight", "similar"), (" ", "path"), ("ArrowLeft", "similar")):
        page.keyboard.press(key)
        assert query_of(page)["scene"] == [scene]
    page.keyboard.press("Escape")
    expect(page.locator("#header")).to_be_visible()
    assert "present" not in query_of(page)


@pytest.mark.parametrize("language", TEXTS)
def test_the_teachers_page_has_answers_and_links_and_prints_two_pages(visitor: Visitor, language: str):
    page = visitor.page
    page.goto(f"{visitor.served}explorer/static/supernet/teacher.html?lang={language}")
    page.wait_for_selector(".handout .block")
    links = page.locator(".teacher-page table a").evaluate_all("all => all.map(one => one.href)")
    assert [parse_qs(urlparse(link).query)["scene"] for link in links] == [[scene] for scene in SCENES]
    text = page.locator(".teacher-page").inner_text()
    for scene in TEXTS[language]["scenes"]:
        assert scene["teacher"] in text
    pages = len(re.findall(rb"/Type\s*/Page\b", page.pdf()))
    assert pages == 2
    assert not Axe().run(page).response["violations"] and not visitor.errors


def test_a_lesson_that_cannot_be_loaded_says_so(visitor: Visitor):
    visitor.page.route("**/lesson.json", lambda route: route.abort())
    visitor.page.goto(f"{visitor.served}?tab=supernet")
    expect(visitor.page.locator(".lesson-status")).to_contain_text("could not be loaded")
