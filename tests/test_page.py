"""The page end to end: real server, real embedded model, real browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

import psutil
import pytest
from playwright.sync_api import expect

from tests.job_fixtures import runs
from tests.page_fixtures import NUM_REQUESTS, VIEWPORT, call_api, cell_center, query_of

pytestmark = pytest.mark.browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.page_fixtures import Visitor

REQUEST = {"prompt": "dog", "seed": "0", "ratio": "0.5", "steps": "4"}  # by uniform
ASKED = """request => {
    const query = new URLSearchParams(location.search);
    const calls = document.querySelector("#heatmap .plot").map?.timesteps.length;
    const inAddress = Object.entries(request).every(([name, value]) => query.get(name) === value);
    return inAddress && calls === Number(request.steps);
}"""


@pytest.fixture(scope="module")
def opened_visitor(shared_visitor: Visitor) -> Visitor:
    """Open the page once for the tests that begin with `ask`."""
    return shared_visitor.open()


def ask(visitor: Visitor, **changes: str) -> Page:
    """Set the controls to REQUEST with these changes, whatever an earlier test has left there, and wait for answers."""
    page, request = visitor.page, REQUEST | changes
    page.set_viewport_size(VIEWPORT)
    for name, value in request.items():
        control = page.locator(f"#{name} input:not([type=range])")
        if control.input_value() != value:
            control.fill(value)
            control.press("Tab")
    page.wait_for_function(ASKED, arg=request)
    visitor.settled(NUM_REQUESTS)
    return page


# -- what a visitor sees


def test_the_heatmap_follows_the_ratio_without_generating(opened_visitor: Visitor):
    """Run first: no picture has been generated yet."""
    page = ask(opened_visitor, ratio="0.25", steps="8")
    before = opened_visitor.computed()
    page.locator("#ratio input[type=range]").focus()
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "few => document.querySelector('#heatmap .plot').map.legend[0].count < few",
        arg=0.75 * before,
    )
    expect(page.locator(".tiles dd").first).to_have_text("65.0 %")
    assert not opened_visitor.pictures()


def test_generates_three_pictures_from_one_request(opened_visitor: Visitor):
    # with 4 steps, the baseline's 2 steps of DPM++ are the same as pruned DDIM's
    page = ask(opened_visitor, steps="8")
    opened_visitor.generate()
    assert len(set(opened_visitor.pictures())) == 3
    assert page.eval_on_selector("#pictures .card .picture", "canvas => canvas.width") >= 32
    assert page.locator(".card .picture").first.get_attribute("aria-label") == "dog, original"
    assert page.locator(".card h2").all_inner_texts() == ["Original", "Pruned", "Same cost, fewer steps"]
    facts = page.locator(".card[data-role=pruned] dd").all_inner_texts()
    assert facts[0].endswith(" %")
    assert float(facts[1]) > 0
    assert 0 <= float(facts[2]) <= 1
    assert facts[3].endswith(" dB")
    assert "seed 0" in page.locator("#pictures .footer").inner_text()
    assert not opened_visitor.errors
    assert not opened_visitor.foreign


def test_stop_ends_a_run(opened_visitor: Visitor):
    page = ask(opened_visitor, steps="100")
    page.click("#generate")
    expect(page.locator(".card[data-role=original] .counter")).to_contain_text("of 100", timeout=60_000)
    page.click("#stop")
    expect(page.locator("#stop")).to_be_disabled()
    counter = opened_visitor.settled("document.querySelector('.card[data-role=original] .counter').textContent")
    assert "of 100" in counter
    assert not page.locator("#verdict .verdict").count()


def test_a_second_request_ends_the_first(opened_visitor: Visitor):
    page = ask(opened_visitor, steps="100")
    earlier = page.locator(".history button").count()
    page.click("#generate")
    expect(page.locator(".card[data-role=original] .counter")).to_contain_text("of 100", timeout=60_000)
    page.fill("#steps input", "8")
    page.fill("#prompt input", "cat face")
    page.press("#prompt input", "Enter")
    opened_visitor.wait_until_generated()
    assert "Generated for “cat face”, seed 0, 8 steps" in page.locator("#pictures .footer").inner_text()
    expect(page.locator("#stop")).to_be_disabled()
    expect(page.locator(".history button")).to_have_count(earlier + 1)


def test_history_shows_previews_and_a_click_returns_to_earlier_results(opened_visitor: Visitor):
    page = ask(opened_visitor, steps="6")
    earlier = page.locator(".history button").count()
    opened_visitor.generate()
    expect(page.locator(".filmstrip .reel").first.locator("canvas")).to_have_count(6)
    assert page.locator(".filmstrip .reel").first.locator("figcaption").last.inner_text() == "6"
    first = opened_visitor.pictures()
    page.fill("#prompt input", "cat face")
    page.press("#prompt input", "Enter")
    expect(page.locator(".history button")).to_have_count(earlier + 2, timeout=60_000)
    page.click(".history button >> nth=1")
    expect(page.locator("#prompt input")).to_have_value("dog")
    expect(page.locator(".footer")).to_contain_text("Generated for “dog”")
    assert opened_visitor.pictures() == first


def test_pointer_shows_the_status_of_a_cell(opened_visitor: Visitor):
    page = ask(opened_visitor)
    page.locator("#heatmap .plot").scroll_into_view_if_needed()
    page.mouse.move(*cell_center(page, "#heatmap", 1, 14))
    text = page.locator("#heatmap .cell-tip").inner_text()
    assert "call 1, timestep" in text
    assert " % of a call's MACs" in text
    assert any(status in text for status in ("computed", "reused from call 0", "not needed", "call skipped"))


def test_enter_generates_and_unknown_words_are_named(opened_visitor: Visitor):
    page = ask(opened_visitor)
    page.fill("#prompt input", "xyzzy dog")
    page.press("#prompt input", "Enter")
    opened_visitor.wait_until_generated()
    assert len(opened_visitor.pictures()) == 3
    assert page.locator("#unknown-words").inner_text() == "never seen in training: xyzzy"


def test_schedule_equal_to_a_coarser_sampler_is_named_so(opened_visitor: Visitor):
    page = ask(opened_visitor, steps="8")
    expect(page.locator(".captions")).to_contain_text("under DDIM that is a sampler of 4 steps")


def test_pattern_of_deepcache_is_named_and_each_method_has_its_own_settings(visitor: Visitor):
    page = visitor.open("steps=8&ratio=0.4&method=deepcache&sampler=ddim&prompt=dog").page
    expect(page.locator(".captions")).to_contain_text("the pattern of DeepCache")
    page.click("#more button")
    expect(page.locator("#deepcache-branch")).to_be_visible()
    expect(page.locator("#uniform-interval")).to_have_count(0)


def test_known_names_are_suggested(opened_visitor: Visitor):
    page = ask(opened_visitor)
    listed = page.locator("#prompt input").get_attribute("list")
    names = page.eval_on_selector_all(f"#{listed} option", "all => all.map(one => one.value)")
    assert "red apple" in names


def test_two_visitors_get_their_own_pictures(opened_visitor: Visitor, visitors, served: str):
    requests = [("dog", 1), ("red apple", 2)]
    ask(opened_visitor, prompt="dog", seed="1")
    at_once = [opened_visitor, visitors(stranger=True).open("steps=4&prompt=red apple&seed=2&method=uniform&ratio=0.5")]
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
    page = visitors().open().page
    page.fill("#prompt input", "red apple & co")
    page.fill("#seed input", "7")
    page.fill("#steps input", "6")
    page.locator("#ratio input[type=number]").fill("0.25")
    page.locator("#ratio input[type=number]").press("Tab")
    page.click("#method input")
    page.get_by_role("option", name="Random units").click()
    page.wait_for_function("location.search.includes('method=random')")
    query = query_of(page)
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
    ("#prompt input", "", "Type what to draw."),
    ("#prompt input", "x" * 10_000, "prompt must have at most 500 characters, not 10,000"),
    ("#steps input", "0", "steps must be at least 1, not 0"),
    ("#steps input", "1000000", "steps must be at most 1000, not 1000000"),
    ("#seed input", "-1", "seed must be at least 0, not -1"),
]


def test_bad_input_gives_one_sentence_and_loses_nothing(opened_visitor: Visitor):
    page = ask(opened_visitor, ratio="0.3")
    for control, typed, message in BAD_INPUT:
        good = page.locator(control).input_value()
        page.fill(control, typed)
        page.click("#generate")
        expect(page.locator("#alert [role=alert]")).to_contain_text(message)
        assert "\n" not in opened_visitor.alert()
        assert page.locator(control).input_value() == typed
        assert page.locator("#ratio input[type=number]").input_value() == "0.3"
        page.fill(control, good)
        expect(page.locator("#stop")).to_be_disabled()
    opened_visitor.generate()
    assert not page.locator("#alert [role=alert]").count()


IN_ADDRESS = """() => (new URLSearchParams(location.search).get("prompt") ?? "")
    === document.querySelector("#prompt input").value"""


def test_every_way_to_change_the_prompt_reaches_the_state(opened_visitor: Visitor):
    page = ask(opened_visitor)
    box = page.locator("#prompt input")

    def press(*keys: str) -> str:
        for key in keys:
            page.keyboard.press(key)
        page.wait_for_function(IN_ADDRESS)
        return box.input_value()

    box.fill("penguin")  # as suggestions, autofill and dropped text arrive
    assert press() == "penguin"
    box.click()
    assert press("Control+A", "Control+X") == ""
    expect(page.locator("#alert [role=alert]")).to_contain_text("Type what to draw.")
    assert press("Control+V", "Control+V") == "penguinpenguin"
    assert press("Control+Z", "Control+Z", "Control+Z") != "penguinpenguin"


# -- the heatmap


def test_the_heatmap_follows_the_width_of_the_window(opened_visitor: Visitor):
    page = ask(opened_visitor)
    for width in (375, 1280):
        page.set_viewport_size({"width": width, "height": 812})
        page.wait_for_function("(box => box.places.width === box.clientWidth)(heatmap.querySelector('.plot'))")
        drawn, caption = (
            page.locator("#heatmap .cells > canvas").bounding_box(),
            page.locator("#heatmap figcaption").bounding_box(),
        )
        assert drawn["y"] + drawn["height"] <= caption["y"] and drawn["x"] + drawn["width"] <= width
        assert drawn["height"] == page.evaluate("heatmap.querySelector('.plot').places.height")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_bundled_importance_shows_its_removal_order_and_names_the_learned_trajectories(visitor: Visitor):
    visitor.open("steps=25&ratio=0.8&prompt=dog&method=dipgo&sampler=ddim")
    expect(visitor.page.locator("#show")).to_be_visible()
    computed = visitor.computed()
    assert 0 < computed < 25 * 28
    visitor.page.locator("#show label", has_text="what goes first").click()
    visitor.page.wait_for_function("document.querySelector('#heatmap').textContent.includes('stays longest')")
    visitor.page.locator("#show label", has_text="importance").click()
    visitor.page.wait_for_function("document.querySelector('#heatmap').textContent.includes('unimportant')")
    visitor.page.locator("#show label", has_text="what runs").click()
    visitor.page.wait_for_function("document.querySelector('#heatmap').textContent.includes('call skipped')")
    assert visitor.computed() == computed
    visitor.page.fill("#steps input", "7")
    visitor.page.press("#steps input", "Tab")
    visitor.page.wait_for_selector("#alert [role=alert]")
    assert "learned for" in visitor.alert() and "not for ddim 7" in visitor.alert()


def test_features_of_too_many_calls_are_refused_with_a_sentence_that_stays(opened_visitor: Visitor):
    page = opened_visitor.page
    page.fill("#steps input", "300")
    page.press("#steps input", "Tab")
    page.get_by_role("tab", name="Features").click()
    expect(page.locator("#measured")).to_contain_text("were not measured for ddim with 300 steps")
    expect(page.locator("#similarity figure")).to_be_hidden()
    page.click("#measure")
    expect(page.locator("#measured")).to_contain_text("at most 250 steps, not 300")
    assert "at most 250 steps" in opened_visitor.settled("document.querySelector('#measured').textContent")
    page.get_by_role("tab", name="Explore").click()


# -- the process that serves


def test_page_runs_without_torch(served: str):
    (process,) = [one for one in psutil.Process().children() if runs(one, "app.py")]
    files = {Path(one.path).name for one in process.memory_maps()}
    assert any("python" in name for name in files)  # they can be read
    assert not [name for name in files if "torch" in name]


def test_an_error_stands_at_its_field_until_it_is_mended(opened_visitor: Visitor):
    page = ask(opened_visitor)
    page.fill("#steps input", "0")
    page.press("#steps input", "Tab")
    error = page.locator("#steps .field-error")
    expect(error).to_have_text("steps must be at least 1, not 0")
    expect(page.locator("#steps input")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#alert [role=alert]")).to_have_text("steps must be at least 1, not 0")  # for screen readers
    page.fill("#steps input", "4")
    page.press("#steps input", "Tab")
    expect(error).to_have_count(0)
    expect(page.locator("#steps input")).not_to_have_attribute("aria-invalid", "true")
    page.fill("#prompt input", "")
    page.click("#generate")
    expect(page.locator("#prompt .field-error")).to_have_text("Type what to draw.")


def test_a_stopped_run_says_so(opened_visitor: Visitor):
    page = ask(opened_visitor, steps="100")
    page.click("#generate")
    expect(page.locator("#pictures .footer")).to_contain_text("Generating for “dog”")
    expect(page.locator(".card[data-role=original] .counter")).to_contain_text("of 100")
    page.click("#stop")
    expect(page.locator("#pictures .footer")).to_contain_text("Stopped before the end, for “dog”")
