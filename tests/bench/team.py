"""Seconds of one search with 1 and with 2 workers, A B A B: genetic by its rounds, DiP-GO by parts of a batch.

Run by hand: python tests/bench/team.py [model] [rounds] [workers]. The workers are processes of this machine, with one
thread each, or those of EXPLORER_SCHEDULER, whose cores cannot be measured from here. Both pools have loaded their
models before. Prints the medians, the ratio of every pair, how many cores the processes really had, and whether all
results are the same to the last bit.
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
from explorer.experiment import prune
from explorer.jobs.executors.pools import DaskPool, ProcessPool
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from explorer.settings import settings

GENETIC = {"num_images": 4, "population": 8, "budget": 24, "candidates_per_round": 8}
SEARCHES = {
    "genetic": {"steps": 10, "ratio": 0.5} | GENETIC,
    "dipgo": {"steps": 10, "iterations": 4, "batch": 8, "micro_batch": 1, "validate_every": 0},
}
WARM_UP = {"genetic": {"budget": 8}, "dipgo": {"iterations": 1}}


def make_pool(size: int, model_id: str) -> DaskPool | ProcessPool:
    address = settings().scheduler
    return DaskPool(size, address, model_id) if address else ProcessPool(size, model_id)


def cpu_seconds(pool: DaskPool | ProcessPool) -> float:
    """Add up the CPU time that the processes have had so far, if they are this machine's."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in getattr(pool, "pids", ()))


def main(model_id: str = "emoji-dit", rounds: str = "3", workers: str = "2") -> None:
    model, sizes = experiment.load_cached(model_id), (1, int(workers))
    pools = {size: make_pool(size, model_id) for size in sizes}
    try:
        for method, own in SEARCHES.items():
            config, results = method_config(method, own), set()
            seconds, cores = ({size: [] for size in sizes} for _ in range(2))
            for pool in pools.values():  # warm up
                run_to_completion(prune(model, method, method_config(method, own | WARM_UP[method]), pool=pool))
            for _ in range(int(rounds)):
                for size, pool in pools.items():
                    started, before = time.perf_counter(), cpu_seconds(pool)
                    result = run_to_completion(prune(model, method, config, pool=pool))
                    seconds[size].append(time.perf_counter() - started)
                    cores[size].append((cpu_seconds(pool) - before) / seconds[size][-1])
                    results.add((result.keep if method == "genetic" else result.score).tobytes())
            ratios = [one / more for one, more in zip(*seconds.values(), strict=True)]
            summary = ", ".join(
                f"{size}: {median(taken):.1f} s on {median(cores[size]):.2f} cores" for size, taken in seconds.items()
            )
            print(
                f"{method}, workers {summary} (n = {rounds}): {median(ratios):.2f} times as fast "
                f"({min(ratios):.2f} .. {max(ratios):.2f}), ideal {sizes[1]:.2f}; "
                f"{'the same' if len(results) == 1 else 'NOT the same'} result, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    finally:
        for pool in pools.values():
            pool.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
