"""Diffusion Pruning Explorer: what a diffusion model can leave out, what that saves and what it loses."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explorer.library import apply, prune_widths
    from explorer.masks.result import Importance, Mask
    from explorer.models.catalogue import load

__version__ = "0.2.0"
__all__ = ["Importance", "Mask", "apply", "load", "prune_widths"]

_MODULES = {
    "Importance": "explorer.masks.result",
    "Mask": "explorer.masks.result",
    "apply": "explorer.library",
    "load": "explorer.models.catalogue",
    "prune_widths": "explorer.library",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import explorer` stays light."""
    if name not in _MODULES:
        raise AttributeError(f"module 'explorer' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
