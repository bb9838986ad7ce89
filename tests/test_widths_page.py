"""The Width pruning tab in a real browser: files, kept widths, the three pictures, errors."""

import io
import re
from functools import partial
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image
from playwright.sync_api import expect

from explorer.bundled import masks as bundled
from explorer.bundled.width_examples import nearest_example, read_examples, read_picture
from explorer.experiment import request_of_widths, widths_at
from explorer.models.catalogue import EMBEDDED
from explorer.ui.components import NO_FIGURE
from explorer.ui.markup import percent, width_title
from explorer.ui.tabs import widths
from tests.page_fixtures import query_of

short_title = partial(width_title, with_threshold=False)  # by which the list names files
pytestmark = pytest.mark.browser

VIEW = widths.View(*widths.View._fields)  # with names in place of components


def opened(visitor, **values):
    query = {"steps": 4, "prompt": "dog", "method": "uniform", "ratio": 0.5} | values
    page = visitor.open("&".join(f"{name}={value}" for name, value in query.items())).page
    page.get_by_role("tab", name="Width pruning").click()
    page.wait_for_selector("#widths-summary .tiles")
    page.wait_for_selector("#widths-bars .drawn")
    return page


@pytest.fixture(
    scope="module",
    params=[("emoji-unet", 236), ("emoji-dit", 84), ("emoji-flux", 72), ("emoji-ddpm", 0)],
    ids=lambda one: one[0],
)
def of_model(request, shared_visitor):
    """Open the tab once per model; its name, the number of its heads, the page, the errors of its scripts and the
    requests to other hosts."""
    model, heads = request.param
    page, visitor = opened(shared_visitor, model=model), shared_visitor
    return SimpleNamespace(model=model, heads=heads, page=page, errors=visitor.errors, foreign=visitor.foreign)


def test_kept_widths_follow_the_slider(of_model):
    model, page = of_model.model, of_model.page
    header = next(iter(bundled.width_headers(model).values()))
    box = page.locator("#widths-ratio input[type=number]")
    for share in (0.1, 0.3):
        box.fill(str(share))
        box.press("Enter")
        kept = widths_at(request_of_widths(model, header, share))
        expect(page.locator("#widths-summary")).to_contain_text(percent(1 - kept.params_fraction))
        expect(page.locator("#widths-summary")).to_contain_text(percent(kept.macs_fraction))
    assert not of_model.errors and not of_model.foreign


def test_every_bundled_file_can_be_shown(of_model):
    model, page = of_model.model, of_model.page
    assert len(bundled.width_headers(model)) >= 2
    titles = {short_title(header): header for header in bundled.width_headers(model).values()}
    for title, header in titles.items():
        page.click("#widths-file input")
        page.get_by_role("option", name=title, exact=True).click()
        thin = header.pruner.config["axis"] == "channels"
        what = "channels" if thin else "neurons"
        if header.pruner.config.get("prune_adaln"):
            expect(page.locator("#widths-bars .plot")).to_contain_text("AdaLN channels stay")
            expect(page.locator("#widths-summary")).to_contain_text("AdaLN channels")
        expect(page.locator("#widths-bars .plot")).to_contain_text(re.compile(rf"[\d,]+ of [\d,]+ {what} stay"))
        expect(page.locator("#widths-heads .plot")).to_be_hidden() if thin else expect(
            page.locator("#widths-heads .plot")
        ).to_contain_text(f"of {of_model.heads} heads stay")
        expect(page.locator("#widths-loss")).to_be_visible() if header.trace else expect(
            page.locator("#widths-loss")
        ).to_be_hidden()
    assert not of_model.errors


def test_pruned_network_generates_with_the_original_and_the_baseline(of_model):
    page = of_model.page
    page.click("#widths-generate")
    page.wait_for_selector("#widths-pictures .verdict", timeout=120_000)
    pictures = page.locator("#widths-generated img")
    sources = [pictures.nth(number).get_attribute("src") for number in range(3)]
    assert pictures.count() == 3 and len(set(sources)) >= 2
    text = page.locator("#widths-pictures").inner_text()
    assert text.count("ideal") == 2 and "Generated for “dog”, seed 0, 4 steps" in text
    assert not of_model.errors


def test_a_late_answer_leaves_generated_pictures_and_the_next_choice_does_not(visitor):
    page, held = opened(visitor, tab="widths", widths="magnitude"), []
    page.route("**/gradio_api/run/**", lambda route: route.continue_() if held else held.append(route))
    box = page.locator("#widths-ratio input[type=number]")
    with page.expect_request("**/gradio_api/run/**"):
        box.fill("0.1")
    page.click("#widths-generate")
    expect(page.locator("#widths-pictures .verdict")).to_be_visible(timeout=120_000)
    expect(page.locator("#widths-examples")).to_be_hidden()
    held[0].continue_()
    expect(page.locator("#widths-examples .footer")).to_contain_text("Drawn beforehand at 10 %")
    expect(page.locator("#widths-pictures .verdict")).to_be_visible()
    box.press("Enter")
    box.fill("0.3")
    expect(page.locator("#widths-examples .footer")).to_contain_text("Drawn beforehand at 30 %")
    expect(page.locator("#widths-examples")).to_be_visible()
    expect(page.locator("#widths-generated .cards")).to_have_count(0)
    assert not visitor.errors


@pytest.mark.parametrize(
    ("model", "message"),
    [("emoji-nothing", "no widths come with the project for emoji-nothing"), ("sd15", "make some on Optimize")],
)
def test_a_model_without_widths_gives_a_sentence(model, message):
    shown = widths.show(VIEW, widths.Selection(model, None, 0.2))
    assert message in shown["alert"] and not shown["summary"] and shown["heads"] is shown["bars"] is NO_FIGURE


def test_a_failed_run_is_a_sentence():
    def run(task, request):
        raise ValueError("the run ended in values that are not finite")
        yield

    values = {"model": "emoji-unet", "method": "uniform", "prompt": "<b>dog</b>", "ratio": 0.5}
    *_, shown = widths.generate(run, VIEW, next(iter(bundled.width_headers("emoji-unet"))), 0.2, values)
    assert "not finite" in shown["alert"] and 'role="alert"' in shown["alert"]
    *_, shown = widths.generate(run, VIEW, "../../etc/passwd", 0.2, values)
    assert "no widths to generate with" in shown["alert"]


def test_a_dragged_threshold_selects_other_channels(of_model):
    model, page = of_model.model, of_model.page
    paper = bundled.width_headers(model).get("taylor-channels")
    if model in ("emoji-dit", "emoji-flux"):  # whose channels cannot be pruned
        assert paper is None and page.locator("#threshold").count() == 0
        return
    page.click("#widths-file input")
    page.get_by_role("option", name=short_title(paper), exact=True).click()
    expect(page.locator("#widths-timesteps")).to_contain_text(f"of {len(paper.trace)} timesteps are used")
    expect(page.locator("#widths-timesteps")).to_contain_text("the paper's.")
    box = page.locator("#threshold input[type=number]")
    box.fill("0.18")
    box.press("Enter")
    expect(page.locator("#widths-timesteps")).to_contain_text("those of threshold 0.2, the nearest that was learned")
    expect(page.locator("#widths-timesteps")).to_contain_text(re.compile(r": [1-9][\d,]* of [\d,]+ are others"))
    expect(page.locator("#widths-file input")).to_have_value(
        short_title(bundled.width_headers(model)["taylor-channels-0.2"])
    )
    assert not of_model.errors


def test_widths_are_selected_on_explore_and_restored_from_the_address(visitor):
    page = visitor.open("steps=4&prompt=dog&model=emoji-dit&method=uniform&ratio=0.5").page
    magnitude = short_title(bundled.width_headers("emoji-dit")["magnitude"])
    page.click("#prune-widths input")
    expect(page.get_by_role("option")).to_have_count(len(bundled.width_headers("emoji-dit")))
    page.get_by_role("option", name=magnitude, exact=True).click()
    expect(page.get_by_role("tab", name="Width pruning")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#widths-file input")).to_have_value(magnitude)
    expect(page.locator("#widths-summary")).to_contain_text("removed")
    box = page.locator("#widths-ratio input[type=number]")
    box.fill("0.13")
    box.press("Enter")
    header = bundled.width_headers("emoji-dit")["magnitude"]
    kept = widths_at(request_of_widths("emoji-dit", header, 0.13)).params_fraction
    expect(page.locator("#widths-summary")).to_contain_text(percent(1 - kept))
    page.wait_for_url(re.compile("widths=magnitude.*widths_ratio=0.13"))
    page.reload()
    expect(page.locator("#widths-bars .plot")).to_contain_text("neurons stay")
    expect(page.locator("#widths-summary")).to_contain_text(percent(1 - kept))
    expect(page.locator("#widths-file input")).to_have_value(magnitude)
    page.get_by_role("tab", name="Explore").click()
    expect(page.locator("#prune-widths input")).to_have_value("")
    assert not visitor.errors


def test_address_restores_the_smallest_and_largest_widths(visitor):
    page = visitor.page
    header = bundled.width_headers("emoji-ddpm")["taylor-channels"]
    query = "model=emoji-ddpm&method=uniform&tab=widths&widths=taylor-channels&widths_ratio="
    for share, reached in {"0.95": "0.95", "0": "0", "0.999": "0.99"}.items():
        page.goto(f"{visitor.served}?{query}{share}")
        kept = widths_at(request_of_widths("emoji-ddpm", header, float(reached))).params_fraction
        expect(page.locator("#widths-summary")).to_contain_text(f"removed{percent(1 - kept)}of")
        page.locator("#widths-ratio input[type=number]").press("Enter")
        page.wait_for_url(re.compile(f"widths_ratio={reached}(&|$)"))
    assert not visitor.errors


@pytest.mark.parametrize(
    "query",
    [{}, {"widths": "../../etc", "widths_ratio": "nan"}, {"model": "sd15", "widths": "ecodiff", "widths_ratio": "7"}],
)
def test_an_address_of_no_widths_changes_nothing(query):
    assert widths.from_url(VIEW, query) == {"file": gr.skip()}


def test_tab_that_is_opened_before_the_address_was_read_shows_what_it_names():
    query = {"widths": "magnitude", "widths_ratio": "0.13"}
    opened_early = widths.Selection("emoji-unet", None, 0.2)
    shown = widths.show_tab(VIEW, opened_early, query)
    assert shown.items() >= widths.from_url(VIEW, query).items() and "13.0 %" in shown["summary"]
    assert (shown["file"]["value"], shown["ratio"]["value"]) == ("magnitude", 0.13)
    later = widths.show_tab(VIEW, opened_early._replace(file="ecodiff", ratio=0.3), query)
    assert later["file"]["value"] == "ecodiff" and "value" not in later["ratio"]


def test_answer_to_a_picked_file_leaves_the_list_to_a_later_pick():
    picked = widths.Selection("emoji-unet", "magnitude", 0.2)
    assert "value" not in widths.on_change(VIEW, picked)["file"]
    dragged = widths.Selection("emoji-unet", "taylor-channels", 0.2, threshold=0.2)
    assert widths.on_change(VIEW, dragged)["file"]["value"] == "taylor-channels-0.2"


def test_a_late_answer_leaves_what_was_dragged_since(visitor):
    page, held = opened(visitor, model="emoji-ddpm", tab="widths", widths="taylor-channels-0.2"), []
    box = page.locator("#threshold input[type=number]")
    expect(box).to_have_value("0.2")
    page.route("**/gradio_api/run/**", lambda route: route.continue_() if held else held.append(route))
    with page.expect_request("**/gradio_api/run/**"):
        page.click("#widths-file input")
        page.get_by_role("option", name="Diff-Pruning (Taylor), channels", exact=True).click()
    box.fill("0.02")
    held[0].continue_()
    expect(page.locator("#widths-timesteps")).to_contain_text("those of threshold 0.01, the nearest that was learned")
    expect(box).to_have_value("0.02")
    for title in ("Magnitude, channels", "Diff-Pruning (Taylor), channels"):
        page.click("#widths-file input")
        page.get_by_role("option", name=title, exact=True).click()
        expect(page.locator("#widths-file input")).to_have_value(title)
        expect(page.locator("#widths-summary")).to_contain_text("removed")
    expect(page.locator("#widths-timesteps")).to_contain_text("the paper's.")
    expect(box).to_have_value("0.05")
    assert not visitor.errors


def test_events_on_explore_keep_what_other_tabs_wrote_into_the_address(visitor):
    page = opened(visitor, tab="widths", widths="magnitude", widths_ratio=0.13, mask="emoji-unet/dipgo-ddim-25")
    expect(page.locator("#widths-file input")).to_have_value(
        width_title(bundled.width_headers("emoji-unet")["magnitude"])
    )
    page.get_by_role("tab", name="Explore").click()
    page.fill("#seed input", "7")
    page.press("#seed input", "Tab")
    page.wait_for_url(re.compile("seed=7"))
    page.locator("#ratio input[type=number]").fill("0.3")
    page.locator("#ratio input[type=number]").press("Tab")
    page.wait_for_url(re.compile("[?&]ratio=0.3"))
    query = query_of(page)
    assert (query["widths"], query["widths_ratio"]) == (["magnitude"], ["0.13"])
    assert query["mask"] == ["emoji-unet/dipgo-ddim-25"] and "tab" not in query
    page.reload()
    page.get_by_role("tab", name="Width pruning").click()
    expect(page.locator("#widths-ratio input[type=number]")).to_have_value("0.13")
    expect(page.locator("#widths-file input")).to_have_value(
        width_title(bundled.width_headers("emoji-unet")["magnitude"])
    )
    assert not visitor.errors


@pytest.mark.parametrize("model", [model for model in EMBEDDED if bundled.width_headers(model)])
def test_every_bundled_file_has_pictures_that_were_drawn_beforehand(model):
    examples, headers = read_examples(model), bundled.width_headers(model)
    assert examples and examples.files.keys() == headers.keys()
    for name, header in headers.items():
        own = examples.files[name]
        assert own and all(example.ratio <= header.max_ratio for example in own)
        for example in own:
            for picture in (examples.original, example.pruned, example.baseline):
                image = Image.open(io.BytesIO(read_picture(model, picture)))
                assert image.size[0] >= 32 and -1 <= picture.ssim <= 1
    assert nearest_example(model, name, 0.0) == own[0] and nearest_example(model, name, 1.0) == own[-1]
    assert nearest_example(model, "../../etc", 0.2) is None and read_examples("../emoji-unet") is None


def test_pictures_drawn_beforehand_follow_the_ratio_until_a_visitor_generates(of_model):
    page, box = of_model.page, of_model.page.locator("#widths-ratio input[type=number]")
    page.reload()
    page.get_by_role("tab", name="Width pruning").click()
    expect(page.locator("#widths-examples .footer")).to_contain_text("Drawn beforehand at")
    expect(page.locator("#widths-examples img")).to_have_count(3)
    shown = page.locator("#widths-examples img").nth(1).get_attribute("src")
    box.fill("0.1")
    box.press("Enter")
    expect(page.locator("#widths-examples .footer")).to_contain_text("Drawn beforehand at 10 %")
    assert page.locator("#widths-examples img").nth(1).get_attribute("src") != shown
    assert not of_model.errors
