"""How the browser draws the map of a schedule: the looks and words that it gets once. It adds the numbers itself."""

from typing import Any

from explorer.masks.block_graph import BlockGraph

COMPARISON_COLOURS = {"only": "#e6a93c", "other": "#cc79a7"}
FILE_CELL = "{unit}\ncall {call}\n{share} of a call's MACs\n{status}"  # a file knows no timesteps
CELL = FILE_CELL.replace("{call}", "{call}, timestep {timestep}")
# name in the legend: look, sentence for one cell; in the order of `STATUS` in schedule.js
STATUSES = {
    "computed": ("full", "computed"),
    "reused": ("hollow", "reused from call {source}"),
    "not needed (nothing reads it)": ("hatch", "not needed: nothing that runs reads it"),
    "call skipped": ("pale", "call skipped: the estimate of call {source} is reused"),
}
CAPTION = (
    "Each column is one call of the network, each row one of its layers, which are drawn at the left: the wider, "
    "the more pixels. A reused layer hands back what it computed at an earlier call. At a skipped call the "
    "network does not run at all: its last output is used again. Click a cell to switch it, a bar "
    "for a whole call or layer; click a layer at the left for its features. Keys: arrows, space, c for the call, "
    "u for the layer, f for features. <a href='?tab=supernet&scene=subnet'>Why layers can be left out: the lesson</a>"
)
COMPARISON = {
    "both compute": ("full", "both compute it"),
    "only this one": ("only", "only this one computes it"),
    "only the other": ("other", "only the other computes it"),
    "neither": ("pale", "neither computes it"),
}


def heatmap_style() -> dict[str, Any]:
    """Collect what `static/heatmap.js` needs besides a schedule.

    `legends`: names of the four kinds of cell, the sentence for each, their looks, and the text under the pointer.
    """
    legends = {
        "schedule": _legend(STATUSES, CELL),
        "file": _legend(STATUSES, FILE_CELL),
        "comparison": _legend(COMPARISON, FILE_CELL),
    }
    return {"legends": legends, "colours": COMPARISON_COLOURS}


def _legend(kinds: dict[str, tuple[str, str]], cell: str) -> dict[str, Any]:
    looks, sentences = zip(*kinds.values(), strict=True)
    return {"names": list(kinds), "sentences": list(sentences), "looks": list(looks), "cell": cell}


def graph_json(graph: BlockGraph) -> dict[str, Any]:
    """List units and their MACs, as the browser reads them."""
    return {"units": [unit.model_dump() for unit in graph.units], "macs_fixed": graph.macs_fixed}
