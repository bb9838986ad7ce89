"""What is shown of a job: in words, as curves and gates, in a list. Only what is new goes to the browser."""

import time
from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache
from html import escape
from typing import Any
from uuid import uuid4

import numpy as np
from safetensors.numpy import load

from explorer.experiment import Question
from explorer.figures.style import short
from explorer.jobs.estimates import duration
from explorer.jobs.executors import Executor
from explorer.jobs.foreman import Foreman
from explorer.jobs.ledger import ENDED, Event, Job
from explorer.pruners.configs import CONFIGS, WIDTHS
from explorer.ui.components import alert, user_errors

MOST = 50  # jobs in the list
STATES = ("all", "mine", "at work")


class Watch:
    """Looks at the jobs of a foreman; `executor` says what the units of a model are called."""

    def __init__(self, foreman: Foreman, executor: Executor):
        self.foreman, self.ledger, self._executor = foreman, foreman.ledger, executor
        self._units = lru_cache(maxsize=32)(self._asked_units)

    def news(self, job: Job, events: list[Event], fresh: bool) -> dict[str, Any]:
        """For the view: words, and what is new; everything from the first step on if `fresh`."""
        value = {"fresh": fresh, "state": job.state, "said": self.said(job), "gates": None, "picture": None}
        value["events"] = [[event.step, event.numbers] for event in events]
        if events:
            state, picture = self.ledger.checkpoint(job.id)
            value["picture"] = picture and f"data:image/png;base64,{b64encode(picture).decode()}"
            value["gates"] = self._gates(job, state)
        return value

    def _gates(self, job: Job, state: bytes | None) -> dict[str, Any] | None:
        """The place of each unit at each call in the order of the moment, as bytes, call by call; the last to go is
        255. None for what learns something else."""
        score = load(state).get("score") if state else None
        if score is None or score.ndim != 2:
            return None
        place = score.argsort(axis=None, kind="stable").argsort().reshape(score.shape)
        place[0] = score.size - 1  # call 0 always runs
        shades = (255 * place / max(1, score.size - 1)).astype(np.uint8)
        names = [short(name) for name in self._units(job.model, job.settings["granularity"], job.settings["reuse"])]
        return {"names": names, "calls": len(score), "bytes": b64encode(shades.tobytes()).decode()}

    def _asked_units(self, model: str, granularity: str, reuse: str) -> list[str]:
        question = Question(model=model, prompt="-", settings={"granularity": granularity, "reuse": reuse})
        return list(next(self._executor.run(uuid4().hex, "plan", question)).units)

    def said(self, job: Job) -> str:
        """What it is, where it stands, how long it will take, as markup."""
        now, place = time.time(), self.ledger.place(job.id)
        state = {"queued": f"waiting, {place} before it" if place else "next in the queue"}.get(job.state, job.state)
        calls, of = self.foreman.beats.get(job.id, (0, 0)) if job.done < job.total or not job.total else (0, 0)
        share = min(calls / of, 0.99) if of else 0.0
        step = f"step {job.done} of {job.total}" if job.total else "its first step" if calls else "not begun"
        step += f" and {share:.0%} of the next" if of else f", {calls} calls of the network into it" if calls else ""
        line = f"<b>{state}</b>, {step}, {duration(job.ran(now))}{self._left(job, now)}"
        return (
            f"<h3>{escape(job.method)} on {escape(job.model)}</h3><p role='status'>{line}</p>"
            f'<progress max="1" value="{(job.done + share) / max(1, job.total):.4f}" aria-label="progress"></progress>'
            f"<p class='footer'>{escape(changed(job))}. {escape(job.message)}</p>"
            f"{alert([job.error] if job.error else [])}"
        )

    @staticmethod
    def _left(job: Job, now: float) -> str:
        if job.state != "running" or not job.done:
            return ""
        return f", about {duration(job.ran(now) / job.done * (job.total - job.done))} left"

    def works(self, id: str) -> bool:
        """Whether a job is not over yet."""
        with user_errors():
            return self.ledger.get(id).state not in ENDED
        return False

    def rows(self, owner: str, which: str) -> list[dict[str, Any]]:
        """The list, newest first."""
        found = self.ledger.jobs(owner=owner) if which == "mine" else self.ledger.jobs()
        kept = [job for job in reversed(found) if which != "at work" or job.state not in ENDED]
        return [self._row(job, owner) for job in kept[:MOST]]

    @staticmethod
    def _row(job: Job, owner: str) -> dict[str, Any]:
        when = time.strftime("%d %b, %H:%M", time.localtime(job.created))
        share = f"{100 * job.done / max(1, job.total):.0f}%"
        what = f"{job.method} on {job.model}"
        return {"id": job.id, "cells": [what, job.state, share, when, "yours" if job.owner == owner else ""]}


def changed(job: Job) -> str:
    """The settings that are not at their defaults."""
    fields = (CONFIGS | WIDTHS)[job.method].model_fields
    own = {name: value for name, value in job.settings.items() if name in fields and value != fields[name].default}
    return ", ".join(f"{name} {value}" for name, value in own.items()) or "all settings at their defaults"


def settings_of(keys: tuple[str, ...], given: tuple[Any, ...]) -> Mapping[str, Any]:
    """What the controls ask for; what is left empty keeps its default."""
    return {key.partition(".")[2]: value for key, value in zip(keys, given, strict=True) if value not in (None, "")}
