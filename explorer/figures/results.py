"""The figure of quality against cost."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from explorer.figures.style import GRID, METHOD_COLOURS, bare_layout, empty

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7d8590")  # Okabe and Ito, without yellow
WITHOUT_HUE = ("#e69f00", "#56b4e9", "#cc79a7", "#7d8590")
DASHES = ("solid", "dash", "dot")


class Point(NamedTuple):
    """One candidate of an evaluation: its cost, its quality, and the interval of that."""

    name: str
    cost: float
    quality: float
    low: float
    high: float
    hover_text: str = ""  # empty: the name


def trade_off(points: Sequence[Point], cost_label: str, quality_label: str) -> go.Figure:
    """Draw quality against cost, on a log axis: a line per name, a point per candidate, its 95 % interval as a bar."""
    if not points:
        return empty("No results to show.")
    figure = go.Figure(layout=bare_layout(height=460))
    looks = _line_looks(list(dict.fromkeys(point.name for point in points)))
    for number, (name, (colour, dash)) in enumerate(looks.items()):
        own = sorted((point for point in points if point.name == name), key=lambda point: point.cost)
        middle = np.array([point.quality for point in own])
        bars = dict(
            type="data",
            symmetric=False,
            array=np.array([point.high for point in own]) - middle,
            arrayminus=middle - np.array([point.low for point in own]),
            thickness=1,
            width=3,
        )
        figure.add_scatter(
            x=[point.cost for point in own],
            y=middle,
            error_y=bars,
            name=name,
            mode="lines+markers",
            line=dict(color=colour, dash=dash, width=2),
            marker=dict(size=7, symbol=number % 8),
            text=[point.hover_text or name for point in own],
            hovertemplate="%{text}<br>" + f"{cost_label} %{{x:.3~g}}<br>{quality_label} %{{y:.4~g}}<extra></extra>",
        )
    ticks = _log_ticks([point.cost for point in points])
    figure.update_xaxes(title=cost_label, type="log", showgrid=True, gridcolor=GRID, fixedrange=False)
    figure.update_xaxes(tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    return figure.update_yaxes(title=quality_label, showgrid=True, gridcolor=GRID, fixedrange=False, tickfont_size=11)


def _line_looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Choose colour and dash of each name: the hue of the method that it begins with, a dash for each way of that one.

    Where all are ways of one method, its hue would tell nothing apart.
    """
    methods = [name.partition(",")[0] for name in names]
    if len(set(methods)) == 1:
        return {name: (LINES[at % len(LINES)], DASHES[at // len(LINES) % len(DASHES)]) for at, name in enumerate(names)}
    others = [method for method in dict.fromkeys(methods) if method not in METHOD_COLOURS]
    hues = METHOD_COLOURS | {method: WITHOUT_HUE[at % len(WITHOUT_HUE)] for at, method in enumerate(others)}
    ways = [methods[:at].count(method) for at, method in enumerate(methods)]
    return {
        name: (hues[method], DASHES[way % len(DASHES)]) for name, method, way in zip(names, methods, ways, strict=True)
    }


def _log_ticks(values: Sequence[float]) -> list[float]:
    """List 1, 2, 3, 5 and 7 of each decade that has values."""
    decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    return [step * 10.0**decade for decade in decades for step in (1, 2, 3, 5, 7)]
