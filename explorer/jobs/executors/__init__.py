"""Where tasks run: in the caller's thread, in one process, in processes of their own, on a ZeroGPU
host, or on a cluster."""

from explorer.jobs.executors.base import Executor
from explorer.jobs.executors.own_process import OwnProcessExecutor
from explorer.settings import settings


def make_job_executor(device: str = "") -> Executor:
    """Make the executor of jobs: the workers of EXPLORER_SCHEDULER, or else processes of this machine.

    Raises ValueError for an address beyond this machine that is not encrypted.
    """
    if not settings().scheduler:
        return OwnProcessExecutor(device=device)
    from explorer.jobs.executors.dask import DaskExecutor  # here, because most pages need no cluster

    return DaskExecutor(settings().scheduler)
