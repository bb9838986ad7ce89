"""No event of the page is lost, whenever its stream of answers closes and its scripts arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.page_fixtures import OPENED

if TYPE_CHECKING:
    from playwright.sync_api import Route

    from tests.page_fixtures import Visitor

pytestmark = pytest.mark.browser

# Has the last message of each stream of answers arrive late, as on a slow connection.
LATE_CLOSING_JS = """
const plain = window.fetch.bind(window);
window.fetch = async (resource, options) => {
    const answer = await plain(resource, options);
    if (!String(resource.url ?? resource).includes("/queue/data")) return answer;
    const late = new TransformStream({ async transform(chunk, controller) {
        const [before, closing] = new TextDecoder().decode(chunk).split(/(?=data: [^\\n]*"close_stream")/);
        if (before) controller.enqueue(new TextEncoder().encode(before));
        if (!closing) return;
        LATE;
        controller.enqueue(new TextEncoder().encode(closing));
    } });
    return new Response(answer.body.pipeThrough(late), { headers: answer.headers });
};
"""
THREE_SECONDS = "await new Promise((resolve) => setTimeout(resolve, 3000))"
# Notes for each event whether the page's own script had taken the place of fetch when it began.
NOTE_EVENTS_JS = """
const first = window.fetch;
window.ours = [];
const noting = window.fetch = (resource, options) => {
    if (String(resource.url ?? resource).includes("/queue/join")) window.ours.push(window.fetch !== noting);
    return first(resource, options);
};
"""


def test_a_request_that_begins_while_the_last_answers_stream_closes_is_answered(visitor: Visitor):
    visitor.page.add_init_script(LATE_CLOSING_JS.replace("LATE;", f"{THREE_SECONDS};"))
    visitor.open().generate()
    with visitor.page.expect_response("**/queue/join?**"):
        visitor.page.press("#prompt input", "Enter")  # within the three seconds
    expect(visitor.page.locator(".history button")).to_have_count(2)


def test_the_pages_own_script_is_there_before_the_first_event(visitor: Visitor):
    held: list[Route] = []
    visitor.page.add_init_script(NOTE_EVENTS_JS)
    visitor.page.route("**/explorer/static/eventStream.js", lambda route: held.append(route))
    with visitor.page.expect_response("**/assets/index-*.js"):  # Gradio's script is there, and waits
        visitor.page.goto(f"{visitor.served}?steps=4&prompt=dog&method=uniform&ratio=0.5", wait_until="commit")
    held[0].continue_()
    visitor.page.wait_for_function(OPENED)
    visitor.generate()
    noted = visitor.page.evaluate("window.ours")
    assert len(noted) >= 2 and all(noted) and not visitor.errors
