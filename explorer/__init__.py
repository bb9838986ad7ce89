"""Diffusion Pruning Explorer: what a diffusion model can leave out, what that saves and what it loses."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explorer.catalogue import load
    from explorer.experiment import apply
    from explorer.masks import Importance, Mask

__version__ = "0.1.0"
__all__ = ["Importance", "Mask", "apply", "load"]

_HOMES = {
    "Importance": "explorer.masks",
    "Mask": "explorer.masks",
    "apply": "explorer.experiment",
    "load": "explorer.catalogue",
}


def __getattr__(name: str) -> Any:
    """The public names, imported on first use so that `import explorer` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'explorer' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
