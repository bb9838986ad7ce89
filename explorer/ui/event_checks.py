"""Checks of what an event brings, before Gradio or a handler sees it: so many values, and of each control a plain one.

The page's own scripts send nothing else (though a text for a number, or a number for a text), so what fails is a
client's mistake: a 4xx with one sentence, and no traceback in the log.
Gradio itself answers every error of an event with 500; `RequestChecks` puts the status of REFUSED in its place.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.exceptions import ComponentProcessingError

from explorer.ui import budgets
from explorer.ui.budgets import Budgets

REFUSED = "explorer.refused"  # in the scope of a request: the status of its answer
CONTROLS = (gr.Textbox, gr.Dropdown, gr.Radio, gr.Checkbox, gr.Number, gr.Slider)
MAX_NUMBER = 2**63


class CheckedBlocks(gr.Blocks):
    """Blocks that refuse events with values which their controls cannot have, and keep no answers in the server.

    budgets: who reads; first_screen: markup of what is seen before Gradio has mounted the page. Both are to be set
    before it is launched.
    """

    budgets = Budgets()
    first_screen = ""

    async def process_api(self, block_fn: Any, inputs: list[Any], *arguments: Any, **options: Any) -> dict[str, Any]:
        """Run an event's handler. Raises gr.Error, without a traceback in the log, for values that it cannot have."""
        function = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        try:
            if options.get("iterator") is None:
                inputs = _checked(function.inputs, inputs)
            return await super().process_api(block_fn, inputs, *arguments, **options)
        except (gr.Error, ComponentProcessingError) as error:
            request = getattr(options.get("request"), "request", None)
            if request is not None:
                request.scope[REFUSED] = 422
            raise gr.Error(str(getattr(error, "message", error)), print_exception=False) from error
        finally:
            if function.queue:
                self._forget_unread(getattr(options.get("request"), "session_hash", None))
            if state := options.get("state"):  # where Gradio copies every value for links that this page does not have
                for component in (*function.inputs, *function.outputs):
                    state.config_values.pop(component._id, None)

    def _forget_unread(self, session: str | None) -> None:
        """Drop the answers of a session that nobody reads now, and in a while still nobody does; not where another
        event has begun meanwhile, whose answers may be read in a moment."""
        known = set(self._queue.pending_event_ids_session.get(session or "", ()))

        def forget() -> None:
            newer = set(self._queue.pending_event_ids_session.get(session or "", ())) - known
            if not newer and not self.budgets.is_read(session):
                self._queue.pending_messages_per_session.pop(session, None)
                self._queue.pending_event_ids_session.pop(session, None)

        if session and not self.budgets.is_read(session):
            asyncio.get_running_loop().call_later(budgets.UNREAD_S, forget)


def _checked(components: Sequence[Any], values: list[Any]) -> list[Any]:
    """Return the values, those of text fields as text. Raises gr.Error for what a control cannot have."""
    if len(values) != len(components):
        raise gr.Error(f"this event takes {len(components)} values")
    pairs = zip(components, values, strict=True)
    return [_plain(component, value) if isinstance(component, CONTROLS) else value for component, value in pairs]


def _plain(control: Any, value: Any) -> Any:
    is_number = isinstance(value, (int, float)) and abs(value) < MAX_NUMBER  # which NaN is not
    if not (value is None or is_number or isinstance(value, str)):
        raise gr.Error(f"{control.label or 'a control'}: this cannot be its value")
    if isinstance(control, gr.Textbox):
        return "" if value is None else str(value)
    return value
