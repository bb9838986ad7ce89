"""The drawers "Use it" and "Your model" in a real browser: they follow the state, copy, download, give focus back."""

import json
import re
import shlex

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from explorer.masks.result import Importance, Mask
from explorer.models import catalogue
from tests import test_optimize_page as optimize
from tests.page_fixtures import NO_TRANSITIONS

pytestmark = pytest.mark.browser

GALLERY = "prompt=octopus&seed=1&method=dipgo&steps=50&ratio=0.8&baseline_sampler=unipc"
CONFIG = catalogue.typical_row("UNet2DModel")["denoiser"]
PAPERS = 4


@pytest.fixture(scope="module")
def page(shared_visitor):
    """Open the page once, at a scene of the gallery."""
    return shared_visitor.open(GALLERY).page


def use(page, place="explore"):
    page.click(f"#{place}-use")
    drawer = page.locator("#use-it dialog")
    expect(drawer.locator(".content")).to_be_visible()
    return drawer


def close(page):
    page.keyboard.press("Escape")
    expect(page.locator("dialog[open]")).to_have_count(0)


def cells(drawer, row):
    return drawer.locator(".saves tr", has_text=row).locator("td").all_inner_texts()


def download(page, button, folder):
    with page.expect_download() as saved:
        button.click()
    name = saved.value.suggested_filename
    assert re.fullmatch(r"[A-Za-z0-9-]+\.(safetensors|png|json)", name)
    saved.value.save_as(folder / name)
    return folder / name


def own_model(page):
    page.click("#model input")
    page.get_by_role("option", name="Your model").click()
    drawer = page.locator("#own-model dialog")
    expect(drawer).to_be_visible()
    return drawer


def test_the_drawer_shows_what_is_shown_and_gives_the_focus_back(page, tmp_path):
    drawer = use(page)
    expect(drawer.locator(".about")).to_contain_text("DiP-GO on emoji-unet, 80.1 % of the arithmetic skipped")
    assert cells(drawer, "arithmetic") == ["100.0\u00a0%", "19.9\u00a0%", "20.0\u00a0%"]
    assert cells(drawer, "ideal speed")[1] == "5.01×" and "×)" in cells(drawer, "measured time")[1]
    assert page.locator(".headline").inner_text().replace("\n", " ").find(cells(drawer, "closeness")[1][:4]) >= 0
    expect(drawer.locator(".saves .hint")).to_contain_text("AMD EPYC")
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    file = download(page, drawer.locator(".download"), tmp_path)
    assert f'"{file.name}"' in drawer.locator(".python").inner_text()
    assert Importance.load(file).at(0.8).macs_fraction == pytest.approx(0.199, abs=0.001)
    close(page)
    assert page.evaluate("document.activeElement.id") == "explore-use"
    page.fill("#ratio input[type=number]", "0.5")
    page.press("#ratio input[type=number]", "Enter")
    drawer = use(page)
    expect(drawer.locator(".python")).to_contain_text(".at(0.5)")
    drawer.locator(".close").click()
    expect(drawer).to_be_hidden()


def test_the_commands_follow_the_model_that_is_typed_quoted_and_are_copied(page, shared_visitor):
    shared_visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    drawer = use(page)
    expect(drawer.locator(".commands")).to_contain_text("--model ./my-model --method dipgo --steps 50")
    for typed in ("owner/name", "my model; rm -rf ~", 'it\'s $(here) `and` "there"'):
        drawer.locator(".own-model").fill(typed)
        drawer.locator(".copy").last.click()
        expect(drawer.locator(".copy").last).to_have_text("Copied")
        copied = page.evaluate("navigator.clipboard.readText()")
        words = [shlex.split(line) for line in copied.splitlines()]
        assert [line[line.index("--model") + 1] for line in words] == [typed, typed]
        assert [line[:4] for line in words] == [["python", "-m", "explorer", one] for one in ("prune", "generate")]
    drawer.locator(".own-model").fill("")
    expect(drawer.locator(".commands")).to_contain_text("--model ./my-model")
    close(page)


def test_the_report_is_a_picture_and_all_values(page, tmp_path):
    drawer = use(page)
    picture = Image.open(download(page, drawer.locator(".report-png"), tmp_path)).convert("RGB")
    assert picture.width == 1200 and picture.height > 1000 and len(set(picture.resize((300, 300)).getdata())) > 200
    report = json.loads(download(page, drawer.locator(".report-json"), tmp_path).read_text())
    assert report["link"] == page.url and report["file"]["versions"]["diffusers"] and report["map"]["calls"] == 50
    assert report["baseline"]["name"] == "UniPC, 25 steps" and report["measured"]["pruned"]["psnr"] > 30
    close(page)


def test_an_edited_schedule_is_what_is_taken_away(page, tmp_path):
    plot = page.locator("#heatmap .plot")
    plot.press("ArrowRight")
    plot.press("c")
    computed = page.evaluate("document.querySelector('#heatmap .plot').map.legend[0].count")
    drawer = use(page)
    expect(drawer.locator(".about")).to_contain_text("A schedule edited by hand")
    assert cells(drawer, "closeness") == ["–", "–", "–"]
    assert Mask.load(download(page, drawer.locator(".download"), tmp_path)).keep.sum() == computed
    close(page)
    plot.press("Control+z")


def test_what_cannot_be_used_is_one_sentence(page):
    page.fill("#prompt input, #prompt textarea", "")
    page.click("#explore-use")
    expect(page.locator("#use-it .about.alert")).to_contain_text("Type what to draw.")
    expect(page.locator("#use-it .content")).to_be_hidden()
    close(page)
    page.fill("#prompt input, #prompt textarea", "octopus")


def test_generated_widths_are_measured_where_they_are_shown(visitor, tmp_path):
    page = visitor.open("steps=4&prompt=dog&method=uniform&ratio=0.5&tab=widths&widths=ecodiff&widths_ratio=.2").page
    expect(page.locator("#widths-summary .tiles")).to_be_visible()
    drawer = use(page, "widths")
    assert cells(drawer, "parameters left")[1] == "80.0\u00a0%" and cells(drawer, "closeness") == ["–", "–", "–"]
    expect(drawer.locator(".python")).to_contain_text("explorer.prune_widths(model, widths)")
    close(page)
    page.click("#widths-generate")
    expect(page.locator("#widths-generated .footer")).to_contain_text("Generated for", timeout=120_000)
    drawer = use(page, "widths")
    assert [text.endswith("dB") for text in cells(drawer, "closeness")] == [False, True, True]
    download(page, drawer.locator(".report-png"), tmp_path)
    close(page)
    assert not visitor.errors and not visitor.foreign


def test_a_mask_and_the_phone(visitors, tmp_path):
    visitor = visitors(viewport={"width": 375, "height": 800})
    mask = "mask=emoji-unet%2Fdipgo-ddim-25"
    page = visitor.open(f"tab=masks&steps=4&method=uniform&ratio=0.5&prompt=dog&{mask}").page
    page.wait_for_selector("#mask .drawn")
    drawer = use(page, "mask")
    box = drawer.bounding_box()
    assert (
        box["width"] == pytest.approx(375, abs=1)
        and box["y"] > 60
        and box["y"] + box["height"] == pytest.approx(800, abs=1)
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert drawer.evaluate("box => box.scrollWidth <= box.clientWidth")
    assert Importance.load(download(page, drawer.locator(".download"), tmp_path)).header.steps == 25
    close(page)
    assert page.evaluate("document.activeElement.id") == "mask-use"
    assert not visitor.errors


def test_the_result_of_a_job(visitor, tmp_path):
    page = optimize.on_tab(visitor)
    optimize.start(page)
    expect(page.locator("#job-use")).to_be_hidden()
    optimize.wait_for(page, "done, step 3 of 3")
    page.fill("#job-ratio input[type=number]", "0.4")
    page.press("#job-ratio input[type=number]", "Enter")
    drawer = use(page, "job")
    expect(drawer.locator(".about")).to_contain_text("DiP-GO on emoji-dit")
    expect(drawer.locator(".python")).to_contain_text(".at(0.4)")
    expect(drawer.locator(".commands")).to_contain_text("--set iterations=3")
    assert Importance.load(download(page, drawer.locator(".download"), tmp_path)).header.steps == 4
    close(page)
    page.click("#job-delete")
    assert not visitor.errors and not visitor.foreign


def test_your_model_is_described_and_the_page_stays_as_it_was(page, shared_visitor, tmp_path):
    address = page.url
    drawer = own_model(page)
    expect(page.locator("#model input")).to_have_value("emoji-unet")
    assert page.url == address
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    drawer.locator(".own-file").set_input_files(tmp_path / "config.json")
    expect(drawer.locator(".own-config")).to_have_value(json.dumps(CONFIG))
    drawer.locator(".describe").click()
    expect(drawer.locator(".facts")).to_contain_text("35.7 M")
    expect(drawer.locator(".furthest")).to_contain_text("DeepCache")
    drawer.locator(".own-name").fill("my cifar")
    expect(drawer.locator(".commands")).to_contain_text("--model 'my cifar'")
    drawer.locator(".own-config").fill('{"_class_name": "<img src=x onerror=alert(1)>"}')
    drawer.locator(".describe").click()
    expect(drawer.locator(".about.alert")).to_contain_text("<img src=x onerror=alert(1)>")
    drawer.locator(".own-config").fill("")
    drawer.locator(".own-name").fill("someone/secret")
    drawer.locator(".describe").click()
    expect(drawer.locator(".about")).to_contain_text("it fetches nothing from the hub")
    expect(drawer.locator(".facts")).to_be_hidden()
    (tmp_path / "large.json").write_text(" " * 70_000)
    drawer.locator(".own-file").set_input_files(tmp_path / "large.json")
    expect(drawer.locator(".about.alert")).to_contain_text("64")
    close(page)
    assert page.evaluate("document.activeElement.closest('#model') !== null")
    assert page.url == address and page.locator(".card .picture").first.is_visible()
    assert not shared_visitor.errors and not shared_visitor.foreign


def test_your_model_leaves_an_importance_in_place_of_the_method(visitor):
    page = visitor.open("method=importance%3Aemoji-unet%2Fdipgo-dpm%2B%2B-20&ratio=0.7&prompt=dog").page
    method, computed = page.input_value("#method input"), visitor.computed()
    own_model(page)
    close(page)
    visitor.settled("document.querySelector('#method input').value")
    assert (page.input_value("#method input"), visitor.computed()) == (method, computed)
    page.click("#model input")
    page.get_by_role("option", name="emoji-dit", exact=True).click()
    expect(page.locator("#method input")).to_have_value("DiP-GO")
    own_model(page)
    expect(page.locator("#model input")).to_have_value("emoji-dit")
    close(page)
    assert not visitor.errors


@pytest.mark.parametrize("which", ["use-it", "own-model"])
def test_the_drawers_have_no_axe_violations_in_light_and_dark(page, which):
    page.add_style_tag(content=NO_TRANSITIONS)
    drawer = use(page) if which == "use-it" else own_model(page)
    if which == "own-model":
        drawer.locator(".own-config").fill(json.dumps(CONFIG))
        drawer.locator(".describe").click()
        expect(drawer.locator(".facts")).to_contain_text("35.7 M")
        drawer.locator("summary").click()
    for dark in (False, True):
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
        found = Axe().run(page, context=f"#{which} dialog").response["violations"]
        assert [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found] == []
    page.evaluate("document.body.classList.remove('dark')")
    close(page)


def test_the_foot_stands_on_every_tab_and_its_readme_opens(page, shared_visitor):
    for name in ("Features", "Width pruning", "Optimize", "Masks", "Explore"):
        page.get_by_role("tab", name=name).click()
        expect(page.locator("#foot")).to_be_visible()
    links = page.locator("#foot a")
    assert links.count() == PAPERS + 1
    kinds = links.evaluate_all("all => all.map(({ target, rel }) => [target, rel])")
    assert kinds == [["_blank", "noopener"]] * (PAPERS + 1)
    answer = page.request.get(links.first.evaluate("link => link.href"))
    assert answer.ok and "# Diffusion Pruning Explorer" in answer.text()
    assert Axe().run(page, context="#foot").response["violations"] == []
