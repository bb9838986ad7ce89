"""What the drawer "Your model" shows: what an architecture says without weights, as plain values. Loads no torch."""

from collections.abc import Iterable, Mapping
from typing import Any

from explorer.jobs import tasks
from explorer.jobs.executors.base import RunTask
from explorer.models import catalogue
from explorer.models.catalogue import list_models
from explorer.models.own_config import MAX_CONFIG_BYTES, read_config
from explorer.models.pipelines import PIPELINES
from explorer.pruners import method_title
from explorer.pruners.furthest import Furthest
from explorer.ui.budgets import ENDING
from explorer.ui.markup import percent
from explorer.ui.views.prune_command import LEARNED_METHOD, first_commands, learning_note

STEPS = 50
MAX_NAME = 300  # characters
NO_NUMBERS = "For the numbers this page needs the config.json of the denoiser; it fetches nothing from the hub."


def describe(run: RunTask, name: Any, config: Any) -> dict[str, Any]:
    """Say what is known of a model, by the text of its `config.json` or by its name in the catalogue, both as a client
    sent them. Raises ValueError for a configuration that is none."""
    if not isinstance(name, str) or not isinstance(config, str) or len(name) > MAX_NAME:
        raise ValueError("type the name of a model, or choose its config.json")
    if len(config) > MAX_CONFIG_BYTES:  # before anything reads it
        raise ValueError(f"a config.json may have {MAX_CONFIG_BYTES >> 10} KB here")
    id = None if config.strip() else catalogue.find_id(name.strip())
    if not config.strip() and id is None:
        return {"title": NO_NUMBERS, "facts": [], "furthest": [], "units": []} | _commands(has_names=False)
    checked = read_config(config) if config.strip() else None
    for found in run(tasks.describe_architecture, id or "", checked, STEPS):
        return _described(found, name if checked else str(id))
    raise ValueError(ENDING)


def _described(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    macs, params = found["macs_per_call"], found["params"]
    rows = [row for row in list_models() if row["denoiser"] == found["denoiser"]]
    has_names = bool(rows) and PIPELINES[rows[-1]["pipeline"]].has_names
    facts = [
        ["denoiser", found["denoiser"]],
        ["parameters", f"{params / 1e6:,.1f} M"],
        ["MACs of one call", f"{macs / 1e9:,.2f} G, and {found['macs_attention'] / 1e9:,.2f} G of attention products"],
        [f"MACs of {STEPS} calls", f"{STEPS * macs / 1e12:,.2f} T"],
        ["units", f"{len(found['units'])}, which can be skipped one by one"],
    ]
    return {
        "title": f"{name or 'Your model'}: what its architecture says, without weights.",
        "facts": facts,
        "furthest": _furthest_rows(found["furthest"]),
        "units": [[unit, percent(share / macs)] for unit, share in found["units"]],
    } | _commands(has_names)


def _commands(has_names: bool) -> dict[str, Any]:
    commands = first_commands(has_names)
    return {"commands": commands, "note": learning_note(LEARNED_METHOD, commands)}


def _furthest_rows(furthest: Iterable[Furthest]) -> list[list[str]]:
    """List method, what it removes and the largest share; methods that reach the same stand together."""
    together: dict[tuple[str, str], list[str]] = {}
    for method, axis, ratio, reason in furthest:
        reached = reason if ratio is None else f"{percent(ratio, 0)} of the {'parameters' if axis else 'MACs'}"
        together.setdefault((axis or "calls of units", reached), []).append(method_title(method))
    return [[", ".join(titles), what, reached] for (what, reached), titles in together.items()]
