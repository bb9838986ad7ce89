"""Which heads, neurons and channels of a network are left; and where Diff-Pruning stops to look at timesteps."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from explorer.figures.style import COLOURS, bare_layout, empty, short

GONE = COLOURS[3]
ROW = 15  # pixels


def width_map(keep: Mapping[str, np.ndarray]) -> go.Figure:
    """Heads one by one, a row an attention; of neurons and channels the share that is left, a bar a layer.

    keep: site ("path:heads", "path:neurons" or "path:channels") -> bool (size,).
    """
    heads = {_named(name): kept for name, kept in keep.items() if name.endswith(":heads")}
    layers = {_named(name): kept for name, kept in keep.items() if not name.endswith(":heads")}
    if not keep:
        return empty("No units to show.")
    rows = max(len(heads), len(layers))
    figure = go.Figure(layout=bare_layout(height=90 + ROW * rows))
    split = (0.42, 0.62) if heads and layers else (1.0, 0.0)
    figure.update_layout(showlegend=False, bargap=0.25)
    if heads:
        _draw_heads(figure, heads, split[0])
    if layers:
        what = "channels" if any(name.endswith(":channels") for name in keep) else "neurons"
        _draw_shares(figure, layers, split[1], what)
    return figure


def _named(site: str) -> str:
    return short(site.rpartition(":")[0]).replace(" attentions ", " attn ")


def _draw_heads(figure: go.Figure, heads: Mapping[str, np.ndarray], right: float) -> None:
    most = max(len(kept) for kept in heads.values())
    shown = np.full((len(heads), most), np.nan)
    for row, kept in enumerate(heads.values()):
        shown[row, : len(kept)] = kept
    told = [
        [
            f"<b>{name}</b><br>head {head}: {'stays' if kept[head] else 'gone'}" if head < len(kept) else ""
            for head in range(most)
        ]
        for name, kept in heads.items()
    ]
    figure.add_heatmap(
        z=shown,
        text=told,
        hovertemplate="%{text}<extra></extra>",
        hoverongaps=False,
        colorscale=[(0, GONE), (0.5, GONE), (0.5, COLOURS[0]), (1, COLOURS[0])],
        **dict(zmin=0, zmax=1, showscale=False, xgap=2, ygap=2),
    )
    left = sum(int(kept.sum()) for kept in heads.values())
    whole = sum(len(kept) for kept in heads.values())
    figure.update_layout(
        xaxis=dict(title=f"{left} of {whole} heads stay", range=[-0.5, most - 0.5], dtick=1, domain=[0, right]),
        yaxis=dict(range=[len(heads) - 0.5, -0.5], tickvals=list(range(len(heads))), ticktext=list(heads)),
    )


def _draw_shares(figure: go.Figure, layers: Mapping[str, np.ndarray], left: float, what: str) -> None:
    axes = dict(xaxis="x2", yaxis="y2", orientation="h", y=list(range(len(layers))), showlegend=False)
    shares = [float(kept.mean()) for kept in layers.values()]
    told = [f"<b>{name}</b><br>{int(kept.sum())} of {len(kept)} {what} stay" for name, kept in layers.items()]
    hover = dict(text=told, textposition="none", hovertemplate="%{text}<extra></extra>")
    figure.add_bar(x=shares, marker_color=COLOURS[0], **axes, **hover)
    figure.add_bar(x=[1 - share for share in shares], marker_color=GONE, **axes, **hover)
    total, stay = sum(len(kept) for kept in layers.values()), sum(int(kept.sum()) for kept in layers.values())
    base = dict(showgrid=False, zeroline=False, fixedrange=True)
    figure.update_layout(
        barmode="stack",
        xaxis2=base
        | dict(
            title=dict(text=f"{stay:,} of {total:,} {what} stay", standoff=8),
            range=[0, 1],
            domain=[left, 1],
            tickformat=".0%",
            anchor="y2",
        ),
        yaxis2=base
        | dict(
            range=[len(layers) - 0.5, -0.5],
            tickvals=list(range(len(layers))),
            ticktext=list(layers),
            tickfont=dict(size=10),
            anchor="x2",
            automargin=True,
        ),
    )


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
