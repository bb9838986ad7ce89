"""What all figures share: colours, layout, names short enough for an axis."""

import plotly.graph_objects as go

COLOURS = ("#0072b2", "#e6a93c", "#7d8590", "rgba(125,133,144,0.22)")  # told apart by the colour-blind and by lightness
GRID = "rgba(125,133,144,0.25)"
SHORTER = (("down_blocks", "down"), ("mid_block", "mid"), ("up_blocks", "up"), ("transformer_blocks", "block"))


def short(unit: str) -> str:
    """A unit's name for an axis: down_blocks.0.layers.1 -> down 0 layers 1."""
    for name, shorter in SHORTER:
        unit = unit.replace(name, shorter)
    return unit.replace(".", " ")


def tick(calls: int) -> int:
    return next((step for step in (1, 2, 5, 10, 20, 50) if calls <= 14 * step), 100)


def bare_layout(height: int) -> go.Layout:
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


def empty(note: str) -> go.Figure:
    figure = go.Figure(layout=bare_layout(height=160))
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return figure.add_annotation(text=note, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
