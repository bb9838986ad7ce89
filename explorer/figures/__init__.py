"""Turns numbers into plotly figures: feature similarity, widths, evaluation results. Imports neither torch nor gradio.

The heatmap of a schedule is built in the browser, see `ui/static/heatmap.js`. Where there is nothing to show, a
figure holds a note. Backgrounds are transparent and the page sets the font colour, so that a figure suits light and
dark themes.
"""

from explorer.figures.features import adjacent_curves, similarity_map
from explorer.figures.results import Point, trade_off
from explorer.figures.style import COLOURS, plain_name
from explorer.figures.widths import head_map, num_used_timesteps, share_bars, threshold_curve

__all__ = [
    "COLOURS",
    "Point",
    "adjacent_curves",
    "head_map",
    "num_used_timesteps",
    "share_bars",
    "plain_name",
    "similarity_map",
    "threshold_curve",
    "trade_off",
]
