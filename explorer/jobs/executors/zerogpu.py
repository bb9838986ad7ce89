"""ZeroGPU: a host that lends a GPU to the page's own process, for the time of one drawing.

The function that the host's package `spaces` decorates runs in a fork of this process, where alone there is a GPU. So
the page itself, and the jobs with it, compute on the CPU. https://huggingface.co/docs/hub/spaces-zerogpu
"""

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr
import httpx  # by which spaces asks

from explorer import experiment
from explorer.jobs.executors import QUICK, InProcess, LostError, done_here, handed_out, told

GONE = "the GPU that this host lends was taken back; please try again"
LEASE = 60  # seconds of a quota that a drawing asks for, the default of `spaces`; not tried on a real GPU


def lends() -> bool:
    """Whether this is such a host."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def borrower() -> InProcess:
    """Draws on the GPU that is lent. To be called before the page is launched, and before anything loads PyTorch."""
    import spaces  # the host has it; nobody else needs it

    import explorer.metrics
    import explorer.trajectory  # noqa: F401 -- a fork amid an import, by another thread, would have half a module

    os.environ["EXPLORER_DEVICE"] = "cpu"
    held = experiment.LOADING  # or a fork amid another thread's loading would never see it released
    os.register_at_fork(before=held.acquire, after_in_parent=held.release, after_in_child=held.release)
    on_gpu = spaces.GPU(_told_there, duration=LEASE)

    def done(work: str, arguments: tuple[Any, ...]) -> Iterator[Any]:
        if work in QUICK:
            yield from done_here(work, arguments)
            return
        try:
            yield from handed_out(partial(next, on_gpu(work, arguments), ("crash", GONE)))
        except gr.Error as error:  # no GPU is free, no quota is left, the lease is over
            raise LostError(f"the GPU that this host lends: {error.message}") from error
        except httpx.HTTPError as error:
            raise LostError(f"this host lends no GPU at the moment ({error}); please try again") from error

    return InProcess(done)


def _told_there(work: str, arguments: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """`told`, in the process that has the GPU, which PyTorch finds by itself."""
    os.environ.pop("EXPLORER_DEVICE", None)
    yield from told(work, arguments)
