"""Which heads, neurons, rows and channels of a network are left; and where Diff-Pruning stops to look at timesteps."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from explorer.figures.style import COLOURS, bare_layout, empty, short

GONE = COLOURS[3]
ROW = 15  # pixels


def head_map(keep: Mapping[str, np.ndarray]) -> go.Figure:
    """Which heads stay, a row an attention. keep: site ("path:heads", others are left out) -> bool (size,)."""
    heads = {_named(name): kept for name, kept in keep.items() if name.endswith(":heads")}
    if not heads:
        return empty("No heads to show.")
    most = max(len(kept) for kept in heads.values())
    shown = np.full((len(heads), most), np.nan)
    for row, kept in enumerate(heads.values()):
        shown[row, : len(kept)] = kept
    told = [
        [f"<b>{name}</b><br>head {head}: {'stays' if one else 'gone'}" for head, one in enumerate(kept)]
        + [""] * (most - len(kept))
        for name, kept in heads.items()
    ]
    figure = go.Figure(layout=bare_layout(height=90 + ROW * len(heads)))
    figure.add_heatmap(
        z=shown,
        text=told,
        hovertemplate="%{text}<extra></extra>",
        hoverongaps=False,
        colorscale=[(0, GONE), (0.5, GONE), (0.5, COLOURS[0]), (1, COLOURS[0])],
        **dict(zmin=0, zmax=1, showscale=False, xgap=2, ygap=2),
    )
    figure.update_xaxes(title=f"{_stay(heads)} heads stay", range=[-0.5, most - 0.5], dtick=1)
    return _rows(figure, heads)


def share_bars(keep: Mapping[str, np.ndarray]) -> go.Figure:
    """The share of neurons, rows or channels that stays, a bar a layer. keep: site -> bool (size,), heads left out."""
    kinds: dict[str, dict[str, np.ndarray]] = {}
    for site, kept in keep.items():
        if not site.endswith(":heads"):
            kinds.setdefault(site.rpartition(":")[2], {})[_named(site)] = kept
    if not kinds:
        return empty("No neurons or channels to show.")
    layers = {name: kept for own in kinds.values() for name, kept in own.items()}
    told = [
        f"<b>{name}</b><br>{int(kept.sum())} of {len(kept)} {kind} stay"
        for kind, own in kinds.items()
        for name, kept in own.items()
    ]
    shares = np.array([kept.mean() for kept in layers.values()])
    figure = go.Figure(layout=bare_layout(height=90 + ROW * len(layers)))
    for values, colour in ((shares, COLOURS[0]), (1 - shares, GONE)):
        figure.add_bar(
            x=values,
            y=list(range(len(layers))),
            orientation="h",
            marker_color=colour,
            text=told,
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
        )
    figure.update_layout(barmode="stack", bargap=0.25, showlegend=False)
    figure.update_xaxes(
        title=", ".join(f"{_stay(own)} {kind} stay" for kind, own in kinds.items()), range=[0, 1], tickformat=".0%"
    )
    return _rows(figure, layers)


def _named(site: str) -> str:
    return short(site.rpartition(":")[0]).replace(" attentions ", " attn ")


def _stay(rows: Mapping[str, np.ndarray]) -> str:
    return f"{sum(int(kept.sum()) for kept in rows.values()):,} of {sum(map(len, rows.values())):,}"


def _rows(figure: go.Figure, rows: Mapping[str, np.ndarray]) -> go.Figure:
    return figure.update_yaxes(range=[len(rows) - 0.5, -0.5], tickvals=list(range(len(rows))), ticktext=list(rows))


def threshold_curve(trace: Sequence[tuple[int, float]], threshold: float) -> go.Figure:
    """The loss over timesteps as a share of the largest, the threshold, and the timesteps before it is reached."""
    if not trace:
        return empty("This method looks at no timesteps one by one.")
    times, shares = (list(values) for values in zip(*trace, strict=True))
    used = used_at(trace, threshold)
    figure = go.Figure(layout=bare_layout(height=260))
    figure.add_scatter(x=times, y=shares, mode="lines", line_color=COLOURS[2], hovertemplate="timestep %{x}: %{y:.1%}")
    figure.add_scatter(
        x=times[:used],
        y=shares[:used],
        **dict(mode="lines", fill="tozeroy", line_color=COLOURS[0], hovertemplate="timestep %{x}: %{y:.1%}, looked at"),
    )
    figure.add_hline(y=threshold, line_color=COLOURS[1], line_width=2, line_dash="dash")
    place = dict(xref="paper", x=1, xanchor="right", y=threshold, yanchor="bottom", showarrow=False, font_size=11)
    figure.add_annotation(text=f"threshold {threshold:g}", **place)
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title="timestep (0 has least noise)")
    return figure.update_yaxes(title="loss / largest", range=[0, 1.05], tickformat=".0%")


def used_at(trace: Sequence[tuple[int, float]], threshold: float) -> int:
    """How many timesteps of a trace come before the loss first falls below a threshold."""
    return next((index for index, (_, share) in enumerate(trace) if share < threshold), len(trace))
