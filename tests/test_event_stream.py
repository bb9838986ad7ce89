"""No event of the page is lost, whenever its stream of answers closes and its scripts arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.page_fixtures import OPENED

if TYPE_CHECKING:
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
UNTIL_THE_SECOND_EVENT = "while (numJoined < 2) await new Promise((resolve) => setTimeout(resolve, 50))"
# Has the answer to the first event arrive when the page's own script has taken the place of fetch.
LATE_SCRIPT_JS = """
const late = window.fetch;
let numJoined = 0;
const mine = window.fetch = async (resource, options) => {
    const answer = await late(resource, options);
    if (!String(resource.url ?? resource).includes("/queue/join")) return answer;
    if (!numJoined) while (window.fetch === mine) await new Promise((resolve) => setTimeout(resolve, 20));
    setTimeout(() => { numJoined += 1; }, 200);
    return answer;
};
"""


def test_a_request_that_begins_while_the_last_answers_stream_closes_is_answered(visitor: Visitor):
    visitor.page.add_init_script(LATE_CLOSING_JS.replace("LATE;", f"{THREE_SECONDS};"))
    visitor.open().generate()
    with visitor.page.expect_response("**/queue/join?**"):
        visitor.page.press("#prompt input", "Enter")  # within the three seconds
    expect(visitor.page.locator(".history button")).to_have_count(2)


def test_an_event_that_begins_before_the_pages_own_script_is_there_does_not_lose_the_next_one(visitor: Visitor):
    page, held = visitor.page, []
    page.add_init_script(LATE_CLOSING_JS.replace("LATE;", f"{UNTIL_THE_SECOND_EVENT};") + LATE_SCRIPT_JS)
    page.route("**/explorer/static/eventStream.js", lambda route: held.append(route))
    with page.expect_request("**/gradio_api/queue/join**"):
        page.goto(f"{visitor.served}?steps=4&prompt=dog&method=uniform&ratio=0.5")
    with page.expect_response("**/queue/data?**"):
        held[0].continue_()
    page.wait_for_function(OPENED)
    visitor.generate()  # while the stream of the first event closes
    assert not visitor.errors
