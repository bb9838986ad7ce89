"""The first tab on what is drawn already: the slider moves everything at once, and asks nobody."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from explorer import gallery

if TYPE_CHECKING:
    from tests.page_fixtures import Visitor

TABLE = json.loads((gallery.FOLDER / gallery.TABLE).read_text())
SCENE = TABLE["scenes"][0]
QUERY = f"prompt={SCENE['prompt']}&seed={SCENE['seed']}&method=dipgo&steps={TABLE['steps']}&sampler={TABLE['sampler']}"

# What one input event of the slider changes, read before the browser can paint or do anything else.
MOVED = """ratio => {
    const look = () => ({
        picture: document.querySelector(".card[data-role=pruned] .own").toDataURL(),
        rival: document.querySelector(".card[data-role=rival] .own").toDataURL(),
        map: JSON.stringify(document.querySelector("#keep .plot").data[0].z),
        image: document.querySelector("#keep .plot image").href.baseVal,
        tiles: document.querySelector(".tiles").textContent,
        others: [...document.querySelectorAll(".others small")].map(one => one.textContent).join(),
        words: document.querySelector(".words").textContent,
    });
    const slider = document.querySelector("#ratio input[type=range]");
    const before = look();
    slider.value = ratio;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    const after = look();
    return Object.keys(before).filter(part => before[part] === after[part]);
}"""


# The colours of the pruned picture, row by row.
PIXELS = """() => {
    const canvas = document.querySelector(".card[data-role=pruned] .own");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return [...data].filter((_, at) => at % 4 !== 3);
}"""


@pytest.fixture
def gallery_page(visitor: Visitor):
    page = visitor.open(f"{QUERY}&ratio=0.5").page
    page.wait_for_function(
        "all => document.querySelectorAll('.others button:not(:disabled) canvas[width=\"64\"]').length >= all",
        arg=sum(stop is not None for stop in (method["stops"][0] for method in TABLE["methods"].values())) - 2,
    )
    page.wait_for_timeout(500)
    return page


def test_a_step_of_the_slider_changes_everything_within_one_event_and_asks_nobody(gallery_page):
    asked = []
    gallery_page.on("request", lambda request: asked.append(request.url))
    for ratio in (0.8, 0.2, 0.9):
        assert gallery_page.evaluate(MOVED, ratio) == []
    gallery_page.locator("#ratio input[type=range]").focus()
    for _ in range(30):
        gallery_page.keyboard.press("ArrowLeft")
    gallery_page.wait_for_function("new URLSearchParams(location.search).get('ratio') !== '0.5'")
    gallery_page.wait_for_timeout(500)
    assert asked == []


def test_the_numbers_are_those_of_the_table(gallery_page):
    stop = TABLE["methods"]["dipgo"]["stops"][TABLE["ratios"].index(0.5)]
    facts = gallery_page.locator(".card[data-role=pruned] dd").all_inner_texts()
    assert facts[0] == f"{100 * stop['kept']:.1f}%" and facts[2] == f"{stop['each']['ssim'][0]:.3f}"
    assert gallery_page.locator(".tiles dd").first.inner_text() == f"{100 * (1 - stop['kept']):.1f}%"
    assert f"n = {len(TABLE['scenes'])}" in gallery_page.locator(".tiles").inner_text()


def test_who_wins_is_said_with_n_and_interval(gallery_page):
    found = TABLE["first"][TABLE["ratios"].index(0.5)]
    said = gallery_page.locator(".words").inner_text()
    mean, low, high = found["by"]
    assert f"{mean:.1f} [{low:.1f}, {high:.1f}] dB ahead of" in said and f"of {found['n']} pictures" in said


def test_a_click_takes_another_method_and_its_settings(gallery_page):
    gallery_page.click(".others button[data-method=uniform]")
    expect(gallery_page.locator(".card[data-role=pruned] p")).to_contain_text("Whole calls, denser at both ends")
    expect(gallery_page.locator("#method input")).to_have_value("uniform")
    query = parse_qs(urlparse(gallery_page.url).query)
    assert (query["uniform.spacing"], query["uniform.order"]) == (["ends"], ["1"])
    expect(gallery_page.locator("#settings-uniform")).to_be_attached()


def test_a_method_that_is_chosen_comes_with_the_settings_that_were_drawn(gallery_page):
    gallery_page.click("#method input")
    gallery_page.get_by_role("option", name="uniform").click()
    expect(gallery_page.locator(".card[data-role=pruned] p")).to_contain_text("Whole calls, denser at both ends")
    assert parse_qs(urlparse(gallery_page.url).query)["uniform.spacing"] == ["ends"]
    expect(gallery_page.locator(".view")).to_have_attribute("data-source", "gallery")


def test_the_best_branch_of_deepcache_comes_along_when_the_slider_moves(gallery_page):
    branches = [at["branch"] for at in TABLE["methods"]["deepcache"]["settings_at"]]
    low, high = TABLE["ratios"].index(0.25), TABLE["ratios"].index(0.8)
    assert branches[low] != branches[high]
    gallery_page.evaluate(MOVED, 0.8)
    gallery_page.click(".others button[data-method=deepcache]")
    in_address = "branch => new URLSearchParams(location.search).get('deepcache.branch') === String(branch)"
    gallery_page.wait_for_function(in_address, arg=branches[high])
    gallery_page.evaluate(MOVED, 0.25)
    expect(gallery_page.locator(".view")).to_have_attribute("data-source", "gallery")
    gallery_page.wait_for_function(in_address, arg=branches[low])


def test_a_click_takes_another_scene(gallery_page):
    gallery_page.click(".scenes button >> nth=1")
    expect(gallery_page.locator("#prompt input")).to_have_value(TABLE["scenes"][1]["prompt"])
    expect(gallery_page.locator(".card .own").first).to_have_attribute(
        "aria-label", f"{TABLE['scenes'][1]['prompt']}, original"
    )


@pytest.mark.parametrize("mode", ["wipe", "blink", "difference", "wall"])
def test_ways_of_looking_are_kept_in_the_address(visitors, gallery_page, mode: str):
    gallery_page.click(".scenes button >> nth=3")
    expect(gallery_page.locator("#prompt input")).to_have_value(TABLE["scenes"][3]["prompt"])
    gallery_page.click(f".modes [data-mode={mode}]")
    assert parse_qs(urlparse(gallery_page.url).query)["view"] == [mode]
    other = visitors().open(urlparse(gallery_page.url).query).page
    expect(other.locator(f".modes [data-mode={mode}]")).to_have_attribute("aria-checked", "true")
    expect(other.locator(".view")).to_have_attribute("data-mode", mode)
    expect(other.locator("#prompt input")).to_have_value(TABLE["scenes"][3]["prompt"])
    expect(other.locator("#seed input")).to_have_value(str(TABLE["scenes"][3]["seed"]))


def test_a_difference_of_equal_pictures_is_flat_and_of_others_is_not(gallery_page):
    gallery_page.click(".modes [data-mode=difference]")
    flat = (
        "role => { const c = document.querySelector(`.card[data-role=${role}] .under`);"
        " const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
        " return new Set(data.filter((_, i) => i % 4 < 3)).size }"
    )
    assert gallery_page.evaluate(flat, "pruned") > 1
    gallery_page.evaluate(MOVED, 0)
    assert gallery_page.evaluate(flat, "pruned") == 1


def test_a_cell_that_is_switched_falls_with_what_only_it_read_and_the_cost_follows(visitors, gallery_page):
    before = gallery_page.locator(".tiles dd").first.inner_text()
    plot = gallery_page.locator("#keep .plot")
    plot.focus()
    for key in ("ArrowRight", "c"):
        gallery_page.keyboard.press(key)
    expect(gallery_page.locator(".tiles")).to_contain_text("by hand")
    assert gallery_page.locator(".tiles dd").first.inner_text() != before
    assert "call 1, timestep" in gallery_page.locator("#keep .cell").inner_text()
    query = urlparse(gallery_page.url).query
    other = visitors().open(query).page
    expect(other.locator(".tiles")).to_contain_text("by hand")
    assert other.locator(".tiles dd").first.inner_text() == gallery_page.locator(".tiles dd").first.inner_text()


def test_a_schedule_made_by_hand_can_be_drawn(gallery_page, visitor: Visitor):
    gallery_page.locator("#keep .plot").focus()
    for key in ("ArrowRight", "ArrowRight", "c"):
        gallery_page.keyboard.press(key)
    kept = gallery_page.locator(".tiles div:nth-child(2) dd").first.inner_text()
    visitor.draw()
    expect(gallery_page.locator(".card[data-role=pruned] p")).to_contain_text("by hand")
    assert gallery_page.locator(".card[data-role=pruned] dd").first.inner_text() == kept


def test_play_sweeps_the_ratio_and_stops(gallery_page):
    gallery_page.evaluate("document.querySelector('#ratio input[type=range]').value = 0.8")
    gallery_page.evaluate(MOVED, 0.8)
    gallery_page.click(".play")
    expect(gallery_page.locator(".play")).to_have_text("Pause")
    gallery_page.wait_for_function("document.querySelector('#ratio input[type=range]').value === '0.95'")
    expect(gallery_page.locator(".play")).to_have_text("Play")


def test_what_is_not_in_the_gallery_is_planned_by_python_when_the_slider_is_let_go(gallery_page):
    gallery_page.fill("#seed input", "77")
    gallery_page.press("#seed input", "Tab")
    expect(gallery_page.locator(".view")).to_have_attribute("data-source", "none")
    gallery_page.locator("#ratio input[type=number]").fill("0.33")
    gallery_page.locator("#ratio input[type=number]").press("Tab")
    expect(gallery_page.locator(".tiles dd").first).to_have_text("33.0%")


def test_how_pictures_came_about_is_shown_and_what_was_drawn_can_be_gone_back_to(visitor: Visitor):
    page = visitor.open("steps=6&prompt=dog&method=uniform&ratio=0.5").page
    visitor.draw()
    expect(page.locator(".film .reel").first.locator("canvas")).to_have_count(6)
    assert page.locator(".film .reel").first.locator("figcaption").last.inner_text() == "6"
    first = visitor.pictures()
    page.fill("#prompt input", "cat face")
    page.press("#prompt input", "Enter")
    expect(page.locator(".visits button")).to_have_count(2, timeout=60_000)
    page.click(".visits button >> nth=1")
    expect(page.locator("#prompt input")).to_have_value("dog")
    expect(page.locator(".footer")).to_contain_text("Drawn for “dog”")
    assert visitor.pictures() == first


def test_features_show_where_the_schedule_reuses(gallery_page):
    gallery_page.get_by_role("tab", name="Features").click()
    gallery_page.wait_for_selector("#alike .drawn")
    expect(gallery_page.locator("#measured")).to_contain_text("33 pictures")
    rings = "document.querySelector('#alike .plot').data[1].x.length"
    some = gallery_page.evaluate(rings)
    assert 0 < some < 50
    gallery_page.get_by_role("tab", name="Explore").click()
    gallery_page.evaluate(MOVED, 0.9)
    gallery_page.wait_for_timeout(500)
    gallery_page.get_by_role("tab", name="Features").click()
    gallery_page.wait_for_function(f"{rings} > {some}")


def test_a_first_visit_shows_the_slider_moving_until_it_is_touched(visitor: Visitor):
    page = visitor.page
    page.goto(visitor.served)
    ratio = "Number(document.querySelector('#ratio input[type=range]').value)"
    page.wait_for_function("document.querySelector('.play')?.textContent === 'Pause'", timeout=30_000)
    page.mouse.move(5, 5)
    page.mouse.down()
    page.mouse.up()
    expect(page.locator(".play")).to_have_text("Play")
    still = page.evaluate(ratio)
    page.wait_for_timeout(900)
    assert page.evaluate(ratio) == still


def test_nothing_moves_by_itself_for_who_wants_it_calm(visitors):
    page = visitors(reduced_motion="reduce").page
    page.goto(f"{visitors(reduced_motion='reduce').served}")
    page.wait_for_selector("#keep .drawn")
    page.wait_for_timeout(2000)
    expect(page.locator(".play")).to_have_text("Play")


def test_the_tour_has_three_steps_and_can_be_left_by_key(gallery_page):
    gallery_page.click(".tourist")
    for number in (1, 2, 3):
        expect(gallery_page.locator(".tour small")).to_have_text(f"{number} of 3")
        expect(gallery_page.locator(".toured")).to_have_count(1)
        gallery_page.keyboard.press("Enter")
    expect(gallery_page.locator(".tour")).to_have_count(0)
    gallery_page.click(".tourist")
    gallery_page.keyboard.press("Escape")
    expect(gallery_page.locator(".tour")).to_have_count(0)
    assert gallery_page.evaluate("document.activeElement.className") == "tourist"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(gallery_page, theme: str):
    gallery_page.evaluate(f"document.body.classList.toggle('dark', {str(theme == 'dark').lower()})")
    for tab in ("Explore", "Features", "Smaller"):
        gallery_page.get_by_role("tab", name=tab).click()
        gallery_page.wait_for_timeout(1500)
        found = Axe().run(gallery_page).response["violations"]
        assert not [(one["id"], one["nodes"][0]["html"][:120]) for one in found]


def test_the_name_of_a_unit_leads_to_its_features(gallery_page):
    gallery_page.locator("#keep .ytick text >> nth=3").click()
    gallery_page.wait_for_selector("#alike .drawn")
    name = TABLE["graphs"]["layer"]["units"][3]["name"]
    expect(gallery_page.locator("#unit input")).to_have_value(name)
    expect(gallery_page.get_by_role("tab", name="Features")).to_have_attribute("aria-selected", "true")


def test_an_embedded_view_is_pictures_map_and_slider_alone(visitor: Visitor):
    page = visitor.open(f"{QUERY}&ratio=0.5&embed=1").page
    expect(page.locator("#header")).to_be_hidden()
    expect(page.locator("#prompt input")).to_be_hidden()
    expect(page.locator("#ratio input[type=range]")).to_be_visible()
    page.wait_for_timeout(1500)
    assert "rival" not in page.evaluate(MOVED, 0.8) and "embed=1" in page.url


def test_the_browser_shows_the_very_pixels_of_the_strip(gallery_page):
    strip = np.array(Image.open(gallery.FOLDER / "00-dipgo.webp"))
    tiles = strip.reshape(64, len(TABLE["ratios"]), 64, 3).cumsum(axis=1, dtype=np.uint8)
    stop = TABLE["ratios"].index(0.5)
    shown = np.array(gallery_page.evaluate(PIXELS), np.uint8).reshape(64, 64, 3)
    assert np.array_equal(shown, tiles[:, stop])
