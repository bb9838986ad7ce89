"""Worker pools: the same result from any number of workers, even where one is killed; errors are sentences."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pytest

from explorer.experiment import load_cached, prune
from explorer.jobs.executors.base import WorkerLostError
from explorer.jobs.executors.pools import ProcessPool
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from explorer.pruners.schedule_configs import PUBLISHED
from explorer.pruners.worker_pool import SerialPool
from tests.job_fixtures import all_exited, is_alive

pytestmark = pytest.mark.slow

PROMPTS = ["dog", "cat", "tree"]
GENETIC = {"steps": 6, "ratio": 0.6, "num_images": 2, "population": 4, "budget": 10, "candidates_per_round": 3}
LEARNED = {"steps": 4, "guidance": 3.0, "granularity": "stage", "iterations": 2, "batch": 3, "micro_batch": 1}
LEARNED |= {"validate_every": 2}
SEARCH = {"steps": 8, "ratio": 0.6, "num_images": 2, "budget": 6, "candidates_per_round": 2}
SEARCHES = {
    "genetic": ("genetic", GENETIC),
    "local search": ("search", SEARCH),
    "nested": ("dipgo", LEARNED),
    "published": ("dipgo", LEARNED | PUBLISHED | {"iterations": 2, "batch": 3, "micro_batch": 2}),
}


@pytest.fixture(scope="module")
def model(sd_folder):
    return load_cached(str(sd_folder))


@pytest.fixture(scope="module")
def pools(sd_folder):
    """Make pools of two and three processes."""
    pools = {size: ProcessPool(size, str(sd_folder)) for size in (2, 3)}
    yield pools
    for pool in pools.values():
        pool.close()


def search(model, method, settings, pool=None):
    return run_to_completion(prune(model, method, method_config(method, settings), PROMPTS, pool=pool))


def arrays(found):
    return [found.keep] if hasattr(found, "keep") else [found.rank, found.score]


def is_same(one, other):
    return all(map(np.array_equal, arrays(one), arrays(other)))


@pytest.mark.parametrize("name", SEARCHES)
def test_any_number_of_workers_finds_the_same_to_the_last_bit(name, model, pools):
    alone = search(model, *SEARCHES[name])
    for size in (2, 3) if name == "genetic" else (2,):  # three are started for one search: each takes seconds
        assert is_same(search(model, *SEARCHES[name], pools[size]), alone)


@pytest.mark.parametrize("name", ["nested", "published"])
def test_a_step_in_micro_batches_is_the_step_of_the_whole_batch(name, model):
    method, settings = SEARCHES[name]
    config = method_config(method, settings | {"iterations": 1, "validate_every": 0})
    steps = [next(prune(model, method, c, PROMPTS)) for c in (config, config.model_copy(update={"micro_batch": None}))]
    for step in steps:
        step.metrics.pop("validation", None)
    assert steps[0].metrics == pytest.approx(steps[1].metrics, rel=1e-4, abs=1e-6)
    assert np.allclose(steps[0].state["score"], steps[1].state["score"], atol=1e-4)
    assert steps[0].picture.startswith(b"\x89PNG")


def test_rounds_keep_to_the_budget_and_random_search_does_not_depend_on_them(model):
    steps = list(prune(model, "genetic", method_config("genetic", GENETIC), PROMPTS))
    assert [step.done for step in steps] == list(range(1, 11))
    random = GENETIC | {"population": 10}
    assert is_same(search(model, "genetic", random), search(model, "genetic", random | {"candidates_per_round": 1}))


def test_num_tasks_limits_the_number_of_workers():
    from explorer.cli.options import check_workers

    num_tasks = {name: method_config(method, settings).num_tasks for name, (method, settings) in SEARCHES.items()}
    assert num_tasks == {"genetic": 3, "local search": 2, "nested": 3, "published": 2}
    assert {method_config(name, {}).num_tasks for name in ("dipgo", "genetic", "taylor")} == {1}
    check_workers(2, 2, "genetic has", "candidates_per_round")
    with pytest.raises(ValueError, match=r"genetic has too little work for 3 workers \(tasks at a time: 2\); see"):
        check_workers(3, 2, "genetic has", "candidates_per_round")


def killing(pool, times):
    """Kill one process after another while they work."""
    for _ in range(times):
        time.sleep(0.3)
        for pid in pool.pids[:1]:
            os.kill(pid, signal.SIGKILL)


def test_a_killed_worker_changes_nothing(model, pools):
    method, settings = SEARCHES["genetic"]
    killer = Thread(target=killing, args=(pools[2], 1))
    killer.start()
    found = search(model, method, settings | {"budget": 25}, pools[2])
    killer.join()
    assert is_same(found, search(model, method, settings | {"budget": 25}))


def test_evaluation_with_workers_has_the_same_rows_and_resumes(model, pools, tmp_path):
    from explorer.evaluation.candidates import Candidate, ReferenceRun, make_samples
    from explorer.evaluation.evaluate import evaluate

    def rows(name, **options):
        others = [Candidate("random", "ddim", 4, mask=search(model, "random", {"steps": 4, "ratio": 0.5}))]
        others.append(Candidate("ddim-steps", "ddim", 2))
        pairs = make_samples(PROMPTS, 5)
        return evaluate(
            model, ReferenceRun(steps=4), others, pairs, tmp_path / name, **{"converged_steps": 6, "batch": 2} | options
        )

    def sound(found):
        return found[[name for name in found.columns if "seconds" not in name]]

    alone = sound(run_to_completion(rows("alone.parquet")))
    work = rows("shared.parquet", pool=pools[2])
    assert [next(work).done for _ in range(4)] == [2, 4, 6, 8]
    work.close()
    with pytest.raises(ValueError, match="workers 2, not 1"):
        run_to_completion(rows("shared.parquet", resume=True))
    shared = rows("shared.parquet", pool=pools[2], resume=True)
    assert next(shared).done == 8
    pd.testing.assert_frame_equal(sound(run_to_completion(shared)), alone)


# What the processes run; functions of this module, because they are sent by name.


def refusing(model):
    def answer(number):
        if number > 1:
            raise ValueError(f"{number} is too many")
        return os.getpid(), number

    return answer


def dying(model):
    return lambda: os.kill(os.getpid(), signal.SIGKILL)


def sleeping(model, folder):
    def answer(number):
        (Path(folder) / f"{number}").touch()
        time.sleep(600)

    return answer


def test_answers_come_in_the_order_of_the_items_and_errors_as_sentences(pools, model):
    bind = pools[3].bind(refusing)
    answers = list(bind([(1,), (0,), (1,)]))
    assert [number for _, number in answers] == [1, 0, 1] and os.getpid() not in dict(answers)
    with pytest.raises(ValueError, match=r"^2 is too many$"):
        list(bind([(0,), (2,), (1,), (3,)]))
    assert len(list(bind([(0,)] * 5))) == 5
    with pytest.raises(ValueError, match=r"^2 is too many$"):
        list(SerialPool(model).bind(refusing)([(0,), (2,), (1,), (3,)]))


def test_item_that_kills_every_worker_fails(pools):
    with pytest.raises(WorkerLostError, match="3 workers in a row"):
        list(pools[2].bind(dying)([()]))


def test_workers_end_when_answers_are_no_longer_needed(sd_folder, tmp_path):
    with ProcessPool(2, str(sd_folder)) as pool:
        assert pool.pids == []
        bind = pool.bind(sleeping, str(tmp_path))
        answers = ThreadPoolExecutor(1).submit(lambda: list(bind([(0,), (1,), (2,)])))
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        pids = pool.pids
        assert len(pids) == 2 and all(map(is_alive, pids))
    assert isinstance(answers.exception(60), WorkerLostError)
    assert all_exited(pids)
