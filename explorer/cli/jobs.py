"""python -m explorer jobs: look at the jobs of a page, request to stop or resume one, run a worker on this machine.

The page owns the job store; it does what is requested here within a second, or when it starts.
"""

import time
from typing import Annotated, Any

import typer

from explorer.cli.options import AsJson, app
from explorer.cli.output import print_message, print_result
from explorer.jobs.job import Job
from explorer.jobs.store import JobStore, jobs_folder
from explorer.settings import settings

jobs = typer.Typer(help="The optimizers that run behind the page.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(jobs, name="jobs")

JobId = Annotated[str, typer.Argument(help="Of a job, as the list shows it.")]


def _open_store() -> JobStore:
    return JobStore(jobs_folder(), owned=False)


def _row(job: Job) -> str:
    steps = f"{job.done}/{job.total}" if job.total else "-"
    seconds = job.running_seconds(time.time())
    return f"{job.id}  {job.state:<11} {steps:>9}  {seconds:>6.0f} s  {job.method} on {job.model}"


def _document(job: Job) -> dict[str, Any]:
    """Return what may be shown of a job: everything except its owner, which is a secret."""
    return job.model_dump(mode="json", exclude={"owner"})


@jobs.command("list")
def list_jobs(as_json: AsJson = False) -> None:
    """All jobs, oldest first."""
    found = _open_store().jobs()
    print_result([_document(job) for job in found], as_json, "\n".join(map(_row, found)) or "no jobs yet")


@jobs.command()
def show(id: JobId, as_json: AsJson = False) -> None:
    """One job and its steps."""
    store = _open_store()
    job, events = store.get(id), store.events(id)
    steps = [f"{event.step:>6}/{event.total}  {event.message}" for event in events]
    document = _document(job) | {"events": [event.model_dump() for event in events]}
    print_result(document, as_json, "\n".join([_row(job), *steps, *([job.error] if job.error else [])]))


@jobs.command()
def cancel(id: JobId, as_json: AsJson = False) -> None:
    """Stop a job at its last step."""
    _open_store().request("cancel", id)
    print_result({"asked": "cancel", "id": id}, as_json, f"requested the page to stop {id}")


@jobs.command()
def finish(id: JobId, as_json: AsJson = False) -> None:
    """End a job of dipgo or ecodiff with the result of its steps so far."""
    from explorer.jobs.manager import check_can_finish

    store = _open_store()
    check_can_finish(store.get(id))
    store.request("finish", id)
    print_result({"asked": "finish", "id": id}, as_json, f"requested the page to finish {id} early")


@jobs.command()
def resume(id: JobId, as_json: AsJson = False) -> None:
    """Continue a job that was stopped or failed, from its last step."""
    _open_store().request("resume", id)
    print_result({"asked": "resume", "id": id}, as_json, f"requested the page to resume {id}")


@jobs.command()
def worker(
    scheduler: Annotated[str | None, typer.Argument(help="Its address; default: EXPLORER_SCHEDULER.")] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of this worker; one per worker is best.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Join a scheduler as a worker, until it is interrupted."""
    from explorer.jobs.executors.dask import run_worker

    address = scheduler or settings().scheduler
    if not address:
        raise ValueError("name the scheduler, as in tls://host:8786, or set EXPLORER_SCHEDULER")
    print_message(f"a worker of {address}; control-C ends it")
    run_worker(address, gpus)
    print_result({"scheduler": address, "ended": True}, as_json, "the worker has ended")
