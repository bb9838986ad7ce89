"""A model that an operator adds to the page, from its folder to a file that the library applies to the same folder."""

import re

import pytest
import torch
from diffusers import StableDiffusionPipeline
from playwright.sync_api import expect

import explorer
from explorer.jobs.estimates import estimate
from explorer.masks.result import Importance, load
from explorer.models import catalogue, memory
from explorer.pruners import method_title
from explorer.ui.markup import percent
from tests.conftest import sd_pipeline
from tests.foreign_fixtures import generate
from tests.page_fixtures import free_port, serve

pytestmark = pytest.mark.browser

TRAJECTORY = "steps=4&method=uniform&ratio=0.5&prompt=dog"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-sd"
    sd_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def page_with_model(tmp_path_factory, folder):
    """Serve a page with a model of the operator's, and two that cannot be had; yields its address and its log."""
    data, empty = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("empty")
    settings = {"EXPLORER_MODELS": f"{folder}, {empty},nobody/nothing", "HF_HUB_OFFLINE": "1"}
    with serve(data, GRADIO_SERVER_PORT=str(free_port()), EXPLORER_DATA=str(data), **settings) as url:
        yield url, (data / "log").read_text()


def choose(page, box, name):
    page.click(f"{box} input")
    page.get_by_role("option", name=name, exact=True).click()


def start_job(page, method, **settings):
    """Start a job of the operator's model with prompts of one's own, and wait until it is done."""
    page.get_by_role("tab", name="Optimize").click()
    page.wait_for_selector("#job-start")
    choose(page, "#job-model", "tiny-sd")
    choose(page, "#job-method", method_title(method))
    page.fill("#job-prompts textarea", "a red dog\na blue cat")
    expect(page.locator("#job-more")).to_contain_text(f"Settings of {method_title(method)}")
    page.get_by_role("button", name=f"Settings of {method_title(method)}").click()
    for name, value in settings.items():
        box = page.locator(f"#set-{name} input").first
        box.fill(str(value))
        box.press("Enter")
    expect(page.locator("#job-estimate")).to_contain_text(re.compile("moment|on one core"))
    page.click("#job-start")
    status = page.locator("#job .description [role=status]")
    expect(page.locator("#job .description h3")).to_contain_text(method_title(method))
    expect(status).to_contain_text("done", timeout=300_000)
    expect(page.locator("#job .description")).to_contain_text("tiny-sd")


def download(page):
    with page.expect_download() as saved:
        page.click("#job-save")
    return saved.value.path()


def test_an_operators_model_goes_from_its_folder_to_a_file_for_the_same_folder(page_with_model, visitors, folder):
    url, log = page_with_model
    assert "nobody/nothing is not on the page: the weights of nobody/nothing are not on this machine" in log
    assert log.count("is not on the page") == 2 and "Traceback" not in log
    visitor = visitors(url).open(TRAJECTORY)
    page = visitor.page
    choose(page, "#model", "tiny-sd")
    expect(page.locator("#lead .samples button")).to_have_count(0)  # those of another model are gone
    visitor.generate()
    assert len(visitor.pictures()) == 3 and "model=tiny-sd" in page.url

    start_job(page, "dipgo", steps=4, iterations=3, batch=1, validate_every=0)
    file = download(page)
    page.click("#job-explore")
    page.wait_for_url("**model=tiny-sd**method=importance**")
    expect(page.locator("#method input")).to_have_value("DiP-GO (job)")
    for share in (0.3, 0.6):
        page.locator("#ratio input[type=number]").fill(str(share))
        expect(page.locator(".tiles")).to_contain_text(percent(Importance.load(file).at(share).macs_fraction))
    visitor.generate()
    assert not visitor.errors and not visitor.foreign

    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    with explorer.apply(pipe, load(file).at(0.5)):
        pruned = generate(pipe, 4)
    assert pruned.isfinite().all() and not torch.equal(pruned, generate(pipe, 4))


def test_widths_of_an_operators_model_are_learned_and_cut_from_the_same_folder(page_with_model, visitors, folder):
    page = visitors(page_with_model[0]).open(TRAJECTORY).page
    start_job(page, "ecodiff", steps=3, iterations=2, batch=1, num_images=2)
    widths = load(download(page)).at(0.2)
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    whole = sum(parameter.numel() for parameter in pipe.unet.parameters())
    with explorer.apply(pipe, widths):
        assert sum(parameter.numel() for parameter in pipe.unet.parameters()) < whole
        assert generate(pipe, 4).isfinite().all()


def test_the_other_tabs_show_an_operators_model(page_with_model, visitors):
    visitor = visitors(page_with_model[0]).open(f"{TRAJECTORY}&model=tiny-sd")
    page = visitor.page
    page.get_by_role("tab", name="Width pruning").click()
    expect(page.locator("#widths-alert")).to_contain_text("no widths come with the project for tiny-sd")
    page.get_by_role("tab", name="Features").click()
    page.click("#measure")
    expect(page.locator("#similarity .heatmaplayer")).to_be_attached(timeout=120_000)
    assert not visitor.errors


# -- names and memory


def test_two_models_of_one_name_are_one_sentence(tmp_path, folder, monkeypatch):
    other = tmp_path / "tiny-sd"
    sd_pipeline().save_pretrained(other)
    monkeypatch.setattr(catalogue, "_added", {})
    catalogue.add(catalogue.describe(str(folder)))
    catalogue.add(catalogue.describe(str(folder)))
    assert catalogue.available_models()[-1] == "tiny-sd"
    with pytest.raises(ValueError, match="have one name; rename one of the folders"):
        catalogue.add(catalogue.describe(str(other)))
    taken = tmp_path / "sd15"
    other.rename(taken)
    with pytest.raises(ValueError, match="has the name of a model of the catalogue, sd15; rename the folder"):
        catalogue.describe(str(taken))


def test_the_id_of_an_operators_model_loads_it_and_is_listed(folder, monkeypatch, document):
    monkeypatch.setenv("EXPLORER_MODELS", f" {folder} ,")
    monkeypatch.setattr(catalogue, "_added", {})
    assert explorer.load("tiny-sd").revision == explorer.load(folder).revision
    assert [row["id"] for row in document("models")][-1] == "tiny-sd"
    few, many = (estimate("tiny-sd", "dipgo", {"steps": steps}).seconds for steps in (10, 50))
    assert 0 < few < many


def test_weights_that_do_not_fit_into_memory_are_one_sentence_before_they_are_loaded(folder, monkeypatch):
    count = sum(p.numel() for part in sd_pipeline().components.values() for p in getattr(part, "parameters", list)())
    assert memory.count_parameters(folder) == count
    monkeypatch.setattr(memory, "free_memory", lambda: count * 3)
    with pytest.raises(ValueError, match="million parameters, which need .* GB in float32, and .* with dtype float16"):
        explorer.load(folder)
    assert explorer.load(folder, dtype="float16").denoiser.dtype == torch.float16
    assert explorer.load(folder, weights=False).graph().macs_per_call
    monkeypatch.setattr(memory, "free_memory", lambda: count)
    with pytest.raises(ValueError, match="its units, MACs, parameters and schedules still work"):
        explorer.load(folder, dtype="float16")


def test_a_job_that_does_not_fit_into_memory_says_so_before_the_start(monkeypatch):
    assert "will probably" not in estimate("emoji-unet", "dipgo", {}).describe()
    found = estimate("sdxl", "dipgo", {"batch": 8}).describe()
    assert "2,567 million parameters" in found and "What still works" in found and "uniform" in found
    monkeypatch.setenv("EXPLORER_SCHEDULER", "tcp://localhost:1")
    assert "will probably" not in estimate("sdxl", "dipgo", {"batch": 8}).describe()


@pytest.mark.parametrize("limit, used, free", [("max", "5", None), ("1000", "400", 700), ("1000", "2000", 0)])
def test_a_containers_limit_counts(tmp_path, monkeypatch, limit, used, free):
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(used)
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 60\nactive_file 40\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.free_memory() == free if free is not None else memory.free_memory() > 10_000
    assert memory.machine_memory() == 1000 or limit == "max"


def test_damaged_weights_are_said_by_loading_them(tmp_path, folder):
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 8 + b"nonsense")
    assert memory.count_parameters(tmp_path / "x.safetensors") == 0


def test_a_model_without_names_asks_for_prompts_before_the_job_starts(page_with_model, visitors):
    page = visitors(page_with_model[0]).open(TRAJECTORY).page
    page.get_by_role("tab", name="Optimize").click()
    page.wait_for_selector("#job-start")
    expect(page.locator("#job-estimate")).to_contain_text("on one core")  # of the settings as they are
    choose(page, "#job-model", "tiny-sd")
    expect(page.locator("#job-estimate")).to_contain_text("moment")
    page.click("#job-start")
    expect(page.locator("#job-alert [role=alert]")).to_contain_text("write prompts for it, one per line")
