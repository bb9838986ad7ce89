"""Who may change something, and how often; the page behind a password, in a real browser."""

import json
import time
from base64 import b64encode
from hashlib import sha256
from types import SimpleNamespace

import httpx
import pytest
from itsdangerous import TimestampSigner
from playwright.sync_api import expect

from explorer.bundled import masks as bundled
from explorer.jobs.mask_library import MaskLibrary
from explorer.ui import launch
from explorer.ui.auth import TOKEN_HEADER, Guard, owner_of
from explorer.ui.budgets import BudgetError, Budgets
from explorer.ui.routes import UPLOAD
from tests.page_fixtures import free_port, serve

pytestmark = pytest.mark.browser


ME, YOU = "0" * 32, "1" * 32  # tokens


def request(host="1.2.3.4", **headers):
    return SimpleNamespace(client=SimpleNamespace(host=host), headers=headers)


def test_without_a_password_all_visitors_are_allowed():
    guard = Guard()
    assert guard.check_allowed(ME, request()).owner == owner_of(ME) != owner_of(YOU)
    assert not guard.is_locked_for(owner_of(ME))


@pytest.mark.parametrize("token", ["", "me", ME + "0", ME.replace("0", "Z"), ME + "\n", None, 0, True, [ME], {"a": ME}])
def test_nobody_owns_nothing_and_changes_nothing(token):
    assert owner_of(token) == "" and ME not in owner_of(ME)
    for guard in (Guard(), Guard("open sesame")):
        with pytest.raises(ValueError, match="does not know your browser"):
            guard.check_allowed(token, request())
    with pytest.raises(ValueError, match="does not know your browser"):
        guard.sign_in(token, "open sesame", request())
    assert guard.is_locked_for(guard.owner(token, request())) and guard.is_locked_for("")


def test_with_a_password_only_signed_in_visitors_are_allowed():
    guard = Guard("open sesame")
    assert guard.is_locked_for(owner_of(ME))
    with pytest.raises(ValueError, match="needs the password"):
        guard.check_allowed(ME, request())
    for wrong in ("", "open", "ößé", "\ud800", None, ["open sesame"]):
        with pytest.raises(ValueError, match="that is not the password"):
            guard.sign_in(ME, wrong, request())
    guard.sign_in(ME, "open sesame", request())
    guard.check_allowed(ME, request())
    assert guard.is_locked_for(owner_of(YOU)) and not guard.is_locked_for(owner_of(ME))


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


def account(sub="7", seconds=60):
    scope = {"session": {"oauth_info": {"userinfo": {"sub": sub}, "expires_at": time.time() + seconds}}}
    return SimpleNamespace(scope=scope, **vars(request()))


def test_on_a_space_an_account_of_hugging_face_is_the_owner_whatever_the_browser_is():
    guard = Guard(hf_login=True)
    owner = guard.check_allowed(ME, account()).owner
    assert owner == guard.check_allowed("", SimpleNamespace(request=account(), **vars(request()))).owner
    assert owner not in (owner_of(ME), guard.owner(ME, account("8"))) and len(owner) == 32
    nobody = SimpleNamespace(scope={}, **vars(request()))
    for logged_out in (nobody, account(seconds=-1), SimpleNamespace(scope={"session": {}}, **vars(request()))):
        with pytest.raises(ValueError, match="need an account of Hugging Face"):
            guard.check_allowed(ME, logged_out)
    locked = Guard("open sesame", hf_login=True)
    locked.sign_in("", "open sesame", account())
    assert locked.check_allowed(YOU, account()).owner == owner
    with pytest.raises(ValueError, match="needs the password"):
        locked.check_allowed(ME, account("8"))


def test_uploads_of_a_space_with_a_login_belong_to_the_account_of_the_signed_cookie(tmp_path):
    oauth = {"ID": "id", "SECRET": "secret"}
    settings = {f"OAUTH_CLIENT_{name}": value for name, value in oauth.items()}
    settings |= {"OAUTH_SCOPES": "openid", "OPENID_PROVIDER_URL": "http://127.0.0.1:9", "SPACE_ID": "me/space"}
    settings |= {"SYSTEM": "spaces", "EXPLORER_HF_LOGIN": "1", "EXPLORER_DATA": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    mask = (bundled.SCHEDULES / "emoji-unet" / "dipgo-ddim-25.safetensors").read_bytes()
    session = b64encode(json.dumps(account().scope["session"]).encode())
    cookie = TimestampSigner(sha256(b"secret-v4").hexdigest()).sign(session).decode()  # as Gradio signs it
    with serve(tmp_path, GRADIO_SERVER_PORT=str(free_port()), **settings) as url:

        def upload(cookie):
            headers = {TOKEN_HEADER: ME, "cookie": f"session={cookie}"}
            return httpx.post(f"{url}{UPLOAD[1:]}", content=mask, headers=headers, timeout=60).json()

        assert "need an account of Hugging Face" in upload(cookie[:-2] + "zz")["error"]
        entry = MaskLibrary(tmp_path / "masks").find(upload(cookie)["id"])
        assert entry.owner == Guard(hf_login=True).owner("", account())
        assert "Sign in with Hugging Face" in httpx.get(url, timeout=60).text


def test_a_login_that_cannot_work_is_said_at_the_start(monkeypatch):
    monkeypatch.setenv("EXPLORER_HF_LOGIN", "1")
    with pytest.raises(SystemExit, match="needs a Space whose README has `hf_oauth: true`"):
        launch()


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
    page.wait_for_selector("#mask .drawn")
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
