"""The Optimize tab in a real browser: a job is started, watched, reopened, opened in Explore, duplicated, deleted."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from explorer.jobs.estimates import estimate
from explorer.masks.result import Importance
from explorer.pruners import SAMPLER_TITLES, method_title
from explorer.ui.markup import percent

pytestmark = pytest.mark.browser

SHORT = {"steps": 4, "iterations": 3, "batch": 1, "validate_every": 0}
QUERY = "steps=4&method=uniform&ratio=0.5&prompt=dog"


def on_tab(visitor, query=QUERY):
    return open_tab(visitor.open(query).page)


def open_tab(page):
    page.get_by_role("tab", name="Optimize").click()
    page.wait_for_selector("#job-start")
    return page


@pytest.fixture(scope="module")
def opened_visitor(shared_visitor):
    """Open the page once, at an importance of Explore, for tests that leave no job on Optimize."""
    return shared_visitor.open("method=importance%3Aemoji-unet%2Fdipgo-dpm%2B%2B-20&ratio=0.7&prompt=dog")


def fill(page, **settings):
    for name, value in settings.items():
        box = page.locator(f"#set-{name} input").first
        if not box.is_visible():
            page.get_by_role("button", name="Settings of DiP-GO").click()
        box.fill(str(value))
        box.press("Enter")


def start(page, **settings):
    page.click("#job-model input")
    page.get_by_role("option", name="emoji-dit", exact=True).click()
    fill(page, **SHORT | settings)
    expect(page.locator("#job-estimate")).to_contain_text(re.compile("moment|on one core"))
    page.click("#job-start")
    page.wait_for_selector("#job .description h3")


def wait_for(page, text, seconds=300):
    expect(page.locator("#job .description [role=status]")).to_contain_text(text, timeout=1000 * seconds)


def test_job_is_shown_reopened_and_opened_in_explore(visitor, visitors):
    page = on_tab(visitor)
    start(page)
    wait_for(page, "done, step 3 of 3")
    expect(page.locator("#job .preview")).to_be_visible()
    expect(page.locator("#job .gates .heatmaplayer")).to_be_attached()
    assert page.evaluate("document.querySelector('#job .curves').data[0].x") == [1, 2, 3]
    expect(page.locator("#job .description")).to_contain_text("steps 4, iterations 3, batch 1, validate_every 0")
    job = re.search(r"job=(\w+)", page.url)[1]
    with page.expect_download() as saved:
        page.click("#job-save")
    assert saved.value.suggested_filename == f"{job}.safetensors"

    page.reload()
    page.get_by_role("tab", name="Optimize").click()
    wait_for(page, "done")
    expect(page.locator("#job-delete")).to_be_visible()
    elsewhere, held, is_slow = visitors().page, [], [True]  # the form's own first event arrives late
    elsewhere.route("**/queue/join**", lambda route: held.append(route) if is_slow else route.continue_())
    elsewhere.goto(f"{visitor.served}?{QUERY}&job={job}&tab=optimize")
    wait_for(elsewhere, "done")
    expect(elsewhere.locator("#job-duplicate")).to_be_visible()
    assert not elsewhere.locator("#job-delete").is_visible()
    elsewhere.click("#job-duplicate")
    expect(elsewhere.locator("#job-alert")).to_contain_text("Start")
    is_slow.clear()
    assert held
    for route in held:
        route.continue_()
    expect(elsewhere.locator("#set-iterations input").first).to_have_value("3")
    expect(elsewhere.locator("#job-model input")).to_have_value("emoji-dit")

    page.click("#job-masks")
    page.wait_for_url("**mask=job-**")
    page.wait_for_selector("#mask .drawn")
    expect(page.locator("#mask-head")).to_contain_text("sourcejob")
    page.get_by_role("tab", name="Optimize").click()
    page.wait_for_selector("#job-start")
    page.locator("#jobs tr", has_text="yours").first.click()
    wait_for(page, "done")
    page.click("#job-explore")
    page.wait_for_url("**method=importance**")
    page.wait_for_selector("#heatmap .drawn")
    expect(page.locator("#model input")).to_have_value("emoji-dit")
    expect(page.locator("#method input")).to_have_value("DiP-GO (job)")
    importance = Importance.load(saved.value.path())
    for share in (0.3, 0.6):  # the slider moves through the importance
        page.locator("#ratio input[type=number]").fill(str(share))
        expect(page.locator(".tiles")).to_contain_text(percent(importance.at(share).macs_fraction))
    assert not visitor.errors and not visitor.foreign


def test_importance_replaces_a_method_and_refuses_other_steps(opened_visitor):
    page = opened_visitor.page
    expect(page.locator("#method input")).to_have_value("dipgo-dpm++-20 (bundled)")
    expect(page.locator("#steps input")).to_have_value("20")
    page.click("#generate")
    expect(page.locator("#verdict")).to_contain_text("SSIM", timeout=120_000)
    expect(page.locator("#pictures")).to_contain_text("DiP-GO at 70 %")
    expect(page.locator(".history")).to_contain_text("dog, dipgo-dpm++-20 70 %")
    page.locator("#steps input").fill("5")
    page.locator("#steps input").press("Enter")
    expect(page.locator("#alert [role=alert]")).to_contain_text(
        "for emoji-unet under dpm++ with 20 steps; choose those"
    )
    page.click("#method input")
    page.get_by_role("option", name="Skip whole steps", exact=True).click()
    expect(page.locator("#alert [role=alert]")).to_have_count(0)
    assert not opened_visitor.errors


def test_a_job_is_paused_resumed_finished_and_deleted(opened_visitor):
    page = open_tab(opened_visitor.page)
    start(page, iterations=4000)
    wait_for(page, "running, step")
    page.click("#job-stop")
    wait_for(page, "paused")
    page.click("#job-resume")
    wait_for(page, "running, step")
    page.click("#job-stop")
    wait_for(page, "paused")
    page.click("#job-finish")
    wait_for(page, "done, finished early at step")
    expect(page.locator("#job-finish")).to_be_hidden()
    expect(page.locator("#job-explore")).to_be_visible()
    row = page.locator("#jobs tr", has_text="yours").first
    expect(row).to_contain_text("done")  # the list is updated at the end as well
    page.click("#job-delete")
    page.get_by_role("button", name="Really delete?").click()
    expect(page.locator("#job .waiting")).to_be_visible()
    expect(page.locator("#job .curves")).to_be_hidden()
    expect(page).not_to_have_url(re.compile("job="))
    assert not opened_visitor.errors


def test_long_step_shows_its_progress(opened_visitor):
    page = open_tab(opened_visitor.page)
    start(page, steps=40, batch=4, iterations=40)
    wait_for(page, "calls of the network into it")
    wait_for(page, "% of the next")
    page.click("#job-stop")
    wait_for(page, "paused")
    page.click("#job-delete")
    page.get_by_role("button", name="Really delete?").click()
    assert not opened_visitor.errors


def test_invalid_job_request_is_one_sentence_and_every_method_has_controls_without_axe_violations(visitor):
    page = on_tab(visitor, f"{QUERY}&job=%3Cscript%3E")
    expect(page.locator("#job-alert [role=alert]")).to_contain_text("there is no job '<script>'")
    fill(page, min_ratio=0.9, max_ratio=0.5)
    expect(page.locator("#job-estimate [role=alert]")).to_contain_text("is above max_ratio")
    page.click("#job-start")
    expect(page.locator("#job-alert [role=alert]")).to_contain_text("is above max_ratio")

    for method in ("ecodiff", "taylor", "genetic", "uniform", "magnitude"):
        page.click("#job-method input")
        page.get_by_role("option", name=method_title(method), exact=True).click()
        expect(page.locator("#job-more")).to_contain_text(f"Settings of {method_title(method)}")
    found = Axe().run(page, context="#tabs").response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    assert not visitor.errors


def test_channels_of_adaln_layers_are_offered_for_flux_only(visitor):
    page = on_tab(visitor, QUERY)
    page.click("#job-method input")
    page.get_by_role("option", name="EcoDiff", exact=True).click()
    expect(page.locator("#job-more")).to_contain_text("Settings of EcoDiff")
    adaln = page.locator("#set-prune_adaln")
    for model, count in (("emoji-flux", 1), ("emoji-unet", 0), ("emoji-flux-turbo", 1)):
        page.click("#job-model input")
        page.get_by_role("option", name=model, exact=True).click()
        expect(adaln).to_have_count(count)
    expect(page.get_by_label("Prune AdaLN channels")).to_have_count(1)
    assert not visitor.errors


def test_a_job_begins_with_the_run_that_its_model_was_made_for(visitor):
    page = on_tab(visitor, QUERY)
    steps, sampler = page.locator("#set-steps input[type=number]"), page.locator("#set-sampler input")
    for model, run in (("emoji-flux-turbo", ("4", "euler")), ("emoji-unet", ("25", "ddim"))):
        page.click("#job-model input")
        page.get_by_role("option", name=model, exact=True).click()
        expect(steps).to_have_value(run[0])
        expect(sampler).to_have_value(SAMPLER_TITLES[run[1]])
    assert not visitor.errors


@pytest.mark.parametrize("method", ["dipgo", "ecodiff", "taylor", "genetic", "search", "similarity"])
def test_an_estimate_grows_with_the_work(method):
    few, many = (estimate("emoji-unet", method, {"steps": steps}) for steps in (10, 50))
    assert 0 < few.seconds < many.seconds and 0.5e9 < few.memory <= many.memory < 20e9


def test_estimate_of_the_default_search_matches_the_measurement():
    found = estimate("emoji-unet", "dipgo", {"steps": 50})
    assert 36 <= found.seconds / 60 <= 60  # 36 to 52 minutes were measured
    assert "moment" in estimate("emoji-dit", "uniform", {}).describe()
    with pytest.raises(ValueError, match="no model 'nope'"):
        estimate("nope", "dipgo", {})
