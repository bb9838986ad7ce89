"""What is shown of a job: in words, as curves and gates, in a list. Only what is new is sent to the browser."""

import time
from base64 import b64encode
from functools import lru_cache
from html import escape
from typing import Any
from uuid import uuid4

import numpy as np
from safetensors.numpy import load

from explorer.experiment import ExperimentRequest
from explorer.figures.style import plain_name
from explorer.jobs import tasks
from explorer.jobs.estimates import format_duration
from explorer.jobs.executors.base import Executor
from explorer.jobs.job import ENDED, UNREADABLE, Event, Job, JobRow
from explorer.jobs.manager import ACTIVE, JobManager
from explorer.pruners import PRUNERS, method_title
from explorer.ui.budgets import ENDING
from explorer.ui.components import alert, user_errors
from explorer.ui.markup import data_url, percent

MAX_ROWS = 50
FILTERS = ("all", "mine", "unfinished")
UNFINISHED = ("queued", *ACTIVE)


STATE_WORDS = {"queued": "waiting", "cancelling": "pausing", "interrupted": "paused"}  # others are called as they are


class JobView:
    """Shows the jobs of a job manager; `executor` finds the names of a model's units."""

    def __init__(self, job_manager: JobManager, executor: Executor):
        self.job_manager, self.store, self._executor = job_manager, job_manager.store, executor
        self._unit_names = lru_cache(maxsize=32)(self._find_unit_names)

    def update(self, job: Job, events: list[Event], fresh: bool) -> dict[str, Any]:
        """Make the value of the view: the description, and what is new; all steps if `fresh`."""
        new = [[event.step, event.metrics] for event in events]
        value: dict[str, Any] = {"fresh": fresh, "state": job.state, "description": self.describe(job), "events": new}
        value |= {"gates": None, "picture": None}
        if events:
            state, picture = self.store.checkpoint(job.id)
            value["picture"] = picture and data_url(picture)
            value["gates"] = self._gates(job, state)
        return value

    def _gates(self, job: Job, state: bytes | None) -> dict[str, Any] | None:
        """Encode the place of each unit at each call in the current removal order, call by call; the last one is 255.

        None for a method that learns something else.
        """
        score = load(state).get("score") if state else None
        if score is None or score.ndim != 2:
            return None
        place = score.argsort(axis=None, kind="stable").argsort().reshape(score.shape)
        place[0] = score.size - 1  # call 0 always runs
        shades = (255 * place / max(1, score.size - 1)).astype(np.uint8)
        names = self._unit_names(job.model, job.settings["granularity"], job.settings["reuse"])
        encoded = b64encode(shades.tobytes()).decode()
        return {"names": [plain_name(name) for name in names], "calls": len(score), "bytes": encoded}

    def _find_unit_names(self, model: str, granularity: str, reuse: str) -> tuple[str, ...]:
        request = ExperimentRequest(model=model, prompt="-", settings={"granularity": granularity, "reuse": reuse})
        for plan in self._executor.run(uuid4().hex, tasks.plan, request):
            return plan.units
        raise ValueError(ENDING)  # the page closed its processes

    def describe(self, job: Job) -> str:
        """Describe what a job is, how far it is, and how long it will take, as markup."""
        before = self.store.queue_position(job.id)
        queued = f"waiting, {before} before it" if before else "next in the queue"
        state = queued if job.state == "queued" else STATE_WORDS.get(job.state, job.state)
        step, within_step = self._progress(job)
        done = 1.0 if job.state == "done" else (job.done + within_step) / max(1, job.total)
        now = time.time()
        line = f"<b>{state}</b>, {step}, {format_duration(job.running_seconds(now))}{self._time_left(job, now)}"
        return (
            f"<h3>{escape(method_title(job.method))} on {escape(job.model)}</h3><p role='status'>{line}</p>"
            f'<progress max="1" value="{done:.4f}" aria-label="progress"></progress>'
            f"<p class='footer'>{escape(changed_settings(job))}. {escape(job.message)}</p>"
            f"{alert([job.error] if job.error else [])}"
        )

    def _progress(self, job: Job) -> tuple[str, float]:
        """Say how far a job is, and find which share of its next step it has made."""
        unfinished = job.done < job.total or not job.total
        calls, of = self.job_manager.heartbeats.get(job.id, (0, 0)) if unfinished else (0, 0)
        share = min(calls / of, 0.99) if of else 0.0
        early = "finished early at " if job.state == "done" and unfinished else ""
        step = f"{early}step {job.done} of {job.total}" if job.total else "its first step" if calls else "not begun"
        begun = f", {calls} calls of the network into it" if calls else ""
        within = f" and {percent(share, 0)} of the next" if of else begun
        return step + within, share

    @staticmethod
    def _time_left(job: Job, now: float) -> str:
        if job.state != "running" or not job.done:
            return ""
        return f", about {format_duration(job.running_seconds(now) / job.done * (job.total - job.done))} left"

    def is_active(self, id: str) -> bool:
        """Tell whether a job has not ended yet."""
        with user_errors():
            return self.store.get(id).state not in ENDED
        return False

    def rows(self, owner: str, which: str) -> list[dict[str, Any]]:
        """List jobs, newest first; `which` is one of FILTERS. One row says why a store cannot be read now."""
        states = UNFINISHED if which == "unfinished" else ()
        with user_errors() as sentences:
            listed = self.store.list_rows(*states, owner=owner if which == "mine" else None, limit=MAX_ROWS)
            return [_row(row, owner) for row in listed]
        return [{"id": "", "cells": [sentences[0], "", "", "", ""]}]


def _row(row: JobRow, owner: str) -> dict[str, Any]:
    begun = time.strftime("%d %b, %H:%M", time.localtime(row.created))
    share = 1.0 if row.state == "done" else (row.done or 0) / max(1, row.total or 1)
    name = f"{method_title(row.method) if row.method else UNREADABLE} on {row.model or 'no model'}"
    return {
        "id": row.id,
        "cells": [
            name,
            STATE_WORDS.get(row.state, row.state),
            percent(share, 0),
            begun,
            "yours" if row.owner == owner else "",
        ],
    }


def changed_settings(job: Job) -> str:
    """List the settings that are not at their defaults."""
    fields = PRUNERS[job.method].config.model_fields if job.method in PRUNERS else {}
    changed = {name: value for name, value in job.settings.items() if name in fields and value != fields[name].default}
    return ", ".join(f"{name} {value}" for name, value in changed.items()) or "all settings at their defaults"
