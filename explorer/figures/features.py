"""How alike features are."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from explorer.figures.style import COLOURS, GRID, bare_layout, empty, short, tick


def similarity_map(alike: np.ndarray, unit: str, reused: Sequence[tuple[int, int]] = ()) -> go.Figure:
    """How alike the outputs (T, T) of one unit are at all pairs of calls; `reused` marks (call, call whose value)."""
    calls = len(alike)
    figure = go.Figure(layout=bare_layout(height=420))
    figure.add_heatmap(
        z=alike,
        zmin=min(0.0, float(np.min(alike))),
        zmax=1,
        colorscale="Viridis",
        colorbar=dict(title="cosine", thickness=12, outlinewidth=0),
        hovertemplate=f"<b>{short(unit)}</b><br>call %{{y}} with call %{{x}}: %{{z:.4f}}<extra></extra>",
    )
    if reused:
        figure.add_scatter(
            x=[source for _, source in reused],
            y=[call for call, _ in reused],
            mode="markers",
            marker=dict(size=6, color="white", line=dict(color="black", width=1)),  # seen on bright and on dark
            hovertemplate="at call %{y} the value of call %{x} serves again<extra></extra>",
            showlegend=False,
        )
    figure.update_xaxes(title="call", range=[-0.5, calls - 0.5], dtick=tick(calls), constrain="domain")
    return figure.update_yaxes(title="call", range=[calls - 0.5, -0.5], dtick=tick(calls), scaleanchor="x")


def adjacent_curves(units: Sequence[str], adjacent: np.ndarray, unit: str) -> go.Figure:
    """How alike each unit's output is to that of the call before, (U, T); `unit` stands out."""
    if not len(units):
        return empty("No units to show.")
    figure = go.Figure(layout=bare_layout(height=420))
    for name, curve in sorted(zip(units, adjacent, strict=True), key=lambda one: one[0] == unit):
        chosen = name == unit
        figure.add_scatter(
            x=list(range(1, len(curve))),
            y=curve[1:],
            mode="lines",
            line=dict(color=COLOURS[0] if chosen else "rgba(125,133,144,0.35)", width=3 if chosen else 1),
            hovertemplate=f"<b>{short(name)}</b><br>call %{{x}}: %{{y:.4f}}<extra></extra>",
            showlegend=False,
        )
    figure.update_xaxes(title="call", dtick=tick(adjacent.shape[1]))
    return figure.update_yaxes(title="cosine with the call before", showgrid=True, gridcolor=GRID)


def change_map(units: Sequence[str], change: np.ndarray) -> go.Figure:
    """How much each unit's output changes from one call to the next, relative, (U, T)."""
    if not len(units):
        return empty("No units to show.")
    calls = change.shape[1]
    figure = go.Figure(layout=bare_layout(height=min(90 + 15 * len(units), 640)))
    figure.add_heatmap(
        z=change[:, 1:],
        x=list(range(1, calls)),
        colorscale="Cividis",
        colorbar=dict(title="change", thickness=12, outlinewidth=0),
        text=[[short(unit)] * (calls - 1) for unit in units],
        hovertemplate="<b>%{text}</b><br>call %{x}: changed by %{z:.1%}<extra></extra>",
    )
    figure.update_xaxes(title="call", dtick=tick(calls))
    names = [short(unit) for unit in units]
    return figure.update_yaxes(range=[len(units) - 0.5, -0.5], tickvals=list(range(len(units))), ticktext=names)
