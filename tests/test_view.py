"""The scripts of the page compared with Python: the same schedule, cascade and cost; and the map that they draw."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from explorer.masks.encoding import decode_bits, encode_bits, encode_floats
from explorer.models import catalogue
from explorer.ui.views.heatmap import graph_json, heatmap_style

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


def map_of(page, keep=KEEP, **shown) -> dict:
    """Build what the map shows, in the browser; with the sentence of each cell, calls by units."""
    code = """({ mapOf, callsWith }, { shown, style }) => {
        for (const name of ["keep", "against"]) if (shown[name]) shown[name] = Uint8Array.from(shown[name].flat());
        const map = mapOf(shown, style);
        const cells = (of) => map.timesteps.map((_, call) => map.units.map((_, unit) => of(call, unit)));
        const at = (call, unit) => call * map.units.length + unit;
        return {
            ...map, describe: undefined, sentences: cells(map.describe),
            status: cells((call, unit) => map.status[at(call, unit)]),
            scale: map.scale && { ...map.scale, at: cells((call, unit) => map.scale.at(at(call, unit))) },
            computed: map.units.map((_, unit) => callsWith(map, unit, 0)),
        };
    }"""
    shown = {"graph": GRAPH, "keep": keep, "timesteps": TIMESTEPS, "legend": "schedule", "what": "decision"} | shown
    return call_script(page, "mapModel.js", code, {"shown": shown, "style": heatmap_style()})


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


def legend_of(shown: dict) -> list[tuple[str, int]]:
    return [(kind["name"].split(" (")[0], kind["count"]) for kind in shown["legend"]]


def test_the_map_shows_calls_by_units_and_counts_every_cell_once(page):
    shown = map_of(page)
    assert shown["status"] == [[0, 0, 0], [2, 1, 0]]
    assert legend_of(shown) == [("computed", 4), ("reused", 1), ("not needed", 1), ("call skipped", 0)]
    assert shown["callShares"] == pytest.approx([1, 0.1 + 0.1])  # the unit that runs, and what always does
    assert shown["unitShares"] == [0.5, 0.5, 1]
    looks = [kind["look"] for kind in shown["legend"]]
    assert len({*looks}) == 4  # told apart without their colours
    assert shown["computed"] == ["0", "0", "0 to 1"]


def test_the_pointer_shows_unit_call_timestep_share_and_status(page):
    sentences = map_of(page)["sentences"]
    assert sentences[1][1] == ("mid_block.layers.0\ncall 1, timestep 499\n30.0 % of a call's MACs\nreused from call 0")
    assert sentences[1][0].endswith("not needed: nothing that runs reads it")
    assert sentences[1][2].endswith("computed")
    skipped = map_of(page, keep=[[1, 1, 1], [0, 0, 0]])
    assert [count for _, count in legend_of(skipped)] == [3, 0, 0, 3]
    assert skipped["sentences"][1][2].endswith("call skipped: the estimate of call 0 is reused")
    assert "timestep" not in map_of(page, legend="file")["sentences"][0][0]


def test_a_removal_order_and_an_importance_have_a_scale_of_their_own(page):
    values = [1.0, 1.0, 1.0, 0.2, 0.4, 0.6]
    scale = map_of(page, values=values, what="removal_ratio", ratio=0.4)["scale"]
    assert scale["at"] == [[1, 1, 1], [0.2, 0.4, 0.6]] and scale["mark"] == 0.4
    assert scale["ends"] == ["goes first", "stays longest"] and scale["note"] == "40 % of the MACs are gone"
    scale = map_of(page, values=[value - 3 for value in values], what="score")["scale"]
    assert scale["at"][1] == pytest.approx([0, 0.25, 0.5]) and scale["ends"] == ["unimportant", "important"]


def test_two_schedules_are_compared_cell_by_cell(page):
    shown = map_of(page, against=[[1, 1, 1], [0, 1, 0]], legend="file")
    assert shown["status"] == [[0, 0, 0], [3, 2, 1]]
    assert legend_of(shown) == [("both compute", 3), ("only this one", 1), ("only the other", 1), ("neither", 1)]


PLACED = """({ placesOf, hitTest }, { names, calls, width }) => {
    const map = { units: names.map((name) => ({ name })), timesteps: Array.from({ length: calls }) };
    const places = placesOf(map, width);
    const { left, cell, tops, rowHeight } = places;
    const at = (call, unit) => hitTest(places, left + (call + 0.5) * cell, tops[unit] + rowHeight / 2);
    const cells = names.flatMap((_, unit) => [0, calls - 1].map((call) => [call, unit, at(call, unit)]));
    const outside = [hitTest(places, 2, 2), hitTest(places, width - 1, places.height - 1)];
    return { places, cells, outside, name: hitTest(places, 30, tops[1] + 1), bar: hitTest(places, left + cell / 2, 5) };
}"""


@pytest.mark.parametrize(("calls", "width"), [(4, 1200), (50, 480), (250, 343)])
def test_each_point_of_the_map_is_its_cell_bar_or_layer(page, calls, width):
    names = [*(f"down_blocks.{stage}.layers.{n}" for stage in range(2) for n in range(2)), "mid_block.layers.0"]
    made = call_script(page, "mapDrawing.js", PLACED, {"names": names, "calls": calls, "width": width})
    for call, unit, hit in made["cells"]:
        assert hit == {"call": call, "unit": unit}
    assert made["outside"] == [None, None] and made["bar"] == {"call": 0}
    assert made["name"] == {"unit": 1, "isName": True}
    tops, height = made["places"]["tops"], made["places"]["rowHeight"]
    assert tops[1] - tops[0] == height and tops[2] - tops[1] > height  # a gap between two stages
