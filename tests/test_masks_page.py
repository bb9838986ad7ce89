"""The Masks tab in a real browser: a file is found, shown, compared with another, edited by hand, kept."""

import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from explorer.bundled import masks as bundled
from explorer.masks.result import Mask, load
from tests.page_fixtures import cell_center, settled

pytestmark = pytest.mark.browser

SHIPPED = bundled.SCHEDULES / "emoji-unet" / "dipgo-ddim-25.safetensors"
QUERY = "steps=4&method=uniform&ratio=0.5&prompt=dog"


def on_tab(visitor, mask=""):
    page = visitor.open(f"{QUERY}&mask={mask}" if mask else QUERY).page
    page.get_by_role("tab", name="Masks").click()
    page.wait_for_selector("#masks tr[data-id]")
    settled(page, "document.querySelector('#masks tr[data-id]').getBoundingClientRect().top")
    return page


def opened(visitor, mask="emoji-unet/dipgo-ddim-25"):
    page = on_tab(visitor, mask)
    page.wait_for_selector("#mask .drawn")
    return page


@pytest.fixture(scope="module")
def tab(shared_visitor):
    """Open the tab once, for tests that change no file."""
    return on_tab(shared_visitor)


@pytest.fixture
def mask_page(tab):
    """Show a file as it is, at any ratio."""
    for name in ("dipgo-ddim-50", "dipgo-ddim-25"):  # a file that is chosen again would stay as it is
        tab.locator("#masks tr", has_text=name).first.click()
        expect(tab.locator("#mask-head h2")).to_have_text(name)
    tab.wait_for_selector("#mask .drawn")
    expect(tab.locator("#mask .edited-note")).to_be_hidden()
    return tab


def tile(page, name, where="#mask"):
    return page.locator(f"{where} .tiles div", has_text=name).locator("dd").first


def cells(page):
    """Read the heatmap's values, units by calls: 0 is computed."""
    status, units = page.evaluate(
        "(({ map }) => [[...map.status], map.units.length])(document.querySelector('#mask .plot'))"
    )
    return np.array(status).reshape(-1, units).T


def at(page, call, unit):
    """Find a cell on the screen."""
    page.locator("#mask .plot").scroll_into_view_if_needed()
    return cell_center(page, "#mask", call, unit)


def upload(page, file):
    with page.expect_file_chooser() as choosing:
        page.click("#mask-upload")
    choosing.value.set_files(file)


def choose(page, control, option):
    page.click(f"{control} input")
    page.get_by_role("option", name=option).click()


def test_an_importance_is_shown_at_any_ratio_and_compared_with_uniform(tab, shared_visitor):
    page = tab
    page.locator("#masks tr", has_text="dipgo-ddim-25").first.click()
    page.wait_for_selector("#mask .drawn")
    expect(page).to_have_url(re.compile("mask=emoji-unet%2Fdipgo-ddim-25"))
    expect(page.locator("#mask-head")).to_contain_text("UNet2DConditionModel")
    page.fill("#mask-ratio input[type=number]", "0.8")
    page.press("#mask-ratio input[type=number]", "Enter")
    mask = load(SHIPPED).at(0.8)
    expect(tile(page, "arithmetic left")).to_have_text(f"{100 * mask.macs_fraction:.1f} %")
    expect(tile(page, "cells computed")).to_have_text(f"{mask.keep.sum()}")
    assert (mask.keep == (cells(page) == 0).T).all()
    choose(page, "#mask-other", "uniform, same cost")
    expect(tile(page, "cells that differ")).not_to_have_text("0")
    counts = np.bincount(cells(page).astype(int).ravel(), minlength=4)
    assert counts[0] + counts[1] == mask.keep.sum()
    assert tile(page, "cells that differ").inner_text() == f"{counts[1] + counts[2]}"
    choose(page, "#mask-other", re.compile("dipgo-ddim-50"))
    expect(tile(page, "cells that differ")).to_have_text("–")
    assert not shared_visitor.errors and not shared_visitor.foreign


def test_what_others_published_is_named_so_with_its_cost_on_the_architecture(tab, shared_visitor):
    page = tab
    row = page.locator("#masks tr", has_text="dit-xl-2-256").first
    expect(row).to_contain_text("published, bundled")
    row.click()
    expect(page.locator("#mask-head")).to_contain_text("SmoothCache (published): schedule of DDIM, 50 steps")
    expect(tile(page, "arithmetic left")).to_have_text("48.0 %")
    expect(page.locator("#mask .tiles")).to_contain_text("2,748 of 5,726 GMACs in each pass")  # Ma et al.: 5.72 T
    assert cells(page).shape == (56, 50) and not shared_visitor.errors and not shared_visitor.foreign


def test_cells_are_switched_by_click_drag_and_key_and_undone(mask_page, shared_visitor):
    page = mask_page
    before = cells(page)
    call, unit = next((call, 0) for call in range(1, before.shape[1]) if (before[:, call] == 0).all())
    kept = tile(page, "arithmetic left").inner_text()
    page.mouse.click(*at(page, call, unit))
    expect(tile(page, "arithmetic left")).not_to_have_text(kept)
    expect(page.locator("#mask .edited-note")).to_be_visible()
    assert cells(page)[unit, call] != 0
    page.click("#mask [data-edit=undo]")
    expect(tile(page, "arithmetic left")).to_have_text(kept)
    expect(page.locator("#mask .edited-note")).to_be_hidden()
    assert (cells(page) == before).all() and page.locator("#mask [data-edit=undo]").is_disabled()
    page.click("#mask [data-edit=redo]")
    expect(tile(page, "arithmetic left")).not_to_have_text(kept)
    page.locator("#mask .plot").press("Control+z")
    expect(tile(page, "arithmetic left")).to_have_text(kept)

    last = before.shape[0] - 1
    page.mouse.move(*at(page, call, 2))
    page.mouse.down()
    page.mouse.move(*at(page, call, last), steps=8)
    page.mouse.up()
    assert (cells(page)[2:, call] != 0).all() and (cells(page)[:, 0] == 0).all()
    page.locator("#mask .plot").press("Control+z")
    assert (cells(page) == before).all()
    page.locator("#mask .plot").press("ArrowRight")
    page.locator("#mask .plot").press("c")
    assert not (cells(page)[:, 1] == before[:, 1]).all()
    edited = tile(page, "arithmetic left").inner_text()
    choose(page, "#mask-other", "uniform, same cost")
    expect(tile(page, "cells that differ")).to_be_visible()
    expect(tile(page, "arithmetic left")).to_have_text(edited)
    page.locator("#mask .plot").press("Control+z")
    expect(tile(page, "arithmetic left")).to_have_text(kept)
    assert not shared_visitor.errors


def test_a_manual_mask_is_kept_saved_uploaded_and_deleted(visitor, visitors, tmp_path):
    page = opened(visitor)
    page.locator("#mask .plot").press("ArrowRight")
    page.locator("#mask .plot").press("c")
    computed = int(tile(page, "cells computed").inner_text())
    page.fill("#mask-name textarea, #mask-name input", "<img src=x onerror=alert(1)>")
    page.click("#mask-keep")
    expect(page.locator("#mask-head h2")).to_have_text("<img src=x onerror=alert(1)>")
    expect(page.locator("#mask-head")).to_contain_text("manual")
    expect(tile(page, "cells computed")).to_have_text(f"{computed}")
    with page.expect_download() as saved:
        page.click("#mask-save")
    saved.value.save_as(tmp_path / "mine.safetensors")
    mask = Mask.load(tmp_path / "mine.safetensors")
    assert mask.keep.sum() == computed and mask.header.pruner.name == "manual"
    address = page.url

    other = visitors()
    elsewhere = other.page
    assert "tab=masks" in address
    elsewhere.goto(address)
    elsewhere.wait_for_selector("#mask .drawn")
    expect(tile(elsewhere, "cells computed")).to_have_text(f"{computed}")
    assert not elsewhere.locator("#mask-delete").is_visible()
    upload(elsewhere, tmp_path / "mine.safetensors")
    expect(elsewhere.locator("#mask-head h2")).to_have_text("mine")
    expect(elsewhere.locator("#masks tr", has_text="uploaded")).to_have_count(1)
    elsewhere.click("#mask-explore")
    elsewhere.wait_for_url("**manual_schedule=**")
    elsewhere.wait_for_selector("#heatmap .drawn")
    expect(elsewhere.locator(".tiles").first).to_contain_text("by hand")
    assert other.computed() == computed

    page.reload()  # the browser remembers whose it is
    page.wait_for_selector("#mask .drawn")
    page.click("#mask-delete")
    page.get_by_role("button", name="Really delete?").click()
    expect(page.locator("#mask-head h2")).to_have_count(0)
    expect(page.locator("#masks tr", has_text="manual")).to_have_count(0)
    assert not visitor.errors


def test_invalid_mask_is_one_sentence_and_the_view_stays(mask_page, shared_visitor, visitor, tmp_path):
    page = mask_page
    (tmp_path / "evil.safetensors").write_bytes(b"\x80\x04cos\nsystem\n.")
    upload(page, tmp_path / "evil.safetensors")
    expect(page.locator("#mask-alert [role=alert]")).to_contain_text("is damaged or no safetensors file")
    assert str(tmp_path) not in page.locator("#mask-alert").inner_text()
    expect(tile(page, "arithmetic left")).to_be_visible()
    page = visitor.page
    page.goto(f"{visitor.served}?{QUERY}&mask=..%2F..%2Fetc%2Fpasswd")
    page.get_by_role("tab", name="Masks").click()
    expect(page.locator("#mask-alert [role=alert]")).to_contain_text("there is no mask '../../etc/passwd'")
    assert not visitor.errors and not shared_visitor.errors


def test_widths_are_shown_and_compared_with_others(visitor):
    page = on_tab(visitor, "emoji-dit/ecodiff")
    expect(tile(page, "removed", "#mask-summary")).to_contain_text(re.compile(r"(19|20)\.\d %"))
    expect(page.locator("#mask-heads .heatmaplayer")).to_be_attached()
    assert not page.locator("#mask-keep").is_visible() and not page.locator("#mask").is_visible()
    choose(page, "#mask-other", re.compile("Magnitude"))
    expect(page.locator("#mask-summary")).to_contain_text("elements that differ")
    page.click("#mask-generate")
    cards = page.locator("#mask-pictures .card")
    expect(cards).to_have_count(4, timeout=60_000)
    for role in (1, 2, 3):
        expect(cards.nth(role).locator("dd").last).to_contain_text(re.compile(r"0\.\d{3}"), timeout=120_000)
    assert cards.locator("h2").all_inner_texts()[:2] == ["Original", "This mask"]
    assert not visitor.errors


def test_a_run_can_be_stopped(mask_page, shared_visitor):
    page = mask_page
    page.locator("#masks tr", has_text="dipgo-ddim-50").first.click()
    expect(page.locator("#mask-head h2")).to_have_text("dipgo-ddim-50")
    page.click("#mask-generate")
    pictures = page.locator("#mask-pictures")
    expect(pictures.locator("img").first).to_be_visible(timeout=60_000)
    page.click("#mask-stop")
    shared_visitor.settled("document.querySelector('#mask-pictures').innerHTML")
    assert "of 50 calls" in pictures.inner_text()
    assert not shared_visitor.errors


@pytest.mark.parametrize("width", [375, 1280])
def test_masks_tab_has_no_axe_violations_and_no_horizontal_scrolling(mask_page, shared_visitor, width):
    mask_page.set_viewport_size({"width": width, "height": 900})
    shared_visitor.settled("document.querySelector('#mask .plot').places.width")
    assert mask_page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(mask_page, context="#tabs").response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
