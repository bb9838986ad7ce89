"""What the page shows before Gradio has mounted it, in a real browser: it works, and Gradio takes it over as it is."""

import json

import httpx
import pytest
from playwright.sync_api import Page, expect
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from explorer.ui.page_head import PageHead
from tests.page_fixtures import settled

GRADIO_PARTS = "**/assets/Index-*.js"  # without which Gradio mounts nothing
BOXES = """() => Object.fromEntries(PARTS.map((part) => {
    const { x, y, width } = document.querySelector(part).getBoundingClientRect();
    return [part, [x, y, width]];
}))""".replace(
    "PARTS",
    json.dumps(["#header", ".task", "#ratio", "#ratio input[type=range]", "#pictures .viewer", "#heading", "#heatmap"]),
)
SHIFT = """() => new Promise((resolve) => new PerformanceObserver((list, observer) => {
    observer.disconnect();
    resolve(list.getEntries().filter((one) => !one.hadRecentInput).reduce((sum, one) => sum + one.value, 0));
}).observe({ type: "layout-shift", buffered: true }) || setTimeout(() => resolve(0), 500))"""

# Notes what Gradio tells of the controls.
NOTE_TOLD = """{
    let page;
    window.told = [];
    const noting = (own) => (...values) => { window.told.push(values[0]); own(...values); };
    const set = (value) => (page = { ...value, setRequest: noting(value.setRequest) });
    Object.defineProperty(window, "explorer", { get: () => page, set });
}"""


@pytest.fixture(params=[1280])
def mounting(request, visitor):
    """Open the page at a width, hold Gradio back, and wait for the first screen; yields the page, and what lets Gradio
    go on."""
    page, held, is_held = visitor.page, [], [True]
    page.set_viewport_size({"width": request.param, "height": 900})
    page.add_init_script(NOTE_TOLD)
    page.emulate_media(reduced_motion="reduce")  # no example that moves the slider
    page.route(GRADIO_PARTS, lambda route: held.append(route) if is_held else route.continue_())
    page.goto(visitor.served, wait_until="commit")
    page.wait_for_selector("#first-screen #heatmap .drawn")
    page.wait_for_selector("#first-screen .card[data-role=pruned] .picture[width='64']")

    def mount() -> None:
        is_held.clear()
        for route in held:
            route.continue_()
        page.wait_for_selector("#first-screen", state="detached")

    yield page, mount
    assert not visitor.errors and not visitor.foreign


def move(page: Page, ratio: str) -> None:
    page.locator("#ratio input[type=range]").evaluate(
        "(range, ratio) => { range.value = ratio; range.dispatchEvent(new Event('input', { bubbles: true })); }", ratio
    )


@pytest.mark.browser
def test_slider_pictures_and_map_work_before_gradio_is_there(mounting):
    page, mount = mounting
    picture = "document.querySelector('.card[data-role=pruned] .picture').toDataURL()"
    before, cells = (
        page.evaluate(picture),
        page.evaluate("document.querySelector('#heatmap .plot').map.legend[0].count"),
    )
    fetched = page.evaluate(
        "window.openingPictures.map((one) => [one.src.replace(/.*[/]\\d+-/, ''), one.naturalHeight])"
    )
    assert fetched == [["full.webp", 64], ["dipgo.webp", 64], ["unipc-steps.webp", 64]]
    move(page, "0.5")
    expect(page.locator(".task")).to_have_text("Skip 50 % of the work: can you see it?")
    assert page.locator("#first-screen #ratio input[type=number]").input_value() == "0.5"
    assert page.evaluate(picture) != before
    assert page.evaluate("document.querySelector('#heatmap .plot').map.legend[0].count") > cells
    page.click("#first-screen .samples button[data-sample='0']")
    expect(page.locator("#first-screen .samples button[data-sample='0']")).to_have_attribute("aria-pressed", "true")
    shown = settled(page, picture)
    mount()
    assert page.evaluate(picture) == shown
    expect(page.locator("#ratio input[type=number]")).to_have_value("0.5")
    expect(page.locator("#prompt input, #prompt textarea")).to_have_value("red apple")
    page.wait_for_url("**ratio=0.5**")
    page.locator("#steps input").fill("25")
    page.click("#generate")
    expect(page.locator("#verdict .verdict")).to_be_visible(timeout=300_000)
    expect(page.locator(".view .footer")).to_contain_text("Generated for")


@pytest.mark.browser
@pytest.mark.parametrize("mounting", [1280, 375], indirect=True)
def test_nothing_moves_when_gradio_takes_over(mounting):
    page, mount = mounting
    early = page.evaluate(BOXES)
    shift = page.evaluate(SHIFT)
    mount()
    page.wait_for_selector("#generate")
    for part, box in page.evaluate(BOXES).items():
        assert box == pytest.approx(early[part], abs=3), part
    assert page.evaluate(SHIFT) - shift < 0.005


@pytest.mark.browser
def test_the_first_screen_begins_with_what_the_controls_hold(mounting):
    page, mount = mounting
    facts = json.loads(page.locator("#first-facts").text_content())["request"]
    mount()
    page.fill("#seed input", str(facts["seed"]))  # at which Gradio tells what all controls hold
    page.wait_for_function("window.told.length")
    assert page.evaluate("window.told[0]") == facts


@pytest.mark.browser
def test_a_tab_and_the_focus_chosen_early_are_kept(mounting):
    page, mount = mounting
    page.locator("#first-screen #ratio input[type=range]").focus()
    page.click("#first-screen .tab-names button:has-text('SuperNet')")
    mount()
    expect(page.get_by_role("tab", name="SuperNet")).to_have_attribute("aria-selected", "true")


@pytest.mark.browser
def test_the_slider_keeps_the_focus(mounting):
    page, mount = mounting
    page.locator("#first-screen #ratio input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".task")).to_contain_text("Skip 75 %")
    mount()
    assert page.evaluate("document.activeElement.matches('gradio-app #ratio input[type=range]')")
    expect(page.locator("#ratio input[type=number]")).to_have_value("0.75")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#ratio input[type=number]")).to_have_value("0.7")


@pytest.mark.browser
def test_an_address_that_names_something_has_no_first_screen(visitor):
    visitor.page.goto(f"{visitor.served}?prompt=dog", wait_until="domcontentloaded")
    assert not visitor.page.locator("#first-screen").count()
    assert not visitor.page.evaluate("document.body.classList.contains('mounting')")


def answer(kind: str, *bodies: bytes, path: str = "/", root: str = "") -> httpx.Response:
    """Send an answer of this type of content, in parts, through the middleware."""

    async def app(scope, receive, send):
        async def parts():
            for body in bodies:
                yield body

        await StreamingResponse(parts(), media_type=kind)(scope, receive, send)

    return TestClient(PageHead(app, lambda: "<i>", lambda: "<b>ä</b>"), root_path=root).get(root + path)


PAGE = b"<base><script></script><script></script><gradio-app>"
OURS = "<base><i><script></script><script></script><b>ä</b><gradio-app>".encode()


def test_head_and_first_screen_go_into_the_page():
    for bodies in ([PAGE], [PAGE[:9], PAGE[9:]]):
        page = answer("text/html; charset=utf-8", *bodies)
        assert page.content == OURS and page.headers["content-length"] == str(len(OURS))
    assert answer("text/html", PAGE, root="/below").content == OURS


def test_other_answers_are_left_alone():
    for kind, path in (("application/json", "/"), ("text/html", "/explorer/lesson"), ("text/html", "/other/")):
        assert answer(kind, PAGE[:9], PAGE[9:], path=path).content == PAGE
