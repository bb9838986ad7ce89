"""Which unit runs at which call, in which order units go, and what they are worth."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from explorer.figures.style import COLOURS, bare_layout, empty, short, tick

FATES = ("computed", "reused", "dead by cascade", "call skipped")
OTHER = "#cc79a7"
CELL = "<b>{unit}</b><br>call {call}, timestep {timestep}<br>{share} of a call's MACs<br>{told}"
TOLD = ("computed", "reused from call {source}", "dead by cascade")
TOLD += ("call skipped: the estimate of call {source} serves again",)


class Words(NamedTuple):
    """What the four kinds of cell are called, in the legend and in a cell's own sentence, and their colours."""

    kinds: tuple[str, ...] = FATES
    told: tuple[str, ...] = TOLD
    colours: tuple[str, ...] = COLOURS
    cell: str = CELL


OF_FILE = CELL.replace(", timestep {timestep}", "")  # which does not know its sampler's timesteps
ALONE = Words(cell=OF_FILE)
BESIDE = Words(
    ("both compute", "only this one", "only the other", "neither"),
    ("both compute it", "only this one computes it", "only the other computes it", "neither computes it"),
    (COLOURS[0], COLOURS[1], OTHER, COLOURS[3]),
    OF_FILE,
)


class KeepMap(NamedTuple):
    """What happens to each unit at each call."""

    units: tuple[str, ...]  # U names as short as an axis needs them
    fate: np.ndarray  # int8 (U, T): an index of FATES
    hover: list[list[str]]  # (U, T)
    counts: tuple[int, ...]  # cells of each fate
    calls: np.ndarray  # (T,) share of each call that is computed
    calls_of_units: np.ndarray  # (U,) share of the calls in which each unit is


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
            CELL.format(
                unit=unit,
                call=call,
                timestep=f"{timestep:g}",
                share=f"{shares[column]:.1%}",
                told=TOLD[fate[call, column]].format(source=source[call, column]),
            )
            for call, timestep in enumerate(timesteps)
        ]
        for column, unit in enumerate(units)
    ]
    counts = tuple(int((fate == index).sum()) for index in range(len(FATES)))
    computed = fate == FATES.index("computed")
    always = 1 - float(np.sum(shares))  # of a call's MACs, which is spent whenever anything runs
    calls = computed @ np.asarray(shares) + always * computed.any(axis=1)
    return KeepMap(tuple(short(unit) for unit in units), fate.T, hover, counts, calls, computed.mean(axis=0))


def keep_heatmap(
    units: Sequence[str], shares: np.ndarray, timesteps: np.ndarray, fate: np.ndarray, source: np.ndarray
) -> go.Figure:
    """Units by calls: computed, reused or dead by cascade. At the margins: how much of each call, how often each unit.

    Its `meta` has the words of a cell, for a page that changes the numbers without asking again.
    """
    if not len(units) or not len(timesteps):
        return empty("No calls to show.")
    return _draw_keep_map(keep_map(units, shares, timesteps, fate, source), Words())


def blank_heatmap(units: Sequence[str], calls: int, words: Words) -> go.Figure:
    """A map of units by calls for a page to fill."""
    nothing, whole = np.zeros((len(units), calls), np.int8), np.ones(max(calls, len(units)))
    names = tuple(short(unit) for unit in units)
    return _draw_keep_map(
        KeepMap(names, nothing, [], (0,) * len(words.kinds), whole[:calls], whole[: len(units)]), words
    )


def _draw_keep_map(shown: KeepMap, words: Words) -> go.Figure:
    units, calls = shown.fate.shape
    figure = go.Figure(layout=bare_layout(height=min(90 + 15 * units, 640)))
    figure.add_heatmap(
        z=shown.fate,
        text=shown.hover,
        hovertemplate="%{text}<extra></extra>",
        colorscale=_steps(words.colours),
        **dict(zmin=-0.5, zmax=len(words.kinds) - 0.5, showscale=False),
        **dict(xgap=1 if calls <= 120 else 0, ygap=1),
    )
    for name, colour, count in zip(words.kinds, words.colours, shown.counts, strict=True):
        marker = dict(symbol="square", size=11, color=colour)
        figure.add_scatter(
            x=[None], y=[None], mode="markers", marker=marker, name=f"{name} {count:,}", hoverinfo="skip"
        )
    bars = dict(marker_color=COLOURS[0], showlegend=False)
    figure.add_bar(y=shown.calls, yaxis="y2", hovertemplate="call %{x}: %{y:.1%} of its MACs<extra></extra>", **bars)
    figure.add_bar(
        x=shown.calls_of_units,
        orientation="h",
        xaxis="x2",
        text=shown.units,
        textposition="none",
        hovertemplate="%{text}: %{x:.1%} of the calls<extra></extra>",
        **bars,
    )
    figure.update_layout(meta=dict(cell=words.cell, told=words.told, fates=words.kinds), bargap=0.1)
    figure.update_xaxes(title="call (0 is pure noise)", range=[-0.5, calls - 0.5], dtick=tick(calls), domain=[0, 0.93])
    figure.update_yaxes(range=[units - 0.5, -0.5], tickvals=list(range(units)), ticktext=shown.units, domain=[0, 0.91])
    margin = dict(range=[0, 1], visible=False, fixedrange=True)
    return figure.update_layout(
        yaxis2=dict(domain=[0.925, 1], anchor="x", **margin), xaxis2=dict(domain=[0.94, 1], anchor="y", **margin)
    )


def order_heatmap(
    units: Sequence[str], timesteps: np.ndarray, values: np.ndarray, ratio: float, what: str
) -> go.Figure:
    """Units by calls: when each goes (`goes`, share of the MACs gone by then) or what it was scored, (T, U).

    What stays at `ratio` is marked. Call 0 always stays.
    """
    if not len(units) or not len(timesteps):
        return empty("No calls to show.")
    figure = go.Figure(layout=bare_layout(height=min(90 + 15 * len(units), 640)))
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
    figure.update_xaxes(title="call (0 is pure noise)", range=[-0.5, len(timesteps) - 0.5], dtick=tick(len(timesteps)))
    names = [short(unit) for unit in units]
    return figure.update_yaxes(range=[len(units) - 0.5, -0.5], tickvals=list(range(len(units))), ticktext=names)


def _steps(colours: Sequence[str]) -> list[tuple[float, str]]:
    """A colour scale in as many flat steps as there are colours."""
    edges = np.linspace(0, 1, len(colours) + 1)
    return [(float(edge), colour) for i, colour in enumerate(colours) for edge in edges[i : i + 2]]
