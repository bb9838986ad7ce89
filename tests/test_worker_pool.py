"""Teams: the same file from any number of workers, whoever is killed; mistakes are sentences, and nobody stays."""

import os
import signal
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pytest

from explorer import catalogue
from explorer.experiment import config_of, prune
from explorer.jobs.executors import LostError
from explorer.jobs.processes import Processes
from explorer.pruners.configs import PUBLISHED
from explorer.team import Alone
from explorer.work import finished
from tests.job_fixtures import alive, gone

PROMPTS = ["dog", "cat", "tree"]
BRED = {"steps": 6, "ratio": 0.6, "pictures": 2, "population": 4, "budget": 10, "brood": 3}
LEARNED = {"steps": 4, "checks": 2, "guidance": 3.0, "granularity": "stage", "iterations": 2, "batch": 3, "share": 1}
MOVED = {"steps": 8, "ratio": 0.6, "pictures": 2, "budget": 6, "brood": 2}
SEARCHES = {
    "breeding": ("genetic", BRED),
    "local search": ("search", MOVED),
    "prefix": ("dipgo", LEARNED),
    "published": ("dipgo", LEARNED | PUBLISHED | {"iterations": 2, "batch": 3, "share": 2}),
}


@pytest.fixture(scope="module")
def model(sd_folder):
    return catalogue.load(sd_folder)


@pytest.fixture(scope="module")
def teams(sd_folder):
    """Of two and three processes."""
    found = {size: Processes(size, str(sd_folder)) for size in (2, 3)}
    yield found
    for team in found.values():
        team.close()


def searched(model, method, settings, team=None):
    return finished(prune(model, method, config_of(method, settings), PROMPTS, team=team))


def arrays(found):
    return [found.keep] if hasattr(found, "keep") else [found.rank, found.score]


def same(one, other):
    return all(map(np.array_equal, arrays(one), arrays(other)))


@pytest.mark.parametrize("name", SEARCHES)
def test_any_number_of_workers_finds_the_same_to_the_last_bit(name, model, teams):
    alone = searched(model, *SEARCHES[name])
    for size in (2, 3) if name == "breeding" else (2,):  # three are started for one search: each takes seconds
        assert same(searched(model, *SEARCHES[name], teams[size]), alone)


@pytest.mark.parametrize("name", ["prefix", "published"])
def test_a_step_in_shares_is_the_step_of_the_whole_batch(name, model):
    method, settings = SEARCHES[name]
    config = config_of(method, settings | {"iterations": 1, "checks": 0})
    steps = [next(prune(model, method, c, PROMPTS)) for c in (config, config.model_copy(update={"share": None}))]
    for step in steps:
        step.numbers.pop("tried", None)
    assert steps[0].numbers == pytest.approx(steps[1].numbers, rel=1e-4, abs=1e-6)
    assert np.allclose(steps[0].state["score"], steps[1].state["score"], atol=1e-4)
    assert steps[0].picture.startswith(b"\x89PNG")


def test_a_brood_keeps_to_the_budget_and_random_search_does_not_depend_on_it(model):
    steps = list(prune(model, "genetic", config_of("genetic", BRED), PROMPTS))
    assert [step.done for step in steps] == list(range(1, 11))
    lot = BRED | {"population": 10}
    assert same(searched(model, "genetic", lot), searched(model, "genetic", lot | {"brood": 1}))


def test_the_settings_say_how_many_find_work_and_more_are_refused():
    from explorer.cli.flags import refuse_idle

    pieces = {name: config_of(method, settings).pieces for name, (method, settings) in SEARCHES.items()}
    assert pieces == {"breeding": 3, "local search": 2, "prefix": 3, "published": 2}
    assert config_of("dipgo", {}).pieces == config_of("genetic", {}).pieces == config_of("taylor", {}).pieces == 1
    refuse_idle(2, 2, "genetic has", "brood")
    with pytest.raises(
        ValueError, match=r"genetic has too little work for 3 workers \(pieces at a time: 2\); see brood"
    ):
        refuse_idle(3, 2, "genetic has", "brood")


def killing(team, times):
    """Kill one process after another, at work."""
    for _ in range(times):
        time.sleep(0.3)
        for pid in team.pids[:1]:
            os.kill(pid, signal.SIGKILL)


def test_a_killed_worker_changes_nothing(model, teams):
    method, settings = SEARCHES["breeding"]
    killer = Thread(target=killing, args=(teams[2], 1))
    killer.start()
    found = searched(model, method, settings | {"budget": 25}, teams[2])
    killer.join()
    assert same(found, searched(model, method, settings | {"budget": 25}))


def test_an_evaluation_has_the_same_rows_and_goes_on(model, teams, tmp_path):
    from explorer.evidence.evaluation import Contender, Full, evaluate, pairs_of

    def rows(name, **options):
        others = [Contender("random", "ddim", 4, mask=searched(model, "random", {"steps": 4, "ratio": 0.5}))]
        others.append(Contender("ddim-steps", "ddim", 2))
        pairs = pairs_of(PROMPTS, 5)
        return evaluate(
            model, Full(steps=4), others, pairs, tmp_path / name, **{"truth_steps": 6, "batch": 2} | options
        )

    def sound(found):
        return found[[name for name in found.columns if "seconds" not in name]]

    alone = sound(finished(rows("alone.parquet")))
    work = rows("shared.parquet", team=teams[2])
    assert [next(work).done for _ in range(4)] == [2, 4, 6, 8]
    work.close()
    with pytest.raises(ValueError, match="workers 2, not 1"):
        finished(rows("shared.parquet", resume=True))
    shared = rows("shared.parquet", team=teams[2], resume=True)
    assert next(shared).done == 8
    pd.testing.assert_frame_equal(sound(finished(shared)), alone)


# What the processes make; of a module, for it goes by name.


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


def test_answers_come_in_the_order_of_the_items_and_mistakes_as_sentences(teams, model):
    crew = teams[3].crew(refusing)
    answers = list(crew([(1,), (0,), (1,)]))
    assert [number for _, number in answers] == [1, 0, 1] and os.getpid() not in dict(answers)
    with pytest.raises(ValueError, match=r"^2 is too many$"):
        list(crew([(0,), (2,), (1,), (3,)]))
    assert len(list(crew([(0,)] * 5))) == 5
    with pytest.raises(ValueError, match=r"^2 is too many$"):
        list(Alone(model).crew(refusing)([(0,), (2,), (1,), (3,)]))


def test_an_item_that_kills_whoever_takes_it_is_given_up(teams):
    with pytest.raises(LostError, match="3 workers in a row"):
        list(teams[2].crew(dying)([()]))


def test_nobody_stays_when_the_answers_are_no_longer_wanted(sd_folder, tmp_path):
    with Processes(2, str(sd_folder)) as team:
        assert team.pids == []
        crew = team.crew(sleeping, str(tmp_path))
        asker = Thread(target=lambda: pytest.raises(LostError, list, crew([(0,), (1,), (2,)])))
        asker.start()
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        pids = team.pids
        assert len(pids) == 2 and all(map(alive, pids))
    assert gone(pids)
