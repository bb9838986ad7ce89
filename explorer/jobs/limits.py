"""What an operator allows jobs: see the EXPLORER_JOBS_* variables in `settings`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from explorer.jobs.job import JobRow
from explorer.settings import settings


@dataclass(frozen=True)
class Limits:
    """How many jobs there may be, how long they run, how long they are kept."""

    max_concurrent: int = field(default_factory=lambda: settings().jobs_max_concurrent)
    max_per_user: int = field(default_factory=lambda: settings().jobs_max_per_user)
    max_per_address: int = field(default_factory=lambda: settings().jobs_max_per_address)
    max_total: int = field(default_factory=lambda: settings().jobs_max_total)
    max_minutes: float = field(default_factory=lambda: settings().jobs_max_minutes)  # of one attempt
    workers: int = field(default_factory=lambda: settings().jobs_workers)  # processes that share one job
    keep_days: float = field(default_factory=lambda: settings().keep_days)  # after which what ended is deleted

    def check(self, unfinished: Sequence[JobRow], owner: str, addresses: Mapping[str, str], address: str) -> None:
        """Raise ValueError where a visitor, an address (`addresses`: of each job, where it is known) or the page has as
        many unfinished jobs as it may have."""
        own = sum(job.owner == owner for job in unfinished)
        if own >= self.max_per_user:
            raise ValueError(f"you have {own} jobs that are not finished, which is the limit; pause one, or wait")
        beside = sum(addresses.get(job.id) == address for job in unfinished) if address else 0
        if beside >= self.max_per_address:
            raise ValueError(f"your address has {beside} jobs that are not finished, which is the limit; please wait")
        if len(unfinished) >= self.max_total:
            raise ValueError(f"{len(unfinished)} jobs are waiting, which is the limit; please come back later")
