"""Seconds of one search with 1 and with 2 workers, A B A B: genetic by broods, DiP-GO by shares of a batch.

Run by hand: python tests/bench/team.py [model] [rounds] [workers]. They are processes of this machine, of one thread
each, or the workers of EXPLORER_SCHEDULER, whose cores are not seen from here. Both teams have their models loaded
before. Says the medians, the ratio of every pair, how many cores the processes really had,
and whether all found the same to the last bit.
"""

import os
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["OMP_NUM_THREADS"] = "1"

import psutil

from explorer import experiment
from explorer.experiment import config_of, prune
from explorer.jobs.processes import Machines, Processes
from explorer.work import finished

SEARCHES = {
    "genetic": {"steps": 10, "ratio": 0.5, "pictures": 4, "population": 8, "budget": 24, "brood": 8},
    "dipgo": {"steps": 10, "iterations": 4, "batch": 8, "share": 1, "checks": 0},
}
WARM = {"genetic": {"budget": 8}, "dipgo": {"iterations": 1}}


def team_of(size: int, model_id: str) -> Machines | Processes:
    address = os.environ.get("EXPLORER_SCHEDULER")
    return Machines(size, address, model_id) if address else Processes(size, model_id)


def computed(team: Machines | Processes) -> float:
    """Seconds of a core that the processes have had so far, if they are this machine's."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in getattr(team, "pids", ()))


def main(model_id: str = "emoji-dit", rounds: str = "3", workers: str = "2") -> None:
    model, sizes = experiment.loaded(model_id), (1, int(workers))
    teams = {size: team_of(size, model_id) for size in sizes}
    try:
        for method, settings in SEARCHES.items():
            config, found = config_of(method, settings), set()
            seconds, cores = ({size: [] for size in sizes} for _ in range(2))
            for team in teams.values():  # warm up
                finished(prune(model, method, config_of(method, settings | WARM[method]), team=team))
            for _ in range(int(rounds)):
                for size, team in teams.items():
                    started, before = time.perf_counter(), computed(team)
                    result = finished(prune(model, method, config, team=team))
                    seconds[size].append(time.perf_counter() - started)
                    cores[size].append((computed(team) - before) / seconds[size][-1])
                    found.add((result.keep if method == "genetic" else result.score).tobytes())
            ratios = [one / more for one, more in zip(*seconds.values(), strict=True)]
            said = ", ".join(
                f"{size}: {median(taken):.1f} s on {median(cores[size]):.2f} cores" for size, taken in seconds.items()
            )
            print(
                f"{method}, workers {said} (n = {rounds}): {median(ratios):.2f} times as fast "
                f"({min(ratios):.2f} .. {max(ratios):.2f}), ideal {sizes[1]:.2f}; "
                f"{'the same' if len(found) == 1 else 'NOT the same'} result, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    finally:
        for team in teams.values():
            team.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
