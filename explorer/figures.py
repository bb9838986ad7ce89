"""Numbers of a schedule -> plotly figures. Imports neither torch nor gradio.

Each figure is two steps: what is shown, as plain numbers and words, then how it is drawn. Nothing to show gives an
empty figure with a note. Backgrounds are transparent and the font colour is left to the page, so that a figure reads
the same in a light and in a dark theme.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

FATES = ("computed", "reused", "dead by cascade", "call skipped")
COLOURS = ("#0072b2", "#e6a93c", "#7d8590", "rgba(125,133,144,0.22)")  # told apart by the colour-blind and by lightness
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7d8590")  # Okabe and Ito, without yellow
DASHES = ("solid", "dash", "dot")
GRID = "rgba(125,133,144,0.25)"
SHORTER = (("down_blocks", "down"), ("mid_block", "mid"), ("up_blocks", "up"), ("transformer_blocks", "block"))


class KeepMap(NamedTuple):
    """What happens to each unit at each call."""

    units: tuple[str, ...]  # U names as short as an axis needs them
    fate: np.ndarray  # int8 (U, T): an index of FATES
    hover: list[list[str]]  # (U, T)
    counts: tuple[int, ...]  # cells of each fate


def keep_map(
    units: Sequence[str], shares: np.ndarray, timesteps: np.ndarray, fate: np.ndarray, source: np.ndarray
) -> KeepMap:
    """`shares` (U,) of a call's MACs, `timesteps` (T,), `fate` and `source` (T, U) as a plan holds them.

    A call in which nothing is computed is a fate of its own: the network is not entered at all.
    """
    skipped = (np.asarray(fate) != FATES.index("computed")).all(axis=1, keepdims=True)
    fate = np.where(skipped, FATES.index("call skipped"), fate).astype(np.int8)
    hover = [
        [
            f"<b>{unit}</b><br>call {call}, timestep {timestep:g}<br>{shares[column]:.1%} of a call's MACs<br>"
            + told(int(fate[call, column]), int(source[call, column]))
            for call, timestep in enumerate(timesteps)
        ]
        for column, unit in enumerate(units)
    ]
    counts = tuple(int((fate == index).sum()) for index in range(len(FATES)))
    return KeepMap(tuple(short(unit) for unit in units), fate.T, hover, counts)


def told(fate: int, source: int) -> str:
    """The fate of one cell in words."""
    if FATES[fate] == "reused":
        return f"reused from call {source}"
    return f"call skipped: the estimate of call {source} serves again" if FATES[fate] == "call skipped" else FATES[fate]


def short(unit: str) -> str:
    """A unit's name for an axis: down_blocks.0.layers.1 -> down 0 layers 1."""
    for name, shorter in SHORTER:
        unit = unit.replace(name, shorter)
    return unit.replace(".", " ")


def keep_heatmap(
    units: Sequence[str], shares: np.ndarray, timesteps: np.ndarray, fate: np.ndarray, source: np.ndarray
) -> go.Figure:
    """Units by calls: computed, reused or dead by cascade."""
    if not len(units) or not len(timesteps):
        return _empty("No calls to show.")
    return _draw_keep_map(keep_map(units, shares, timesteps, fate, source))


def _draw_keep_map(shown: KeepMap) -> go.Figure:
    units, calls = shown.fate.shape
    figure = go.Figure(layout=_bare_layout(height=min(90 + 15 * units, 640)))
    figure.add_heatmap(
        z=shown.fate,
        text=shown.hover,
        hovertemplate="%{text}<extra></extra>",
        colorscale=_steps(COLOURS),
        **dict(zmin=-0.5, zmax=len(FATES) - 0.5, showscale=False),
        **dict(xgap=1 if calls <= 120 else 0, ygap=1),
    )
    for name, colour, count in zip(FATES, COLOURS, shown.counts, strict=True):
        marker = dict(symbol="square", size=11, color=colour)
        figure.add_scatter(
            x=[None], y=[None], mode="markers", marker=marker, name=f"{name} {count:,}", hoverinfo="skip"
        )
    figure.update_xaxes(title="call (0 is pure noise)", range=[-0.5, calls - 0.5], dtick=_tick(calls))
    figure.update_yaxes(range=[units - 0.5, -0.5], tickvals=list(range(units)), ticktext=shown.units)
    return figure


def order_heatmap(
    units: Sequence[str], timesteps: np.ndarray, values: np.ndarray, ratio: float, what: str
) -> go.Figure:
    """Units by calls: when each goes (`goes`, share of the MACs gone by then) or what it was scored, (T, U).

    What stays at `ratio` is marked. Call 0 always stays.
    """
    if not len(units) or not len(timesteps):
        return _empty("No calls to show.")
    figure = go.Figure(layout=_bare_layout(height=min(90 + 15 * len(units), 640)))
    words = {"goes": "goes at %{z:.1%}", "score": "score %{z:.4g}"}[what]
    figure.add_heatmap(
        z=values.T,
        text=[[f"<b>{unit}</b><br>call {call}, timestep {t:g}" for call, t in enumerate(timesteps)] for unit in units],
        hovertemplate="%{text}<br>" + words + "<extra></extra>",
        colorscale="Cividis",
        **(dict(zmin=0, zmax=1) if what == "goes" else {}),
        showscale=False,  # its gradient is lost when the page's address changes under it
        **dict(xgap=1 if len(timesteps) <= 120 else 0, ygap=1),
    )
    if what == "goes":
        call, column = np.nonzero(values > ratio)
        marker = dict(symbol="square-open", size=5, color="white", line_width=1)
        figure.add_scatter(x=call, y=column, mode="markers", marker=marker, hoverinfo="skip")
    told = (
        f"dark goes first, bright last; framed: stays at {ratio:.0%}" if what == "goes" else "dark is low, bright high"
    )
    place = dict(xref="paper", x=1, xanchor="right", yref="paper", y=1, yanchor="bottom")
    figure.add_annotation(text=told, font_size=11, showarrow=False, **place)
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title="call (0 is pure noise)", range=[-0.5, len(timesteps) - 0.5], dtick=_tick(len(timesteps)))
    names = [short(unit) for unit in units]
    return figure.update_yaxes(range=[len(units) - 0.5, -0.5], tickvals=list(range(len(units))), ticktext=names)


class Point(NamedTuple):
    """One contender of an evaluation: what it spends, what it reaches, and between which values that lies."""

    name: str
    spent: float
    reached: float
    low: float
    high: float
    told: str = ""


def trade_off(points: Sequence[Point], spent: str, reached: str) -> go.Figure:
    """Quality against cost: a line a name, a point a contender, its 95 % interval as a bar; cost on a log axis."""
    if not points:
        return _empty("No results to show.")
    figure = go.Figure(layout=_bare_layout(height=460))
    for number, name in enumerate(dict.fromkeys(point.name for point in points)):
        own = sorted((point for point in points if point.name == name), key=lambda point: point.spent)
        middle = np.array([point.reached for point in own])
        bars = dict(
            type="data",
            symmetric=False,
            array=np.array([point.high for point in own]) - middle,
            arrayminus=middle - np.array([point.low for point in own]),
            thickness=1,
            width=3,
        )
        colour, dash = LINES[number % len(LINES)], DASHES[number // len(LINES) % len(DASHES)]
        figure.add_scatter(
            x=[point.spent for point in own],
            y=middle,
            error_y=bars,
            name=name,
            mode="lines+markers",
            line=dict(color=colour, dash=dash, width=2),
            marker=dict(size=7, symbol=number % 8),
            text=[point.told or name for point in own],
            hovertemplate="%{text}<br>" + f"{spent} %{{x:.3~g}}<br>{reached} %{{y:.4~g}}<extra></extra>",
        )
    ticks = _log_ticks([point.spent for point in points])
    figure.update_xaxes(title=spent, type="log", showgrid=True, gridcolor=GRID, fixedrange=False)
    figure.update_xaxes(tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    return figure.update_yaxes(title=reached, showgrid=True, gridcolor=GRID, fixedrange=False, tickfont_size=11)


def similarity_map(alike: np.ndarray, unit: str) -> go.Figure:
    """How alike the outputs (T, T) of one unit are at all pairs of calls."""
    calls = len(alike)
    figure = go.Figure(layout=_bare_layout(height=420))
    figure.add_heatmap(
        z=alike,
        zmin=min(0.0, float(np.min(alike))),
        zmax=1,
        colorscale="Viridis",
        colorbar=dict(title="cosine", thickness=12, outlinewidth=0),
        hovertemplate=f"<b>{short(unit)}</b><br>call %{{y}} with call %{{x}}: %{{z:.4f}}<extra></extra>",
    )
    figure.update_xaxes(title="call", range=[-0.5, calls - 0.5], dtick=_tick(calls), constrain="domain")
    return figure.update_yaxes(title="call", range=[calls - 0.5, -0.5], dtick=_tick(calls), scaleanchor="x")


def change_map(units: Sequence[str], change: np.ndarray) -> go.Figure:
    """How much each unit's output changes from one call to the next, relative, (U, T)."""
    if not len(units):
        return _empty("No units to show.")
    calls = change.shape[1]
    figure = go.Figure(layout=_bare_layout(height=min(90 + 15 * len(units), 640)))
    figure.add_heatmap(
        z=change[:, 1:],
        x=list(range(1, calls)),
        colorscale="Cividis",
        colorbar=dict(title="change", thickness=12, outlinewidth=0),
        text=[[short(unit)] * (calls - 1) for unit in units],
        hovertemplate="<b>%{text}</b><br>call %{x}: changed by %{z:.1%}<extra></extra>",
    )
    figure.update_xaxes(title="call", dtick=_tick(calls))
    names = [short(unit) for unit in units]
    return figure.update_yaxes(range=[len(units) - 0.5, -0.5], tickvals=list(range(len(units))), ticktext=names)


def _steps(colours: Sequence[str]) -> list[tuple[float, str]]:
    """A colour scale in as many flat steps as there are colours."""
    edges = np.linspace(0, 1, len(colours) + 1)
    return [(float(edge), colour) for i, colour in enumerate(colours) for edge in edges[i : i + 2]]


def _log_ticks(values: Sequence[float]) -> list[float]:
    """1, 2, 3, 5 and 7 of each decade, as far as the values reach."""
    decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    return [step * 10.0**decade for decade in decades for step in (1, 2, 3, 5, 7)]


def _tick(calls: int) -> int:
    return next((step for step in (1, 2, 5, 10, 20, 50) if calls <= 14 * step), 100)


def _bare_layout(height: int) -> go.Layout:
    return go.Layout(
        template="none",
        height=height,
        margin=dict(l=8, r=8, t=34, b=40),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend=dict(orientation="h", x=0, y=1, yanchor="bottom", itemclick=False, itemdoubleclick=False),
        xaxis=dict(showgrid=False, zeroline=False, fixedrange=True, title_standoff=8),
        yaxis=dict(
            showgrid=False,
            zeroline=False,
            fixedrange=True,
            automargin=True,
            ticks="",
            ticklabelstandoff=4,
            tickfont_size=10,
        ),
        hoverlabel=dict(align="left"),
    )


def _empty(note: str) -> go.Figure:
    figure = go.Figure(layout=_bare_layout(height=160))
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return figure.add_annotation(text=note, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
