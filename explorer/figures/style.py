"""What all figures share: colours, layout, names of layers."""

import re
from html import escape

import plotly.graph_objects as go

COLOURS = ("#0072b2", "#e6a93c", "#7d8590", "rgba(125,133,144,0.22)")  # distinct for the colour-blind and in grey
# One hue per method, wherever it is shown; as far apart for the colour-blind as so many can be (Okabe and Ito, 2008)
METHOD_COLOURS = {
    "dipgo": "#0072b2",
    "dipgo-published": "#4a9fd4",
    "uniform": "#008a64",
    "deepcache": "#c65600",
    "similarity": "#b4558f",
    "random": "#6b7480",
    "planned": "#b02a5b",
    "search": "#00798c",
    "genetic": "#7a5c00",
    "ddim-steps": "#8b6f3e",
    "dpm++-steps": "#7553a8",
    "unipc-steps": "#a8770b",
    "magnitude": "#7a5c00",
    "random-width": "#6b7480",
    "taylor": "#008a64",
    "ecodiff": "#7553a8",
}
GRID = "rgba(125,133,144,0.25)"
PLAIN_NAMES = (  # parts of a path in diffusers -> what they are
    (r"\b(down|mid|up)_blocks?\b", r"\1"),
    (r"\battentions\.(\d+)\.transformer_blocks\b", r"transformer \1 block"),
    (r"\b(?:transformer_)?blocks\b", "block"),
    (r"\bsingle_transformer_blocks\b", "single block"),
    (r"\b(down|up)samplers\.0\b", r"\1sampler"),
    (r"\b(layer|attention)s\b", r"\1"),
    (r"\bresnets\b", "residual"),
    (r"\bconv(\d)\b", r"convolution \1"),
    (r"\battn1\b", "self-attention"),
    (r"\battn2\b", "cross-attention"),
    (r"\bff\b", "feed-forward"),
    (r"\bff_context\b", "feed-forward of the text"),
)
TICK_STEPS, MAX_TICKS = (1, 2, 5, 10, 20, 50), 14


def plain_name(unit: str) -> str:
    """Name a unit or a layer for readers: down_blocks.0.layers.1 becomes down 0 layer 1. plotly renders no markup in
    it."""
    for path, name in PLAIN_NAMES:
        unit = re.sub(path, name, unit)
    return escape(unit.replace(".", " "), quote=False)


def tick_step(calls: int) -> int:
    """Choose the distance of the ticks on an axis of calls."""
    return next((step for step in TICK_STEPS if calls <= MAX_TICKS * step), 100)


def bare_layout(height: int | None = None) -> go.Layout:
    """Make a layout without grid, template and background; `height` in pixels."""
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
    """Make a figure that holds a note only."""
    figure = go.Figure(layout=bare_layout(height=160))
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return figure.add_annotation(text=note, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
