"""How similar features are between calls."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from explorer.figures.style import COLOURS, GRID, bare_layout, empty, plain_name, tick_step


def similarity_map(alike: np.ndarray, unit: str, reused: Sequence[tuple[int, int]] = ()) -> go.Figure:
    """Draw how similar the outputs of one unit are at all pairs of calls, (T, T).

    `reused` marks (call, source call).
    """
    calls = len(alike)
    figure = go.Figure(layout=bare_layout(height=420))
    figure.add_heatmap(
        z=alike,
        zmin=0,  # the same scale for every unit and measurement; what is below is as dark
        zmax=1,
        colorscale="Viridis",
        colorbar=dict(title="cosine", thickness=12, outlinewidth=0),
        hovertemplate=f"<b>{plain_name(unit)}</b><br>call %{{y}} with call %{{x}}: %{{z:.4f}}<extra></extra>",
    )
    if reused:
        figure.add_scatter(
            x=[source for _, source in reused],
            y=[call for call, _ in reused],
            mode="markers",
            marker=dict(size=6, color="white", line=dict(color="black", width=1)),  # visible on bright and on dark
            hovertemplate="call %{y} reuses the value of call %{x}<extra></extra>",
            showlegend=False,
        )
    shared = dict(title="call", dtick=tick_step(calls), constrain="domain")  # not the range, which would show no call
    figure.update_xaxes(range=[-0.5, calls - 0.5], **shared)
    return figure.update_yaxes(range=[calls - 0.5, -0.5], scaleanchor="x", **shared)


def adjacent_curves(units: Sequence[str], adjacent: np.ndarray, unit: str) -> go.Figure:
    """Draw how similar each unit's output is to that of the call before, (U, T); `unit` is highlighted."""
    if not len(units):
        return empty("No units to show.")
    figure = go.Figure(layout=bare_layout(height=420))
    for name, curve in sorted(zip(units, adjacent, strict=True), key=lambda one: one[0] == unit):
        highlighted = name == unit
        figure.add_scatter(
            x=list(range(1, len(curve))),
            y=curve[1:],
            mode="lines",
            line=dict(color=COLOURS[0] if highlighted else "rgba(125,133,144,0.35)", width=3 if highlighted else 1),
            hovertemplate=f"<b>{plain_name(name)}</b><br>call %{{x}}: %{{y:.4f}}<extra></extra>",
            showlegend=False,
        )
    figure.update_xaxes(title="call", dtick=tick_step(adjacent.shape[1]))
    return figure.update_yaxes(title="cosine with the call before", showgrid=True, gridcolor=GRID)
