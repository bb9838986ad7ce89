"""Runs of visitors: tasks that an executor runs for them, within the budget of their address."""

from collections.abc import Iterator
from functools import partial
from threading import Timer
from typing import Any
from uuid import uuid4

import gradio as gr

from explorer.jobs import tasks
from explorer.jobs.executors.base import SHORT_TASKS, Executor, RunTask, Task, WorkerLostError
from explorer.ui import budgets
from explorer.ui.budgets import ENDING, Budgets
from explorer.ui.components import INSTANT


class VisitorRuns:
    """Runs the tasks of visitors. A visitor has one run of a task at a time on each tab: the newest one ends the one
    before."""

    def __init__(self, executor: Executor, counts: Budgets):
        self._executor, self._budgets = executor, counts

    def of(self, request: gr.Request, tab: str = "") -> RunTask:
        """Make what runs tasks for a visitor of a tab: `run(task, *arguments)` yields the items.

        Raises BudgetError where the address has too many runs that generate pictures, and what `Executor.run` raises.
        """
        return partial(self._run, request, _owner(request, tab))

    def alone(self, request: gr.Request) -> RunTask:
        """Make what runs tasks beside others of the same visitor."""
        return partial(self._run, request, uuid4().hex)

    def stop(self, request: gr.Request, tab: str = "") -> None:
        """End the runs of a visitor of a tab."""
        self._executor.stop(_owner(request, tab))

    def connect_stop(self, button: gr.Button, generating: Any) -> None:
        """Let a button end what its visitor generates on Explore or Width pruning; it rests once nothing is."""

        def on_stop(request: gr.Request) -> dict:
            self.stop(request)
            return gr.update(interactive=False)

        def on_end(request: gr.Request) -> dict:
            return gr.update(interactive=self.is_busy(request, tasks.compare))

        generating.then(on_end, None, button, **INSTANT)
        button.click(on_stop, None, button, cancels=[generating], **INSTANT)

    def count_change(self, request: gr.Request) -> None:
        """Count what costs seconds and shows nothing. Raises BudgetError for too many of an address within a minute."""
        self._budgets.count_change(self._budgets.address_of(request))

    def under_way(self) -> int:
        """Count the runs of all visitors that generate pictures or wait for it."""
        return self._budgets.num_pictures()

    def is_busy(self, request: gr.Request, task: Task, tab: str = "") -> bool:
        """Tell whether a visitor of a tab has such a run."""
        return self._executor.is_busy(_owner(request, tab), task)

    def _run(self, request: gr.Request, owner: str, task: Task, *arguments: Any) -> Iterator[Any]:
        if self._budgets.is_ending:
            raise ValueError(ENDING)
        address = self._budgets.address_of(request)
        items = self._executor.run(owner, task, *arguments, address=address)
        try:
            if task.__name__ in SHORT_TASKS:
                yield from items
            else:
                yield from self._counted(request, owner, address, items)
        except WorkerLostError as error:
            raise ValueError(ENDING if self._budgets.is_ending else f"{error}") from error

    def _counted(self, request: gr.Request, owner: str, address: str, items: Iterator[Any]) -> Iterator[Any]:
        with self._budgets.picture(address):
            timer = Timer(budgets.UNREAD_S, self._end_unread, (request.session_hash, owner))
            timer.daemon = True
            timer.start()
            try:
                yield from items
            finally:
                timer.cancel()

    def _end_unread(self, session: str | None, owner: str) -> None:
        if not self._budgets.is_read(session):
            self._executor.stop(owner)


def _owner(request: gr.Request, tab: str) -> str:
    return f"{request.session_hash}-{tab}"
