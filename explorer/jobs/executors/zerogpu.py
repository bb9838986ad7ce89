"""ZeroGPU: a host that gives the page's own process a GPU for the time of one run.

The function that the host's package `spaces` decorates runs in a fork of this process, where alone there is a GPU. So
the page itself, and the jobs with it, compute on the CPU. https://huggingface.co/docs/hub/spaces-zerogpu
"""

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx  # by which spaces asks for a GPU

from explorer.experiment import MODEL_LOCK
from explorer.jobs.executors.base import SHORT_TASKS, Message, Task, WorkerLostError, from_messages, to_messages
from explorer.jobs.executors.inline import InlineExecutor, run_here
from explorer.models.catalogue import override_device

TAKEN_BACK = "the GPU that this host lends was taken back; please try again"
GPU_SECONDS = 60  # of a quota that a run asks for, the default of `spaces`; not tried on a real GPU


def on_zerogpu() -> bool:
    """Say whether this is such a host."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def zerogpu_executor(host_error: type[Exception]) -> InlineExecutor:
    """Make an executor that runs tasks on the GPU of a ZeroGPU host.

    host_error: what `spaces` raises where no GPU is free, no quota is left or the time is over (gradio's Error). To be
    called before the page is launched, and before anything loads PyTorch.
    """
    import spaces  # the host has it; nothing else needs it

    import explorer.measures.metrics
    import explorer.sampling.rollout  # noqa: F401 -- a fork during an import by another thread would have half a module

    override_device("cpu")
    lock = MODEL_LOCK  # or a fork while another thread loads a model would never see it released
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    run_on_gpu = spaces.GPU(_run_in_fork, duration=GPU_SECONDS)

    def run_task(task: Task, arguments: tuple[Any, ...]) -> Iterator[Any]:
        if task.__name__ in SHORT_TASKS:
            yield from run_here(task, arguments)
            return
        lost: Message = ("worker_lost", TAKEN_BACK)
        try:
            yield from from_messages(partial(next, run_on_gpu(task, arguments), lost))
        except host_error as error:
            message = getattr(error, "message", f"{error}")
            raise WorkerLostError(f"the GPU that this host lends: {message}") from error
        except httpx.HTTPError as error:
            raise WorkerLostError(f"this host lends no GPU at present ({error}); please try again") from error

    return InlineExecutor(run_task)


def _run_in_fork(task: Task, arguments: tuple[Any, ...]) -> Iterator[Message]:
    """Run a task in the process that has the GPU, which PyTorch finds by itself."""
    override_device("")
    yield from to_messages(task, arguments)
