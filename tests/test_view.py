"""The scripts of the page against Python: the same schedule, the same cascade, the same cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from explorer import catalogue
from explorer.letters import floats, packed, unpacked
from explorer.ui import browser

if TYPE_CHECKING:
    from tests.page_fixtures import Visitor

ROUNDS, CALLS = 1000, 6


@pytest.fixture(scope="module")
def graphs():
    model = catalogue.load("sd15", weights=False)
    sizes = [(size, reuse) for size in ("stage", "layer", "module") for reuse in ("output", "residual")]
    return [model.graph(size, reuse) for size, reuse in sizes]


def module(page, script: str, code: str, argument: object) -> object:
    """What `code`, a function of the module and the argument, returns in the browser."""
    address = f"gradio_api/file={browser.VIEW / script}"
    return page.evaluate(
        f"async ([address, argument]) => ({code})(await import(new URL(address, document.baseURI)), argument)",
        [address, argument],
    )


COMPARED = """(schedule, { graphs, rounds }) => rounds.map(({ graph, keep }) => {
    const closed = schedule.close(graphs[graph], schedule.unpack(keep, 6 * graphs[graph].units.length));
    const { calls, total, kept } = schedule.cost(graphs[graph], closed);
    const { fate, source } = schedule.fates(graphs[graph], closed);
    return { keep: schedule.pack(closed), calls: [...calls], total, kept, fate: [...fate], source: [...source] };
})"""


def test_the_page_closes_and_prices_schedules_as_python_does(visitor: Visitor, graphs):
    page = visitor.open().page
    rng, rounds = np.random.default_rng(0), []
    for number in range(ROUNDS):
        index = number % len(graphs)
        keep = rng.random((CALLS, len(graphs[index].units))) < rng.choice([0.05, 0.5, 0.9, 0.98])
        keep[0] = True
        rounds.append((index, keep))
    asked = {
        "graphs": [
            {"units": [unit.model_dump() for unit in graph.units], "macs_fixed": graph.macs_fixed} for graph in graphs
        ],
        "rounds": [{"graph": index, "keep": packed(keep)} for index, keep in rounds],
    }
    answers = module(page, "schedule.js", COMPARED, json.loads(json.dumps(asked)))
    assert len(answers) == ROUNDS
    for (index, keep), found in zip(rounds, answers, strict=True):
        graph, closed = graphs[index], graphs[index].close(keep)
        assert np.array_equal(unpacked(found["keep"], keep.shape), closed)
        assert found["calls"] == graph.cost(closed).tolist() and found["total"] == graph.cost(closed).sum()
        assert found["kept"] == pytest.approx(graph.cost(closed).sum() / (CALLS * graph.macs_per_call), rel=1e-12)
        fate, source = np.array(found["fate"]).reshape(keep.shape), np.array(found["source"]).reshape(keep.shape)
        reused = graph.demanded(closed) & closed.any(axis=1, keepdims=True)
        skipped = ~closed.any(axis=1, keepdims=True)
        assert np.array_equal(fate, np.where(closed, 0, np.where(skipped, 3, np.where(reused, 1, 2))))
        assert np.array_equal(source, np.maximum.accumulate(np.where(closed, np.arange(CALLS)[:, None], 0), axis=0))


def test_floats_arrive_as_they_were_sent(visitor: Visitor):
    sent = np.array([0.1, -3.5, 1e-20, 0.0], dtype=np.float32)
    arrived = module(visitor.open().page, "schedule.js", "(schedule, text) => [...schedule.floats(text)]", floats(sent))
    assert np.array_equal(np.array(arrived, dtype=np.float32), sent)
