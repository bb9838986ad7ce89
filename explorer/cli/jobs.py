"""python -m explorer jobs: look at the jobs of a page, ask it to stop or resume one, lend it this machine.

The page owns the ledger of jobs; what is asked for here it does within a second, or when it starts.
"""

import os
import time
from typing import Annotated

import typer

from explorer.cli.flags import AsJson, app, progress, say
from explorer.jobs import ledger
from explorer.jobs.ledger import Job, Ledger

jobs = typer.Typer(help="The optimizers that run behind the page.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(jobs, name="jobs")

Id = Annotated[str, typer.Argument(help="Of a job, as the list gives it.")]


def _there() -> Ledger:
    return Ledger(ledger.folder(), owned=False)


def _row(job: Job) -> str:
    left = f"{job.done}/{job.total}" if job.total else "-"
    return f"{job.id}  {job.state:<11} {left:>9}  {job.ran(time.time()):>6.0f} s  {job.method} on {job.model}"


def _shown(job: Job) -> dict:
    """What may be shown of a job: everything but whose it is, which is a secret."""
    return job.model_dump(mode="json", exclude={"owner"})


@jobs.command("list")
def list_jobs(as_json: AsJson = False) -> None:
    """All jobs, oldest first."""
    found = _there().jobs()
    say([_shown(job) for job in found], as_json, "\n".join(map(_row, found)) or "no jobs yet")


@jobs.command()
def show(id: Id, as_json: AsJson = False) -> None:
    """One job and what it told."""
    there = _there()
    job, events = there.get(id), there.events(id)
    said = [f"{event.step:>6}/{event.total}  {event.message}" for event in events]
    document = _shown(job) | {"events": [event.model_dump() for event in events]}
    say(document, as_json, "\n".join([_row(job), *said, *([job.error] if job.error else [])]))


@jobs.command()
def cancel(id: Id, as_json: AsJson = False) -> None:
    """Stop a job at its last step."""
    _there().ask("cancel", id)
    say({"asked": "cancel", "id": id}, as_json, f"asked the page to stop {id}")


@jobs.command()
def finish(id: Id, as_json: AsJson = False) -> None:
    """Stop a job of dipgo or ecodiff, and take what its steps have found so far."""
    from explorer.jobs.foreman import refuse_to_finish

    there = _there()
    refuse_to_finish(there.get(id))
    there.ask("finish", id)
    say({"asked": "finish", "id": id}, as_json, f"asked the page to take what {id} has found")


@jobs.command()
def resume(id: Id, as_json: AsJson = False) -> None:
    """Go on with a job that was stopped or failed, from its last step."""
    _there().ask("resume", id)
    say({"asked": "resume", "id": id}, as_json, f"asked the page to go on with {id}")


@jobs.command()
def work(
    scheduler: Annotated[str | None, typer.Argument(help="Its address; default: EXPLORER_SCHEDULER.")] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs that this worker lends; one a worker is best.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Join a scheduler as a worker, until it is interrupted."""
    from explorer.jobs.cluster import lend

    address = scheduler or os.environ.get("EXPLORER_SCHEDULER")
    if not address:
        raise ValueError("name the scheduler, as in tls://host:8786, or set EXPLORER_SCHEDULER")
    progress(f"a worker of {address}; control-C ends it")
    lend(address, gpus)
    say({"scheduler": address, "ended": True}, as_json, "the worker has ended")
