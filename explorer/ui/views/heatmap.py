"""How the browser draws schedules: the colours, words and bare layout that it gets once. It adds the numbers itself."""

from typing import Any

from explorer.figures.style import ABBREVIATIONS, COLOURS, MAX_TICKS, TICK_STEPS, bare_layout
from explorer.masks.block_graph import BlockGraph

ONLY_OTHER = "#cc79a7"
# not needed: paler than what runs, and darker than a call that is skipped
SCHEDULE_COLOURS = (*COLOURS[:2], "rgba(125,133,144,0.52)", COLOURS[3])
FILE_CELL = "<b>{unit}</b><br>call {call}<br>{share} of a call's MACs<br>{status}"  # a file knows no timesteps
CELL = FILE_CELL.replace("{call}", "{call}, timestep {timestep}")
STATUSES = {
    "computed": "computed",
    "reused": "reused from call {source}",
    "not needed": "not needed: nothing that runs reads it",
    "call skipped": "call skipped: the estimate of call {source} is reused",
}
CAPTION = (
    "Each column is one call of the network, each row one unit of it. A reused unit returns the value that it computed "
    "at an earlier call. One that is not needed feeds only units that do not run. At a skipped call the "
    "network is not entered at all: its last estimate of the noise is reused. Click a cell to switch it, a bar to "
    "switch a whole call or unit; with the keyboard: arrows, space, c for the call, u for the unit. The name of a unit "
    "leads to its features."
)
COMPARISON = {
    "both compute": "both compute it",
    "only this one": "only this one computes it",
    "only the other": "only the other computes it",
    "neither": "neither computes it",
}


def heatmap_style() -> dict[str, Any]:
    """Collect what `static/heatmap.js` needs besides a schedule.

    `legends`: names of the four kinds of cell, the sentence for each, their colours, and the text under the pointer.
    """
    comparison_colours = (COLOURS[0], COLOURS[1], ONLY_OTHER, COLOURS[3])
    legends = {
        "schedule": _legend(STATUSES, SCHEDULE_COLOURS, CELL),
        "file": _legend(STATUSES, SCHEDULE_COLOURS, FILE_CELL),
        "comparison": _legend(COMPARISON, comparison_colours, FILE_CELL),
    }
    layout = bare_layout().to_plotly_json()
    return {
        "legends": legends,
        "layout": layout,
        "colours": COLOURS,
        "abbreviations": ABBREVIATIONS,
        "tick_steps": TICK_STEPS,
        "max_ticks": MAX_TICKS,
    }


def _legend(words: dict[str, str], colours: tuple[str, ...], cell: str) -> dict[str, Any]:
    return {"names": list(words), "sentences": list(words.values()), "colours": colours, "cell": cell}


def graph_json(graph: BlockGraph) -> dict[str, Any]:
    """List units and their MACs, as the browser reads them."""
    return {"units": [unit.model_dump() for unit in graph.units], "macs_fixed": graph.macs_fixed}
