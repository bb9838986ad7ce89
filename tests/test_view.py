"""The scripts of the page compared with Python: the same schedule, cascade and cost; and the figure that they build."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from explorer.masks.encoding import decode_bits, encode_bits, encode_floats
from explorer.models import catalogue
from explorer.ui.views.heatmap import SCHEDULE_COLOURS, graph_json, heatmap_style

pytestmark = pytest.mark.browser

if TYPE_CHECKING:
    from tests.page_fixtures import Visitor

ROUNDS, CALLS = 1000, 6
GRAPH = {
    "units": [
        {"name": "down_blocks.0.layers.0", "kind": "stream", "reuse": "output", "macs": 50, "reads": []},
        {"name": "mid_block.layers.0", "kind": "stream", "reuse": "output", "macs": 30, "reads": [0]},
        {"name": "up_blocks.0.layers.0", "kind": "stream", "reuse": "output", "macs": 10, "reads": [1]},
    ],
    "macs_fixed": 10,
}
KEEP = [[1, 1, 1], [0, 0, 1]]  # at call 1, the first unit is dead and the second one reused
TIMESTEPS = [999, 499]


@pytest.fixture(scope="module")
def page(shared_visitor: Visitor):
    """Open the smallest document of the server, from which the scripts can be imported."""
    shared_visitor.page.goto(f"{shared_visitor.served}manifest.json")
    return shared_visitor.page


@pytest.fixture(scope="module")
def graphs():
    model = catalogue.load("sd15", weights=False)
    sizes = [(size, reuse) for size in ("stage", "layer", "module") for reuse in ("output", "residual")]
    return [model.graph(size, reuse) for size, reuse in sizes]


def call_script(page, script: str, code: str, argument: object) -> object:
    """Run `code`, a function of the module and the argument, in the browser."""
    address = f"explorer/static/{script}"
    return page.evaluate(
        f"async ([address, argument]) => ({code})(await import(new URL(address, document.baseURI)), argument)",
        [address, json.loads(json.dumps(argument))],
    )


def figure(page, keep=KEEP, **shown) -> tuple[list, dict]:
    """Build the heatmap's figure in the browser."""
    code = """({ heatmapFigure }, { shown, style }) => {
        for (const name of ["keep", "against"]) if (shown[name]) shown[name] = Uint8Array.from(shown[name].flat());
        return heatmapFigure(shown, style);
    }"""
    shown = {"graph": GRAPH, "keep": keep, "timesteps": TIMESTEPS, "legend": "schedule", "what": "decision"} | shown
    made = call_script(page, "heatmap.js", code, {"shown": shown, "style": heatmap_style()})
    return made["data"], made["layout"]


COMPARED = """(schedule, { graphs, rounds }) => rounds.map(({ graph, keep: bits }) => {
    const closed = schedule.close(graphs[graph], schedule.unpack(bits, 6 * graphs[graph].units.length));
    const { calls, total, kept } = schedule.cost(graphs[graph], closed);
    const { status, sourceCall } = schedule.statusOf(graphs[graph], closed);
    const keep = schedule.pack(closed);
    return { keep, calls: [...calls], total, kept, status: [...status], source: [...sourceCall] };
})"""


def test_page_computes_cascades_and_costs_as_python_does(page, graphs):
    rng, rounds = np.random.default_rng(0), []
    for number in range(ROUNDS):
        index = number % len(graphs)
        keep = rng.random((CALLS, len(graphs[index].units))) < rng.choice([0.05, 0.5, 0.9, 0.98])
        keep[0] = True
        rounds.append((index, keep))
    argument = {
        "graphs": [graph_json(graph) for graph in graphs],
        "rounds": [{"graph": index, "keep": encode_bits(keep)} for index, keep in rounds],
    }
    answers = call_script(page, "schedule.js", COMPARED, argument)
    assert len(answers) == ROUNDS
    for (index, keep), answer in zip(rounds, answers, strict=True):
        graph, closed = graphs[index], graphs[index].close(keep)
        assert np.array_equal(decode_bits(answer["keep"], keep.shape), closed)
        assert answer["calls"] == graph.cost(closed).tolist() and answer["total"] == graph.cost(closed).sum()
        assert answer["kept"] == pytest.approx(graph.cost(closed).sum() / (CALLS * graph.macs_per_call), rel=1e-12)
        status, source = (np.array(answer[name]).reshape(keep.shape) for name in ("status", "source"))
        reused = graph.needed(closed) & closed.any(axis=1, keepdims=True)
        skipped = ~closed.any(axis=1, keepdims=True)
        assert np.array_equal(status, np.where(closed, 0, np.where(skipped, 3, np.where(reused, 1, 2))))
        assert np.array_equal(source, np.maximum.accumulate(np.where(closed, np.arange(CALLS)[:, None], 0), axis=0))


def test_floats_arrive_as_they_were_sent(page):
    sent = np.array([0.1, -3.5, 1e-20, 0.0], dtype=np.float32)
    code = "(schedule, text) => [...schedule.floats(text)]"
    arrived = call_script(page, "schedule.js", code, encode_floats(sent))
    assert np.array_equal(np.array(arrived, dtype=np.float32), sent)


def test_the_heatmap_shows_units_by_calls_and_counts_every_cell_once(page):
    data, layout = figure(page)
    assert data[0]["z"] == [[0, 2], [0, 1], [0, 0]]
    assert layout["yaxis"]["ticktext"] == ["down 0 layers 0", "mid layers 0", "up 0 layers 0"]
    names = ["computed 4", "reused 1", "not needed 1", "call skipped 0"]
    assert [trace["name"] for trace in data[1:5]] == names
    assert layout["paper_bgcolor"] == "rgba(0,0,0,0)"
    calls, units = data[-2:]
    assert calls["y"] == pytest.approx([1, 0.1 + 0.1])  # the unit that runs, and what always does
    assert units["x"] == [0.5, 0.5, 1]
    assert [colour for _, colour in data[0]["colorscale"]] == [colour for colour in SCHEDULE_COLOURS for _ in range(2)]


def test_the_pointer_shows_unit_call_timestep_share_and_status(page):
    hover = figure(page)[0][0]["text"]
    assert hover[1][1] == (
        "<b>mid_block.layers.0</b><br>call 1, timestep 499<br>30.0% of a call's MACs<br>reused from call 0"
    )
    assert hover[0][1].endswith("not needed: nothing that runs reads it")
    assert hover[2][1].endswith("computed")
    data, _ = figure(page, keep=[[1, 1, 1], [0, 0, 0]])
    assert [trace["name"].split()[-1] for trace in data[1:5]] == ["3", "0", "0", "3"]
    assert data[0]["text"][2][1].endswith("call skipped: the estimate of call 0 is reused")
    assert "timestep" not in figure(page, legend="file")[0][0]["text"][0][0]


def test_long_trajectory_has_no_gaps_in_the_heatmap(page):
    calls = 200
    data, layout = figure(page, keep=[[1, 1, 1]] * calls, timesteps=list(range(calls)))
    assert data[0]["xgap"] == 0
    assert layout["xaxis"]["dtick"] == 20


def test_a_removal_order_and_scores_have_a_scale_of_their_own(page):
    values = [1.0, 1.0, 1.0, 0.2, 0.4, 0.6]
    data, layout = figure(page, values=values, what="removal_ratio", ratio=0.4)
    assert data[0]["z"] == [[1, 0.2], [1, 0.4], [1, 0.6]] and (data[0]["zmin"], data[0]["zmax"]) == (0, 1)
    assert layout["annotations"][0]["text"] == "dark goes first, bright last; 40 % of the MACs are gone"
    assert not any(trace["visible"] for trace in data[1:5])
    data, layout = figure(page, values=[value - 3 for value in values], what="score")
    assert (data[0]["zmin"], data[0]["zmax"]) == (-2.8, -2) and "bright high" in layout["annotations"][0]["text"]


def test_two_schedules_are_compared_cell_by_cell(page):
    data, _ = figure(page, against=[[1, 1, 1], [0, 1, 0]], legend="file")
    assert data[0]["z"] == [[0, 3], [0, 2], [0, 1]]
    assert [trace["name"] for trace in data[1:5]] == [
        "both compute 3",
        "only this one 1",
        "only the other 1",
        "neither 1",
    ]
