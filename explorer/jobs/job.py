"""What is stored of a job: its request, how far it is, how it ended, its steps. Loads no torch."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

State = Literal["queued", "running", "cancelling", "finishing", "done", "failed", "interrupted"]
ENDED: tuple[State, ...] = ("done", "failed", "interrupted")
UNREADABLE = "unreadable"  # in place of the method of a job whose row is damaged


def result_name(id: str) -> str:
    """Name the file of a job's result, in the folder of results."""
    return f"{id}.safetensors"


class Job(BaseModel):
    """One job: what was requested, how far it is, how it ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    owner: str
    method: str
    model: str
    settings: dict[str, Any]  # the method's config, all of it
    prompts: tuple[str, ...] = ()
    state: State = "queued"
    created: float
    started: float | None = None  # of the current attempt
    ended: float | None = None
    last_event_at: float | None = None  # when it made its last step
    seconds: float = 0.0  # of earlier attempts
    crashes: int = 0  # since the last step
    done: int = 0
    total: int = 0
    message: str = ""
    error: str | None = None
    result: str | None = None  # name of the file in the folder of results

    @property
    def seed(self) -> int:
        return self.settings.get("seed", 0)

    def running_seconds(self, now: float) -> float:
        """Count the seconds that it has run until `now`, over all attempts."""
        return self.seconds + (max(0.0, now - self.started) if self.started else 0.0)


class JobRow(NamedTuple):
    """What a list shows of a job."""

    id: str
    state: State
    owner: str
    created: float
    method: str
    model: str
    done: int
    total: int


class Event(BaseModel):
    """One step of a job. The cursor grows over all jobs; a repeated step keeps its cursor."""

    model_config = ConfigDict(frozen=True)

    cursor: int
    job: str
    step: int
    at: float
    total: int
    message: str
    metrics: dict[str, float]


def read_job(id: str, state: State, owner: str, created: float, document: str) -> Job:
    """Read a row; one whose document is damaged is a failed job that says so."""
    try:
        return Job.model_validate_json(document)
    except ValidationError:
        error = "what is stored of this job is damaged; it can only be deleted"
        about = dict(id=id, owner=owner, created=created, state="failed", error=error)
        return Job(method=UNREADABLE, model="", settings={}, **about)


def reason_not_to_run(job: Job) -> str:
    """Say why a job of a method that is not known cannot run."""
    return job.error or f"there is no method {job.method!r} here"


def paused(job: Job, now: float) -> dict[str, Any]:
    """Fields of a job whose attempt is over: its seconds are added to those of earlier ones."""
    return {"seconds": job.running_seconds(now), "started": None}


def as_requested(job: Job, outcome: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Fields of a job whose attempt ended, where it was meanwhile requested to pause it, or to finish it early."""
    if job.state == "finishing" and outcome["state"] in ("queued", "interrupted"):
        return to_finish(job)
    if job.state == "cancelling" and outcome["state"] == "queued":
        outcome = dict(outcome) | {"state": "interrupted"}
    return dict(outcome) | ({} if outcome["state"] == "queued" else {"ended": now})


def to_finish(job: Job) -> dict[str, Any]:
    """Fields of a job that is queued for its end alone."""
    settings = job.settings | {"stop_after": job.done}
    return {"state": "queued", "settings": settings, "ended": None, "error": None, "crashes": 0}
