"""The page's foot: where to read on, the papers, the version. Loads no torch."""

import os
import re
from html import escape
from pathlib import Path
from typing import Any

import tomllib

from explorer import __version__

ROOT = Path(__file__).resolve().parent.parent.parent
README = ROOT / "README.md"
README_PATH = "explorer/readme"  # where the page serves it, see `routes`
SPACES = "https://huggingface.co/spaces"
SPACE_ID = re.compile(r"[\w.-]+/[\w.-]+")
PAPERS = (
    ("DiP-GO: A Diffusion Pruner via Few-step Gradient Optimization", "https://arxiv.org/abs/2410.16942"),
    ("Structural Pruning for Diffusion Models", "https://arxiv.org/abs/2305.10924"),
    ("Effortless Efficiency: Low-Cost Pruning of Diffusion Models", "https://arxiv.org/abs/2412.02852"),
    ("DeepCache: Accelerating Diffusion Models for Free", "https://arxiv.org/abs/2312.00858"),
)


def footer_markup() -> str:
    """Make the foot. The repository is what pyproject.toml names, or the Space that runs this; else it is left out."""
    about = [_link("README", README_PATH)] if README.is_file() else []
    if repository := repository_url():
        about.append(_link("Code", repository))
    about.append(f"version {escape(__version__)}")
    papers = ", ".join(_link(title, url) for title, url in PAPERS)
    return f"<footer><p>{' · '.join(about)}</p><p>The methods are by others. Papers: {papers}.</p></footer>"


def repository_url() -> str:
    """Find the address of the code; empty where nothing names it."""
    try:
        project: Any = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):
        project = {}
    urls = {name.lower(): str(url) for name, url in project.get("urls", {}).items()}
    named = next((urls[name] for name in ("repository", "source", "homepage") if name in urls), "")
    space = os.environ.get("SPACE_ID", "")
    if not named and SPACE_ID.fullmatch(space):
        named = f"{SPACES}/{space}/tree/main"
    return named if named.startswith("https://") else ""


def _link(title: str, url: str) -> str:
    return f'<a href="{escape(url)}" target="_blank" rel="noopener">{escape(title)}</a>'
