"""Which heads, neurons and channels of a network are kept, and where Diff-Pruning stops evaluating timesteps."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from explorer.figures.style import COLOURS, bare_layout, empty, plain_name
from explorer.masks.width_header import kind_title

REMOVED = COLOURS[3]
ROW_PX = 15
TITLE_LINE_PX = 18


def head_map(keep: Mapping[str, np.ndarray]) -> go.Figure:
    """Draw which heads are kept, one row per attention.

    keep: dimension ("path:heads"; others are left out) -> bool (size,).
    """
    heads = {_layer_name(name): kept for name, kept in keep.items() if name.endswith(":heads")}
    if not heads:
        return empty("No heads to show.")
    most_heads = max(len(kept) for kept in heads.values())
    shown = np.full((len(heads), most_heads), np.nan)
    for row, kept in enumerate(heads.values()):
        shown[row, : len(kept)] = kept
    hover = [
        [f"<b>{name}</b><br>head {head}: {'kept' if one else 'removed'}" for head, one in enumerate(kept)]
        + [""] * (most_heads - len(kept))
        for name, kept in heads.items()
    ]
    figure = go.Figure(layout=bare_layout(height=90 + ROW_PX * len(heads)))
    figure.add_heatmap(
        z=shown,
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        hoverongaps=False,
        colorscale=[(0, REMOVED), (0.5, REMOVED), (0.5, COLOURS[0]), (1, COLOURS[0])],
        **dict(zmin=0, zmax=1, showscale=False, xgap=2, ygap=2),
    )
    figure.update_xaxes(range=[-0.5, most_heads - 0.5], dtick=1)
    return _with_rows(figure, heads, f"{_count(heads)} heads stay")


def share_bars(keep: Mapping[str, np.ndarray]) -> go.Figure:
    """Draw the share of neurons or channels that is kept, one bar per layer.

    keep: dimension -> bool (size,); heads are left out.
    """
    kinds: dict[str, dict[str, np.ndarray]] = {}
    for dim, kept in keep.items():
        if not dim.endswith(":heads"):
            kinds.setdefault(dim.rpartition(":")[2], {})[_layer_name(dim)] = kept
    if not kinds:
        return empty("No neurons or channels to show.")
    layers = {name: kept for own in kinds.values() for name, kept in own.items()}
    hover = [
        f"<b>{name}</b><br>{int(kept.sum())} of {len(kept)} {kind_title(kind)} stay"
        for kind, own in kinds.items()
        for name, kept in own.items()
    ]
    shares = np.array([kept.mean() for kept in layers.values()])
    figure = go.Figure(layout=bare_layout(height=90 + ROW_PX * len(layers)))
    for values, colour in ((shares, COLOURS[0]), (1 - shares, REMOVED)):
        figure.add_bar(
            x=values,
            y=list(range(len(layers))),
            orientation="h",
            marker_color=colour,
            text=hover,
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
        )
    figure.update_layout(barmode="stack", bargap=0.25, showlegend=False)
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    lines = [f"{_count(own)} {kind_title(kind)} stay" for kind, own in kinds.items()]  # below each other on a phone
    more = TITLE_LINE_PX * (len(lines) - 1)
    figure.update_layout(height=figure.layout.height + more, margin_t=figure.layout.margin.t + more)
    return _with_rows(figure, layers, "<br>".join(lines))


def _layer_name(dim: str) -> str:
    return plain_name(dim.rpartition(":")[0])


def _count(rows: Mapping[str, np.ndarray]) -> str:
    return f"{sum(int(kept.sum()) for kept in rows.values()):,} of {sum(map(len, rows.values())):,}"


def _with_rows(figure: go.Figure, rows: Mapping[str, np.ndarray], title: str) -> go.Figure:
    pad = 14 if "<br>" in title else 8  # plotly sets two lines higher, and would cut the first
    figure.update_layout(title=dict(text=title, font_size=13, x=0, xanchor="left", y=1, yanchor="top", pad_t=pad))
    return figure.update_yaxes(range=[len(rows) - 0.5, -0.5], tickvals=list(range(len(rows))), ticktext=list(rows))


def threshold_curve(trace: Sequence[tuple[int, float]], threshold: float) -> go.Figure:
    """Draw the loss over timesteps as a share of the largest, the threshold, and the timesteps before it is reached.

    trace: (timestep, share of the largest loss), the least noise first.
    """
    if not trace:
        return empty("This method does not go through timesteps one by one.")
    times, shares = (list(values) for values in zip(*trace, strict=True))
    used = num_used_timesteps(trace, threshold)
    figure = go.Figure(layout=bare_layout(height=260))
    figure.add_scatter(x=times, y=shares, mode="lines", line_color=COLOURS[2], hovertemplate="timestep %{x}: %{y:.1%}")
    figure.add_scatter(
        x=times[:used],
        y=shares[:used],
        **dict(mode="lines", fill="tozeroy", line_color=COLOURS[0], hovertemplate="timestep %{x}: %{y:.1%}, used"),
    )
    figure.add_hline(y=threshold, line_color=COLOURS[1], line_width=2, line_dash="dash")
    position = dict(xref="paper", x=1, xanchor="right", y=threshold, yanchor="bottom", showarrow=False, font_size=11)
    figure.add_annotation(text=f"threshold {threshold:g}", **position)
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title="timestep (0 has least noise)")
    return figure.update_yaxes(title="loss / largest", range=[0, 1.05], tickformat=".0%")


def num_used_timesteps(trace: Sequence[tuple[int, float]], threshold: float) -> int:
    """Count the timesteps of a trace before the loss first falls below a threshold."""
    return next((index for index, (_, share) in enumerate(trace) if share < threshold), len(trace))
