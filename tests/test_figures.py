"""Figures: their numbers and texts."""

import subprocess
import sys

import numpy as np
import pytest

from explorer import figures
from explorer.figures.style import METHOD_COLOURS


def test_figures_need_neither_torch_nor_gradio():
    code = "import sys, explorer.figures; sys.exit(any(name in sys.modules for name in ('torch', 'gradio')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_trade_off_has_one_line_per_name_with_intervals_in_order_of_cost():
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
    for names, colours in (
        (["uniform, tuned", "dipgo", "uniform, even"], ["uniform", "dipgo", "uniform"]),
        (["deepcache, branch 1", "deepcache, branch 2"], [None, None]),
    ):
        drawn = figures.trade_off([figures.Point(name, 1, 1, 1, 1) for name in names], "a", "b").data
        looks = [(line.line.color, line.line.dash) for line in drawn]
        assert len(set(looks)) == len(names)
        assert all(hue in (None, look[0]) for look, hue in zip(looks, map(METHOD_COLOURS.get, colours), strict=True))
    assert "No results" in figures.trade_off([], "a", "b").layout.annotations[0].text


def test_similarity_map_plots_the_values_unchanged():
    alike = np.array([[1.0, 0.9], [0.9, 1.0]])
    figure = figures.similarity_map(alike, "up_blocks.2")
    heatmap, layout = figure.data[0], figure.layout
    assert np.array_equal(heatmap.z, alike) and heatmap.zmax == 1 and "up 2" in heatmap.hovertemplate
    assert layout.yaxis.scaleanchor == "x" and (layout.xaxis.constrain, layout.yaxis.constrain) == ("domain",) * 2


def test_width_figures_show_kept_heads_and_shares():
    keep = {
        "mid_block.attentions.0.attn1:heads": np.array([True, False, True]),
        "mid_block.attentions.0.attn2:heads": np.array([True]),
        "mid_block.attentions.0.ff:neurons": np.array([True, False, False, False]),
    }
    heads, shares = figures.head_map(keep), figures.share_bars(keep)
    assert np.array_equal(heads.data[0].z, [[1, 0, 1], [1, np.nan, np.nan]], equal_nan=True)
    assert "3 of 4 heads stay" in heads.layout.title.text
    assert list(shares.data[0].x) == [0.25] and "1 of 4 neurons stay" in shares.layout.title.text
    assert "mid attention 0 feed-forward" in shares.layout.yaxis.ticktext[0]
    assert figures.head_map({}).layout.annotations and figures.share_bars({}).layout.annotations


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("down_blocks.0.layers.1", "down 0 layer 1"),
        ("down_blocks.2.downsamplers.0", "down 2 downsampler"),
        ("mid_block", "mid"),
        ("up_blocks.1.attentions.2.transformer_blocks.0.attn2", "up 1 transformer 2 block 0 cross-attention"),
        ("transformer_blocks.3.ff", "block 3 feed-forward"),
        ("single_transformer_blocks.11", "single block 11"),
        ("blocks.5.attn1", "block 5 self-attention"),
        ("mid_block.resnets.1.conv1", "mid residual 1 convolution 1"),
        ("down_blocks.<b>", "down &lt;b&gt;"),
    ],
)
def test_layers_are_named_in_words(path, name):
    assert figures.plain_name(path) == name


def test_threshold_curve_splits_timesteps_where_the_loss_falls_below_it():
    trace = [(0, 1.0), (100, 0.4), (200, 0.5), (300, 0.1)]
    assert [figures.num_used_timesteps(trace, floor) for floor in (0.0, 0.2, 0.45, 1.0)] == [4, 3, 1, 1]
    figure = figures.threshold_curve(trace, 0.2)
    assert list(figure.data[1].x) == [0, 100, 200] and figure.layout.shapes[0].y0 == 0.2
    assert figures.threshold_curve([], 0.2).layout.annotations
