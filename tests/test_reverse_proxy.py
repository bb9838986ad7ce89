"""The page behind a reverse proxy, under a path that the proxy takes off."""

import pytest
from playwright.sync_api import expect

from explorer.bundled.masks import SCHEDULES
from tests.page_fixtures import free_port, serve
from tests.reverse_proxy import reverse_proxy

pytestmark = pytest.mark.browser

PATH = "/tools/pruning"


def test_the_page_works_under_a_path_of_a_reverse_proxy(tmp_path, visitors):
    settings = {"GRADIO_SERVER_PORT": str(free_port()), "EXPLORER_DATA": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    with (
        serve(tmp_path, GRADIO_ROOT_PATH=PATH, EXPLORER_PROXIES="127.0.0.1", **settings) as url,
        reverse_proxy(free_port(), PATH, url) as address,
    ):
        visitor = visitors(address)
        page, refused = visitor.page, []
        page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
        visitor.open("prompt=red%20apple&method=dipgo&steps=50&ratio=0.8")
        page.wait_for_function("document.querySelector('.view').dataset.source === 'gallery'")
        visitor.open()
        visitor.generate()
        page.get_by_role("tab", name="Masks").click()
        file = next((SCHEDULES / "emoji-unet").glob("*.safetensors"))
        with page.expect_file_chooser() as chooser:
            page.click("#mask-upload")
        chooser.value.set_files(file)
        expect(page.locator("#masks tr", has_text="uploaded")).to_have_count(1)
        # Gradio asks for its manifest beside the path; a page does without it
        unanswered = {url for url in (*refused, *visitor.foreign) if not url.endswith("/manifest.json")}
        assert not unanswered and not visitor.errors
