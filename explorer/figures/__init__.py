"""Numbers of a schedule or of widths -> plotly figures. Imports neither torch nor gradio.

Each figure is two steps: what is shown, as plain numbers and words, then how it is drawn. Nothing to show gives an
empty figure with a note. Backgrounds are transparent and the font colour is left to the page, so that a figure reads
the same in a light and in a dark theme.
"""

from explorer.figures.features import adjacent_curves, change_map, similarity_map
from explorer.figures.results import Point, trade_off
from explorer.figures.schedules import (
    ALONE,
    BESIDE,
    FATES,
    KeepMap,
    Words,
    blank_heatmap,
    keep_heatmap,
    keep_map,
    order_heatmap,
)
from explorer.figures.style import COLOURS, short
from explorer.figures.widths import head_map, share_bars, threshold_curve, used_at

__all__ = [
    "ALONE",
    "BESIDE",
    "COLOURS",
    "FATES",
    "KeepMap",
    "Point",
    "Words",
    "adjacent_curves",
    "blank_heatmap",
    "change_map",
    "head_map",
    "keep_heatmap",
    "keep_map",
    "order_heatmap",
    "share_bars",
    "short",
    "similarity_map",
    "threshold_curve",
    "trade_off",
    "used_at",
]
