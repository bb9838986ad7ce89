"""The numbers and words behind each figure, and that a figure comes out of them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from explorer import figures

UNITS = ("down_blocks.0.layers.0", "mid_block.layers.0", "up_blocks.0.layers.0")
SHARES = np.array([0.5, 0.3, 0.1])
TIMESTEPS = np.array([999, 499])
FATE = np.array([[0, 0, 0], [2, 1, 0]], dtype=np.int8)
SOURCE = np.array([[0, 0, 0], [0, 0, 1]], dtype=np.int32)


@pytest.fixture
def shown() -> figures.KeepMap:
    return figures.keep_map(UNITS, SHARES, TIMESTEPS, FATE, SOURCE)


def test_rows_are_units_and_columns_are_calls(shown: figures.KeepMap):
    assert shown.fate.tolist() == [[0, 2], [0, 1], [0, 0]]
    assert shown.units == ("down 0 layers 0", "mid layers 0", "up 0 layers 0")


def test_every_cell_is_counted_once(shown: figures.KeepMap):
    assert shown.counts == (4, 1, 1, 0)


def test_a_call_in_which_nothing_runs_is_skipped_as_a_whole():
    fate = np.array([[0, 0, 0], [2, 2, 2]], dtype=np.int8)
    shown = figures.keep_map(UNITS, SHARES, TIMESTEPS, fate, SOURCE * 0)
    assert shown.counts == (3, 0, 0, 3)
    assert shown.hover[2][1].endswith("call skipped: the estimate of call 0 serves again")


def test_hover_tells_unit_call_timestep_share_and_fate(shown: figures.KeepMap):
    assert shown.hover[1][1] == (
        "<b>mid_block.layers.0</b><br>call 1, timestep 499<br>30.0% of a call's MACs<br>reused from call 0"
    )
    assert shown.hover[0][1].endswith("dead by cascade")
    assert shown.hover[2][1].endswith("computed")


def test_the_figure_shows_the_numbers_and_names_the_counts():
    figure = figures.keep_heatmap(UNITS, SHARES, TIMESTEPS, FATE, SOURCE)
    assert np.array_equal(figure.data[0].z, FATE.T)
    assert [trace.name for trace in figure.data[1:5]] == [
        "computed 4",
        "reused 1",
        "dead by cascade 1",
        "call skipped 0",
    ]
    assert json.loads(figure.to_json())["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"


def test_the_margins_sum_calls_and_units():
    calls, units = figures.keep_heatmap(UNITS, SHARES, TIMESTEPS, FATE, SOURCE).data[-2:]
    assert list(calls.y) == pytest.approx([1, 0.1 + 0.1])  # the unit that runs, and what always does
    assert list(units.x) == [0.5, 0.5, 1]


def test_each_fate_has_its_own_flat_colour():
    scale = figures.keep_heatmap(UNITS, SHARES, TIMESTEPS, FATE, SOURCE).data[0].colorscale
    assert [colour for _, colour in scale] == [colour for colour in figures.COLOURS for _ in range(2)]


def test_nothing_to_show_gives_an_empty_figure_with_a_note():
    none = np.zeros((0, 0))
    figure = figures.keep_heatmap((), np.zeros(0), np.zeros(0), none, none)
    assert not figure.data
    assert figure.layout.annotations[0].text == "No calls to show."


def test_a_long_trajectory_is_drawn_without_gaps():
    calls = 200
    fate = np.zeros((calls, 3), dtype=np.int8)
    figure = figures.keep_heatmap(UNITS, SHARES, np.arange(calls), fate, fate)
    assert figure.data[0].xgap == 0
    assert figure.layout.xaxis.dtick == 20


def test_figures_need_neither_torch_nor_gradio():
    code = "import sys, explorer.figures; sys.exit(any(name in sys.modules for name in ('torch', 'gradio')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_trade_off_has_a_line_a_name_with_its_intervals_in_order_of_cost():
    points = [
        figures.Point("dpm++-steps", 0.5, 40.0, 39.0, 42.0, "13 steps"),
        figures.Point("dpm++-steps", 0.2, 30.0, 29.0, 30.5),
        figures.Point("uniform", 0.5, 35.0, 34.0, 36.0),
    ]
    lines = figures.trade_off(points, "share of MACs", "PSNR in dB").data
    assert [line.name for line in lines] == ["dpm++-steps", "uniform"]
    assert list(lines[0].x) == [0.2, 0.5] and list(lines[0].error_y.array) == [0.5, 2.0]
    assert list(lines[0].error_y.arrayminus) == [1.0, 1.0] and lines[0].text[1] == "13 steps"
    assert lines[0].line.color != lines[1].line.color
    assert "No results" in figures.trade_off([], "a", "b").layout.annotations[0].text


def test_similarities_and_changes_are_drawn_as_they_are():
    alike = np.array([[1.0, 0.9], [0.9, 1.0]])
    drawn = figures.similarity_map(alike, "up_blocks.2").data[0]
    assert np.array_equal(drawn.z, alike) and drawn.zmax == 1 and "up 2" in drawn.hovertemplate
    change = np.array([[0.0, 0.3, 0.1]])
    drawn = figures.change_map(["mid_block.layers.0"], change).data[0]
    assert np.array_equal(drawn.z, change[:, 1:]) and list(drawn.x) == [1, 2]
    assert figures.change_map([], np.zeros((0, 2))).layout.annotations[0].text


def test_an_order_shows_when_each_unit_goes_and_marks_what_stays():
    goes = np.array([[1.0, 1.0, 1.0], [0.2, 0.4, 0.6]])
    figure = figures.order_heatmap(UNITS, TIMESTEPS, goes, 0.4, "goes")
    assert np.array_equal(figure.data[0].z, goes.T) and figure.data[0].zmax == 1
    stays = set(zip(figure.data[1].x.tolist(), figure.data[1].y.tolist(), strict=True))
    assert stays == {(0, 0), (0, 1), (0, 2), (1, 2)}
    scores = figures.order_heatmap(UNITS, TIMESTEPS, goes - 3, 0.4, "score")
    assert len(scores.data) == 1 and "score" in scores.data[0].hovertemplate


def test_a_map_of_heads_and_bars_of_shares_say_what_stays():
    keep = {
        "mid_block.attentions.0.attn1:heads": np.array([True, False, True]),
        "mid_block.attentions.0.attn2:heads": np.array([True]),
        "mid_block.attentions.0.ff:neurons": np.array([True, False, False, False]),
    }
    heads, shares = figures.head_map(keep), figures.share_bars(keep)
    assert np.array_equal(heads.data[0].z, [[1, 0, 1], [1, np.nan, np.nan]], equal_nan=True)
    assert "3 of 4 heads stay" in heads.layout.xaxis.title.text
    assert list(shares.data[0].x) == [0.25] and "1 of 4 neurons stay" in shares.layout.xaxis.title.text
    assert "mid attn 0 ff" in shares.layout.yaxis.ticktext[0]
    assert figures.head_map({}).layout.annotations and figures.share_bars({}).layout.annotations


def test_a_threshold_divides_timesteps_where_the_loss_first_falls_below_it():
    trace = [(0, 1.0), (100, 0.4), (200, 0.5), (300, 0.1)]
    assert [figures.used_at(trace, floor) for floor in (0.0, 0.2, 0.45, 1.0)] == [4, 3, 1, 1]
    drawn = figures.threshold_curve(trace, 0.2)
    assert list(drawn.data[1].x) == [0, 100, 200] and drawn.layout.shapes[0].y0 == 0.2
    assert figures.threshold_curve([], 0.2).layout.annotations
