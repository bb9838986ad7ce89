"""Who may change something, and how often; the page behind a password, in a real browser."""

from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

from explorer.ui.auth import Guard, owner_of
from explorer.ui.budgets import BudgetError, Budgets
from tests.page_fixtures import free_port, serve

pytestmark = pytest.mark.browser


ME, YOU = "0" * 32, "1" * 32  # tokens


def request(host="1.2.3.4", **headers):
    return SimpleNamespace(client=SimpleNamespace(host=host), headers=headers)


def test_without_a_password_all_visitors_are_allowed():
    guard = Guard()
    assert guard.check_allowed(ME, request()).owner == owner_of(ME) != owner_of(YOU)
    assert not guard.is_locked_for(ME)


@pytest.mark.parametrize("token", ["", "me", ME + "0", ME.replace("0", "Z"), ME + "\n", None, 0, True, [ME], {"a": ME}])
def test_nobody_owns_nothing_and_changes_nothing(token):
    assert owner_of(token) == "" and ME not in owner_of(ME)
    for guard in (Guard(), Guard("open sesame")):
        with pytest.raises(ValueError, match="does not know your browser"):
            guard.check_allowed(token, request())
    with pytest.raises(ValueError, match="does not know your browser"):
        guard.sign_in(token, "open sesame", request())
    assert guard.is_locked_for(token) and guard.is_locked_for("")


def test_with_a_password_only_signed_in_visitors_are_allowed():
    guard = Guard("open sesame")
    assert guard.is_locked_for(ME)
    with pytest.raises(ValueError, match="needs the password"):
        guard.check_allowed(ME, request())
    for wrong in ("", "open", "ößé", "\ud800", None, ["open sesame"]):
        with pytest.raises(ValueError, match="that is not the password"):
            guard.sign_in(ME, wrong, request())
    guard.sign_in(ME, "open sesame", request())
    guard.check_allowed(ME, request())
    assert guard.is_locked_for(YOU) and not guard.is_locked_for(ME)


def test_passwords_and_changes_count_for_the_limit_of_an_address():
    guard = Guard("secret", Budgets(changes_per_minute=3))
    for _ in range(3):
        with pytest.raises(ValueError, match="not the password"):
            guard.sign_in(ME, "guess", request())
    for act in (lambda: guard.sign_in(ME, "secret", request()), lambda: guard.check_allowed(ME, request())):
        with pytest.raises(BudgetError, match="3 times within a minute"):
            act()
    guard.sign_in(YOU, "secret", request("5.6.7.8"))
    assert guard.check_allowed(YOU, request("9.9.9.9")) == (owner_of(YOU), "9.9.9.9")


@pytest.fixture
def locked(tmp_path):
    """Serve a page that needs a password."""
    settings = {"EXPLORER_DATA": str(tmp_path), "EXPLORER_PASSWORD": "open sesame"}
    with serve(tmp_path, GRADIO_SERVER_PORT=str(free_port()), **settings) as url:
        yield url


def test_page_with_a_password_is_read_only_before_sign_in(visitors, locked):
    visitor = visitors(locked)
    page = visitor.open("steps=4&method=uniform&ratio=0.5&prompt=dog&mask=emoji-unet/dipgo-ddim-25").page
    page.get_by_role("tab", name="Masks").click()
    page.wait_for_selector("#mask .heatmaplayer")
    page.fill("#mask-name input, #mask-name textarea", "mine")
    page.click("#mask-keep")
    expect(page.locator("#mask-alert [role=alert]")).to_contain_text("needs the password")
    page.get_by_role("tab", name="Optimize").click()
    page.click("#job-start")
    expect(page.locator("#job-alert [role=alert]")).to_contain_text("needs the password")
    page.fill("#password input", "friend")
    page.click("#sign-in-button")
    expect(page.locator("#sign-in-alert [role=alert]")).to_contain_text("that is not the password")
    page.fill("#password input", "open sesame")
    page.press("#password input", "Enter")
    expect(page.locator("#sign-in")).to_be_hidden()
    page.get_by_role("tab", name="Masks").click()
    page.click("#mask-keep")
    expect(page.locator("#mask-head h2")).to_have_text("mine")
    assert not visitor.errors
