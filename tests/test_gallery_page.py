"""The Explore tab on the gallery: the slider updates everything at once, without a request."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from explorer.bundled import gallery
from explorer.figures import plain_name
from tests.page_fixtures import NO_TRANSITIONS, NUM_REQUESTS, OPENED, cell_center, settled

pytestmark = pytest.mark.browser

if TYPE_CHECKING:
    from tests.page_fixtures import Visitor

FOLDER = gallery.GALLERIES / "emoji-unet"
TABLE = json.loads((FOLDER / gallery.TABLE).read_text())
SAMPLE = TABLE["samples"][0]
INDEX = TABLE["ratios"].index(0.5)
QUERY = (
    f"prompt={SAMPLE['prompt']}&seed={SAMPLE['seed']}&method=dipgo&steps={TABLE['steps']}&sampler={TABLE['sampler']}"
)

# What one input event of the slider changes, read before the browser can paint or do anything else.
MOVED = """ratio => {
    const read = () => ({
        picture: document.querySelector(".card[data-role=pruned] .picture").toDataURL(),
        baseline: document.querySelector(".card[data-role=baseline] .picture").toDataURL(),
        heatmap: String(document.querySelector("#heatmap .plot").map.status),
        image: document.querySelector("#heatmap .cells > canvas").toDataURL(),
        tiles: document.querySelector(".tiles").textContent,
        methods: [...document.querySelectorAll(".methods small")].map(one => one.textContent).join(),
        captions: document.querySelector(".captions").textContent,
    });
    const slider = document.querySelector("#ratio input[type=range]");
    const before = read();
    slider.value = ratio;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    const after = read();
    return Object.keys(before).filter(part => before[part] === after[part]);
}"""


# The colours of the pruned picture, row by row.
PIXELS = """() => {
    const canvas = document.querySelector(".card[data-role=pruned] .picture");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return [...data].filter((_, at) => at % 4 !== 3);
}"""


@pytest.fixture(scope="module")
def opened_page(shared_visitor: Visitor):
    """Open the gallery once for all tests of this file."""
    page = shared_visitor.open(f"{QUERY}&ratio=0.5").page
    page.wait_for_function(
        "all => document.querySelectorAll('.methods button:not(:disabled) canvas[width=\"64\"]').length >= all",
        arg=sum(method["results"][INDEX] is not None for method in TABLE["methods"].values()),
    )
    return page


@pytest.fixture
def gallery_page(opened_page):
    """Show the first sample at 50 %, as the address says that the page was opened with."""
    opened_page.get_by_role("tab", name="Explore").click()
    opened_page.click(".samples button >> nth=0")
    opened_page.click(".methods button[data-method=dipgo]")
    opened_page.click(".modes [role=radio] >> nth=0")
    opened_page.evaluate(MOVED, 0.5)
    expect(opened_page.locator(".view")).to_have_attribute("data-source", "gallery")
    expect(opened_page.locator("#seed input")).to_have_value(str(SAMPLE["seed"]))
    expect(opened_page.locator("#method input")).to_have_value("DiP-GO")
    opened_page.wait_for_function("new URLSearchParams(location.search).get('ratio') === '0.5'")
    opened_page.wait_for_selector("#heatmap .drawn")
    return opened_page


def test_a_step_of_the_slider_changes_everything_within_one_event_and_requests_nothing(gallery_page):
    settled(gallery_page, NUM_REQUESTS)
    requests = []
    gallery_page.on("request", lambda request: requests.append(request.url))
    for ratio in (0.8, 0.2, 0.9):
        assert gallery_page.evaluate(MOVED, ratio) == []
    gallery_page.locator("#ratio input[type=range]").focus()
    for _ in range(6):  # from stop to stop
        gallery_page.keyboard.press("ArrowLeft")
    gallery_page.wait_for_function("new URLSearchParams(location.search).get('ratio') === '0.6'")
    settled(gallery_page, NUM_REQUESTS)
    assert requests == []


def test_pictures_and_numbers_are_those_of_the_gallery_and_the_leader_is_named_with_n_and_interval(gallery_page):
    strip = np.array(Image.open(FOLDER / "00-dipgo.webp"))
    tiles = strip.reshape(64, len(TABLE["ratios"]), 64, 3).cumsum(axis=1, dtype=np.uint8)
    shown = np.array(gallery_page.evaluate(PIXELS), np.uint8).reshape(64, 64, 3)
    assert np.array_equal(shown, tiles[:, INDEX])
    result = TABLE["methods"]["dipgo"]["results"][INDEX]
    facts = gallery_page.locator(".card[data-role=pruned] dd").all_inner_texts()
    assert facts[0] == f"{100 * result['kept']:.1f} %" and facts[2] == f"{result['each']['ssim'][0]:.3f}"
    assert gallery_page.locator(".tiles dd").first.text_content() == f"{100 * (1 - result['kept']):.1f} %"
    assert f"mean of {len(TABLE['samples'])} scenes" in gallery_page.locator(".tiles").text_content()

    leader = TABLE["leaders"][INDEX]
    text = gallery_page.locator(".captions").inner_text()
    mean, low, high = leader["lead"]
    assert f": {mean:.1f} dB closer than" in text and f"(95 %: {low:.1f} to {high:.1f})" in text
    assert f"on {leader['higher']} of {leader['n']} pictures" in text


def test_click_selects_another_method_and_its_settings(gallery_page):
    gallery_page.click(".methods button[data-method=uniform]")
    expect(gallery_page.locator(".card[data-role=pruned] p")).to_contain_text(
        "Skip whole steps (closer together at both ends)"
    )
    expect(gallery_page.locator("#method input")).to_have_value("Skip whole steps")
    query = parse_qs(urlparse(gallery_page.url).query)
    assert (query["uniform.spacing"], query["uniform.order"]) == (["ends"], ["1"])
    expect(gallery_page.locator("#settings-uniform")).to_be_attached()


def test_chosen_method_gets_the_settings_of_the_gallery(gallery_page):
    gallery_page.click("#method input")
    gallery_page.get_by_role("option", name="Skip whole steps").click()
    expect(gallery_page.locator(".card[data-role=pruned] p")).to_contain_text(
        "Skip whole steps (closer together at both ends)"
    )
    assert parse_qs(urlparse(gallery_page.url).query)["uniform.spacing"] == ["ends"]
    expect(gallery_page.locator(".view")).to_have_attribute("data-source", "gallery")


def test_slider_selects_the_best_branch_of_deepcache(gallery_page):
    branches = [at["branch"] for at in TABLE["methods"]["deepcache"]["settings_at"]]
    low, high = TABLE["ratios"].index(0.25), TABLE["ratios"].index(0.8)
    assert branches[low] != branches[high]
    gallery_page.evaluate(MOVED, 0.8)
    gallery_page.click(".methods button[data-method=deepcache]")
    in_address = "branch => new URLSearchParams(location.search).get('deepcache.branch') === String(branch)"
    gallery_page.wait_for_function(in_address, arg=branches[high])
    gallery_page.evaluate(MOVED, 0.25)
    expect(gallery_page.locator(".view")).to_have_attribute("data-source", "gallery")
    gallery_page.wait_for_function(in_address, arg=branches[low])


def test_click_selects_another_sample(gallery_page):
    gallery_page.click(".samples button >> nth=1")
    expect(gallery_page.locator("#prompt input")).to_have_value(TABLE["samples"][1]["prompt"])
    expect(gallery_page.locator(".card .picture").first).to_have_attribute(
        "aria-label", f"{TABLE['samples'][1]['prompt']}, original"
    )


def test_ways_of_comparing_are_kept_in_the_address(visitors, gallery_page):
    gallery_page.click(".samples button >> nth=3")
    expect(gallery_page.locator("#prompt input")).to_have_value(TABLE["samples"][3]["prompt"])
    other = visitors().page
    for mode in ("wipe", "blink", "difference", "prompts"):
        gallery_page.click(f".modes [data-mode={mode}]")
        assert parse_qs(urlparse(gallery_page.url).query)["view"] == [mode]
        other.goto(gallery_page.url)
        expect(other.locator(f".modes [data-mode={mode}]")).to_have_attribute("aria-checked", "true")
        expect(other.locator(".view")).to_have_attribute("data-mode", mode)
        expect(other.locator("#prompt input")).to_have_value(TABLE["samples"][3]["prompt"])
        expect(other.locator("#seed input")).to_have_value(str(TABLE["samples"][3]["seed"]))


def test_a_difference_of_equal_pictures_is_flat_and_of_others_is_not(gallery_page):
    gallery_page.click(".modes [data-mode=difference]")
    flat = (
        "role => { const c = document.querySelector(`.card[data-role=${role}] .underlay`);"
        " const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
        " return new Set(data.filter((_, i) => i % 4 < 3)).size }"
    )
    assert gallery_page.evaluate(flat, "pruned") > 1
    gallery_page.evaluate(MOVED, 0)
    assert gallery_page.evaluate(flat, "pruned") == 1


def test_switched_cell_cascades_and_updates_the_cost(visitors, gallery_page):
    before = gallery_page.locator(".tiles dd").first.text_content()
    plot = gallery_page.locator("#heatmap .plot")
    plot.focus()
    for key in ("ArrowRight", "c"):
        gallery_page.keyboard.press(key)
    expect(gallery_page.locator(".tiles")).to_contain_text("by hand")
    assert gallery_page.locator(".tiles dd").first.text_content() != before
    assert "call 1, timestep" in gallery_page.locator("#heatmap .cell-status").inner_text()
    query = urlparse(gallery_page.url).query
    other = visitors().open(query).page
    expect(other.locator(".tiles")).to_contain_text("by hand")
    assert other.locator(".tiles dd").first.text_content() == gallery_page.locator(".tiles dd").first.text_content()


def test_pictures_of_a_manual_schedule_can_be_generated(gallery_page, shared_visitor: Visitor):
    gallery_page.evaluate(MOVED, 0.9)  # fewer calls to make
    gallery_page.locator("#heatmap .plot").focus()
    for key in ("ArrowRight", "ArrowRight", "c"):
        gallery_page.keyboard.press(key)
    kept = gallery_page.locator(".tiles div:nth-child(2) dd").first.text_content()
    is_veiled = "document.querySelector('.view').hasAttribute('data-edited')"  # the picture is not of this schedule
    gallery_page.wait_for_function(is_veiled)
    expect(gallery_page.locator(".methods button[data-method=dipgo]")).to_have_attribute("aria-pressed", "false")
    shared_visitor.generate()
    assert not gallery_page.evaluate(is_veiled)
    expect(gallery_page.locator(".numbers .tiles")).to_contain_text("edited by hand")
    expect(gallery_page.locator(".numbers .tiles")).not_to_contain_text("press Generate")
    expect(gallery_page.locator(".history")).to_contain_text("edited by hand")
    expect(gallery_page.locator(".card[data-role=pruned] p")).to_contain_text("by hand")
    assert gallery_page.locator(".card[data-role=pruned] dd").first.inner_text() == kept


def test_play_sweeps_the_ratio_and_stops(gallery_page):
    gallery_page.evaluate("document.querySelector('#ratio input[type=range]').value = 0.8")
    gallery_page.evaluate(MOVED, 0.8)
    gallery_page.click(".play")
    expect(gallery_page.locator(".play")).to_have_text("Pause")
    gallery_page.wait_for_function("document.querySelector('#ratio input[type=range]').value === '0.95'")
    expect(gallery_page.locator(".play")).to_have_text("Play")


def test_request_outside_the_gallery_is_planned_when_the_slider_is_released(gallery_page):
    gallery_page.fill("#seed input", "77")
    gallery_page.press("#seed input", "Tab")
    expect(gallery_page.locator(".view")).to_have_attribute("data-source", "none")
    gallery_page.locator("#ratio input[type=number]").fill("0.33")
    gallery_page.locator("#ratio input[type=number]").press("Tab")
    expect(gallery_page.locator(".tiles dd").first).to_have_text("33.0 %")


def test_features_show_where_the_schedule_reuses(gallery_page):
    gallery_page.get_by_role("tab", name="Features").click()
    gallery_page.wait_for_selector("#similarity .drawn")
    expect(gallery_page.locator("#measured")).to_contain_text("33 pictures")
    dots = "document.querySelector('#similarity .plot').data[1].x.length"
    some = gallery_page.evaluate(dots)
    assert 0 < some < 50
    gallery_page.get_by_role("tab", name="Explore").click()
    gallery_page.evaluate(MOVED, 0.9)
    expect(gallery_page.locator("#ratio input[type=number]")).to_have_value("0.9")
    gallery_page.get_by_role("tab", name="Features").click()
    gallery_page.wait_for_function(f"{dots} > {some}")


def test_autoplay_moves_the_slider_on_the_first_visit_until_a_click(visitor: Visitor):
    page = visitor.page
    page.goto(visitor.served)
    ratio = "Number(document.querySelector('#ratio input[type=range]').value)"
    page.wait_for_function("document.querySelector('.play')?.textContent === 'Pause'", timeout=30_000)
    page.mouse.move(5, 5)
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function(OPENED)  # until then there are two of each control
    expect(page.locator(".play")).to_have_text("Play")
    still = page.evaluate(ratio)
    assert visitor.settled(ratio) == still


def test_the_tour_has_three_steps_and_can_be_left_by_key(gallery_page):
    gallery_page.click(".start-tour")
    for number in (1, 2, 3):
        expect(gallery_page.locator(".tour small")).to_have_text(f"{number} of 3")
        expect(gallery_page.locator(".tour-target")).to_have_count(1)
        gallery_page.keyboard.press("Enter")
    expect(gallery_page.locator(".tour")).to_have_count(0)
    gallery_page.click(".start-tour")
    gallery_page.keyboard.press("Escape")
    expect(gallery_page.locator(".tour")).to_have_count(0)
    assert gallery_page.evaluate("document.activeElement.className") == "start-tour"


def test_axe_finds_no_violations(gallery_page):
    tabs = {"Explore": "#heatmap .drawn", "Features": "#similarity .drawn", "Width pruning": "#widths-bars .drawn"}
    gallery_page.add_style_tag(content=NO_TRANSITIONS)
    for tab, drawn in tabs.items():
        gallery_page.get_by_role("tab", name=tab).click()
        gallery_page.wait_for_selector(drawn)
        settled(gallery_page, NUM_REQUESTS)
        for dark in ("true", "false"):
            gallery_page.evaluate(f"document.body.classList.toggle('dark', {dark})")
            found = Axe().run(gallery_page).response["violations"]
            assert not [(dark, one["id"], one["nodes"][0]["html"][:120]) for one in found]


def test_unit_name_opens_its_features(gallery_page):
    x, y = cell_center(gallery_page, "#heatmap", 0, 3)
    gallery_page.mouse.click(x - 40, y)
    gallery_page.wait_for_selector("#similarity .drawn")
    name = TABLE["graphs"]["layer"]["units"][3]["name"]
    expect(gallery_page.locator("#unit input")).to_have_value(plain_name(name))
    expect(gallery_page.get_by_role("tab", name="Features")).to_have_attribute("aria-selected", "true")


def test_embedded_view_shows_pictures_heatmap_and_slider_only(visitor: Visitor):
    page = visitor.open(f"{QUERY}&ratio=0.5&embed=1").page
    expect(page.locator("#header")).to_be_hidden()
    expect(page.locator("#prompt input")).to_be_hidden()
    expect(page.locator("#ratio input[type=range]")).to_be_visible()
    settled(page, NUM_REQUESTS)
    page.wait_for_function("document.querySelector('.card[data-role=baseline] .picture').width === 64")
    page.wait_for_selector("#heatmap .drawn")
    assert "baseline" not in page.evaluate(MOVED, 0.8) and "embed=1" in page.url


def test_slider_pictures_and_map_are_on_one_screen_and_the_slider_stays(visitors):
    visitor = visitors(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    page = visitor.open(f"{QUERY}&ratio=0.8").page
    expect(page.locator(".task")).to_have_text("Skip 80 % of the work: can you see it?")
    tops = {name: page.locator(name).bounding_box() for name in ("#ratio", ".viewer .frame >> nth=1", "#heatmap .plot")}
    assert all(0 <= box["y"] < 800 for box in tops.values())
    assert tops[".viewer .frame >> nth=1"]["y"] + tops[".viewer .frame >> nth=1"]["height"] < 800
    assert tops["#heatmap .plot"]["x"] > tops[".viewer .frame >> nth=1"]["x"]
    page.evaluate("scrollTo(0, 600)")
    page.wait_for_function("document.querySelector('#ratio').getBoundingClientRect().top < 5")
    assert page.locator("#ratio").bounding_box()["y"] >= 0


def test_the_example_has_captions_and_any_key_ends_it_where_it_would_have_ended(visitor: Visitor):
    page = visitor.page
    page.goto(visitor.served)
    expect(page.locator(".task").first).to_have_text("80 % skipped: no difference to be seen")
    page.keyboard.press("Shift")
    page.wait_for_function(OPENED)
    expect(page.locator(".play")).to_have_text("Play")
    expect(page.locator(".task")).to_have_text("Skip 80 % of the work: can you see it?")
    expect(page.locator(".headline")).to_contain_text("no difference to be seen")
    expect(page.locator("#ratio input[type=number]")).to_have_value("0.8")
    page.evaluate(MOVED, 0.95)
    expect(page.locator(".headline")).to_contain_text("another picture")


def test_the_slider_rests_at_stops_and_its_box_takes_what_the_slider_can_be(gallery_page):
    slider, box = (gallery_page.locator(f"#ratio input[type={kind}]") for kind in ("range", "number"))
    gallery_page.evaluate(MOVED, 0.52)
    expect(box).to_have_value("0.5")
    slider.press("ArrowRight")
    expect(box).to_have_value("0.55")
    expect(gallery_page.locator(".task")).to_have_text("Skip 55 % of the work: can you see it?")
    for typed, taken in (("5", "0.95"), ("-1", "0"), ("", "0")):
        box.fill(typed)
        box.press("Tab")
        expect(box).to_have_value(taken)
    gallery_page.wait_for_function("new URLSearchParams(location.search).get('ratio') === '0'")


@pytest.mark.parametrize("query", [f"{QUERY}&steps=50", QUERY.replace("steps=50", "steps=25")])  # gallery, Python
def test_a_method_that_cannot_skip_so_much_opens_where_it_ends(visitor: Visitor, query):
    visitor.page.goto(f"{visitor.served}?{query.replace('dipgo', 'deepcache')}&deepcache.branch=2&ratio=0.95")
    said = visitor.page.locator("#pictures .footer")
    expect(said).to_contain_text(re.compile(r"DeepCache skips \d+ % at most: the slider is there now"))
    end = float(visitor.page.locator("#ratio input[type=number]").input_value())
    assert f" {100 * end:.0f} %" in said.inner_text() and 0.3 < end < 0.7
    visitor.page.wait_for_selector("#heatmap .drawn")
    assert visitor.page.locator("#alert [role=alert]").count() == 0 and not visitor.errors


def test_scenes_are_one_stop_of_the_tab_key(gallery_page):
    stops = gallery_page.locator(".samples button[tabindex='0']")
    expect(stops).to_have_count(1)
    stops.focus()
    for key, index in (("ArrowRight", 1), ("End", -1), ("Home", 0)):
        gallery_page.keyboard.press(key)
        label = gallery_page.locator(".samples button").nth(index).get_attribute("aria-label")
        if key != "ArrowRight":
            assert gallery_page.evaluate("document.activeElement.getAttribute('aria-label')") == label
    gallery_page.keyboard.press("Enter")
    expect(gallery_page.locator("#prompt input")).to_have_value(TABLE["samples"][0]["prompt"])


def test_the_map_is_also_a_table(gallery_page):
    gallery_page.locator("#heatmap .as-table summary").click()
    rows = gallery_page.locator("#heatmap .as-table tbody tr")
    expect(rows).to_have_count(len(TABLE["graphs"]["layer"]["units"]))
    before = rows.first.inner_text()
    assert before.startswith(TABLE["graphs"]["layer"]["units"][0]["name"])
    gallery_page.evaluate(MOVED, 0.9)
    expect(rows.first).not_to_have_text(before)
    gallery_page.locator("#heatmap .as-table summary").click()
