"""The Smaller tab in a real browser: files, what is left, the three pictures, and what cannot be asked."""

import re
from types import SimpleNamespace

import gradio as gr
import pytest
from playwright.sync_api import expect

from explorer import shipped
from explorer.experiment import widths_for
from explorer.ui import smaller


def opened(visitor, **asked):
    query = {"steps": 4, "prompt": "dog", "method": "uniform", "ratio": 0.5} | asked
    page = visitor.open("&".join(f"{name}={value}" for name, value in query.items())).page
    page.get_by_role("tab", name="Smaller").click()
    page.wait_for_selector("#left .tiles")
    page.wait_for_selector("#widths .drawn")
    return page


def test_what_is_left_follows_the_slider(visitor):
    page = opened(visitor)
    header = next(iter(shipped.widths("emoji-unet").values()))
    box = page.locator("#share input[type=number]")
    for share in (0.1, 0.3):
        box.fill(str(share))
        box.press("Enter")
        kept = widths_for(smaller.asked_of("emoji-unet", header, share))
        expect(page.locator("#left")).to_contain_text(f"{1 - kept.kept:.1%}")
        expect(page.locator("#left")).to_contain_text(f"{kept.kept_macs:.1%}")
    assert not visitor.complaints and not visitor.foreign


@pytest.mark.parametrize(("model", "heads"), [("emoji-unet", 236), ("emoji-dit", 84), ("emoji-ddpm", 0)])
def test_every_file_that_comes_along_can_be_looked_at(visitor, model, heads):
    page = opened(visitor, model=model)
    assert len(shipped.widths(model)) >= 2
    for header in shipped.widths(model).values():
        page.click("#learned input")
        page.get_by_role("option", name=smaller.title(header), exact=True).click()
        thin = header.pruner.config["axis"] == "channels"
        what = "channels" if thin else "neurons"
        expect(page.locator("#widths .plot")).to_contain_text(re.compile(rf"[\d,]+ of [\d,]+ {what} stay"))
        expect(page.locator("#heads .plot")).to_be_hidden() if thin else expect(
            page.locator("#heads .plot")
        ).to_contain_text(f"of {heads} heads stay")
        expect(page.locator("#expansion")).to_be_visible() if header.trace else expect(
            page.locator("#expansion")
        ).to_be_hidden()
    assert not visitor.complaints


@pytest.mark.parametrize("model", ["emoji-unet", "emoji-dit", "emoji-ddpm"])
def test_the_smaller_network_draws_beside_the_whole_one_and_the_rival(visitor, model):
    page = opened(visitor, model=model)
    page.click("#draw-smaller")
    page.wait_for_selector("#smaller-pictures .verdict", timeout=120_000)
    pictures = page.locator("#smaller-pictures img")
    sources = [pictures.nth(number).get_attribute("src") for number in range(3)]
    assert pictures.count() == 3 and len(set(sources)) >= 2
    text = page.locator("#smaller-pictures").inner_text()
    assert text.count("×") == 2 and "Drawn for “dog”, seed 0, 4 steps" in text
    assert not visitor.complaints


@pytest.mark.parametrize(
    ("model", "said"), [("emoji-nothing", "no widths come with the project for emoji-nothing"), ("sd15", "prune")]
)
def test_a_model_without_widths_is_said(model, said):
    _, _, trouble, tiles, _, heads, shares, *_ = smaller.shown(model, None, 0.2, 0.05)
    assert said in trouble and not tiles and heads is shares is None


def test_a_drawing_that_cannot_be_is_a_sentence():
    def run(work, question):
        raise ValueError("the run ended in values that are not finite")
        yield

    values = {"model": "emoji-unet", "method": "uniform", "prompt": "<b>dog</b>", "ratio": 0.5}
    *_, (said, _) = smaller.on_draw(run, next(iter(shipped.widths("emoji-unet"))), 0.2, values)
    assert "not finite" in said and 'role="alert"' in said
    *_, (said, _) = smaller.on_draw(run, "../../etc/passwd", 0.2, values)
    assert "no widths to draw with" in said


@pytest.mark.parametrize("model", ["emoji-unet", "emoji-ddpm"])
def test_a_dragged_threshold_picks_other_channels(visitor, model):
    page = opened(visitor, model=model)
    paper = shipped.widths(model)["taylor-channels"]
    page.click("#learned input")
    page.get_by_role("option", name=smaller.title(paper), exact=True).click()
    expect(page.locator("#looked")).to_contain_text(f"of {len(paper.trace)} timesteps are looked at")
    expect(page.locator("#looked")).to_contain_text("the paper's.")
    box = page.locator("#threshold input[type=number]")
    box.fill("0.18")
    box.press("Enter")
    expect(page.locator("#looked")).to_contain_text("those of threshold 0.2, the nearest that was learned")
    expect(page.locator("#looked")).to_contain_text(re.compile(r": [1-9][\d,]* of [\d,]+ are others"))
    expect(page.locator("#learned input")).to_have_value(smaller.title(shipped.widths(model)["taylor-channels-0.2"]))
    assert not visitor.complaints


def test_a_smaller_network_is_chosen_on_explore_and_its_address_leads_back(visitor):
    page = visitor.open("steps=4&prompt=dog&model=emoji-dit&method=uniform&ratio=0.5").page
    magnitude = smaller.title(shipped.widths("emoji-dit")["magnitude"])
    page.click("#smaller input")
    expect(page.get_by_role("option")).to_have_count(len(shipped.widths("emoji-dit")))
    page.get_by_role("option", name=magnitude, exact=True).click()
    expect(page.get_by_role("tab", name="Smaller")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#learned input")).to_have_value(magnitude)
    expect(page.locator("#left")).to_contain_text("removed")
    box = page.locator("#share input[type=number]")
    box.fill("0.13")
    box.press("Enter")
    header = shipped.widths("emoji-dit")["magnitude"]
    kept = widths_for(smaller.asked_of("emoji-dit", header, 0.13)).kept
    expect(page.locator("#left")).to_contain_text(f"{1 - kept:.1%}")
    page.wait_for_url(re.compile("learned=magnitude.*share=0.13"))
    page.reload()
    expect(page.locator("#widths .plot")).to_contain_text("neurons stay")
    expect(page.locator("#left")).to_contain_text(f"{1 - kept:.1%}")
    expect(page.locator("#learned input")).to_have_value(magnitude)
    page.get_by_role("tab", name="Explore").click()
    expect(page.locator("#smaller input")).to_have_value("")
    assert not visitor.complaints


@pytest.mark.parametrize(("share", "reached"), [("0.95", "0.95"), ("0", "0"), ("0.999", "0.99")])
def test_an_address_at_the_ends_of_what_is_possible_leads_back(visitor, share, reached):
    page = visitor.page
    header = shipped.widths("emoji-ddpm")["taylor-channels"]
    asked = f"model=emoji-ddpm&method=uniform&tab=smaller&learned=taylor-channels&share={share}"
    page.goto(f"{visitor.served}?{asked}")
    kept = widths_for(smaller.asked_of("emoji-ddpm", header, float(reached))).kept
    expect(page.locator("#left")).to_contain_text(f"removed{1 - kept:.1%}of")
    page.locator("#share input[type=number]").press("Enter")
    page.wait_for_url(re.compile(f"share={reached}(&|$)"))
    assert not visitor.complaints


@pytest.mark.parametrize(
    "query", [{}, {"learned": "../../etc", "share": "nan"}, {"model": "sd15", "learned": "ecodiff", "share": "7"}]
)
def test_an_address_of_no_smaller_network_changes_nothing(query):
    assert smaller.from_address(SimpleNamespace(query_params=query)) == (gr.skip(), gr.skip())
