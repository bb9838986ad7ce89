"""Reads what format 1 of mask files called otherwise: one table of renamed fields. Loads no torch."""

from collections.abc import Mapping
from typing import Any

HEADER_FIELDS = {"reach": "max_extrapolation", "sites": "dims"}
DIM_FIELDS = {"rest": "params_when_empty", "bunch": "multiple_of"}
METHODS = {"random-widths": "random-width", "ecodiff-released": "ecodiff-checkpoint", "by hand": "manual"}
SETTINGS = {
    "reach": "max_extrapolation",
    "look": "probe_fraction",
    "checks": "validate_every",
    "share": "micro_batch",
    "rate": "learning_rate",
    "brood": "candidates_per_round",
    "pictures": "num_images",
    "every": "interval",
    "lowest": "min_ratio",
    "highest": "max_ratio",
    "first": "warmup_steps",
    "start": "init",
    "decision": "algorithm",
    "price": "penalty",
    "weight": "penalty_weight",
    "distance": "loss_on",
    "end": "stop_after",
    "rows": "prune_adaln",
    "memory": "checkpointing",
}
VALUES: Mapping[str, Mapping[Any, Any]] = {
    "algorithm": {"worth": "gauss_newton", "prefix": "nested", "concrete": "hard_concrete"},
    "loss_on": {"chain": "rollout", "call": "single_call"},
    "checkpointing": {"plain": "none", "step": "per_call", "nested": "sqrt"},
    "selection": {"order": "rank"},
}


def upgrade_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Rename a method's settings, and those values that were renamed."""
    renamed = {SETTINGS.get(name, name): value for name, value in settings.items()}
    return {
        name: VALUES[name].get(value, value) if name in VALUES and isinstance(value, str) else value
        for name, value in renamed.items()
    }


def upgrade_pruner(name: Any, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Rename a method and its settings."""
    return METHODS.get(name, name) if isinstance(name, str) else name, upgrade_settings(settings)


def upgrade_dim_name(name: str) -> str:
    """Rename a prunable dimension, or a tensor that is named by one."""
    return f"{name.removesuffix(':rows')}:adaln_channels" if name.endswith(":rows") else name


def upgrade_header(document: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a header of format 1 into one of format 2. Whatever else is wrong with it is left as it is."""
    header = {HEADER_FIELDS.get(name, name): value for name, value in document.items()} | {"format": 2}
    pruner = header.get("pruner")
    if isinstance(pruner, dict) and isinstance(pruner.get("config"), dict):
        name, config = upgrade_pruner(pruner.get("name"), pruner["config"])
        header["pruner"] = pruner | {"name": name, "config": config}
    if isinstance(header.get("dims"), list):
        header["dims"] = [_upgrade_dim(dim) for dim in header["dims"]]
    return header


def _upgrade_dim(dim: Any) -> Any:
    if not isinstance(dim, dict):
        return dim
    renamed = {DIM_FIELDS.get(name, name): value for name, value in dim.items()}
    name = renamed.get("name")
    return renamed | ({"name": upgrade_dim_name(name)} if isinstance(name, str) else {})
