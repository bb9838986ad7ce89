"""Rules of the house that a program can check."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "explorer").rglob("*.py"))

# Imports point down this list, never up; on one row, only as INSIDE says.
ROWS = [
    {"graph", "letters", "files", "masks", "pruners.configs", "figures", "work", "team"},
    {"supernet", "structure", "channels", "cost", "metrics", "features", "sites"},
    {"mixture", "widths"},
    {"trajectory"},
    {"similarity"},
    {"model", "catalogue"},
    {"prompts", "drawing", "trials", "shipped", "gallery"},
    {"pruners"},
    {"evidence"},
    {"experiment"},
    {"training", "jobs"},
    {"cli", "ui"},
]
INSIDE = {
    ("masks", "graph"),  # a file holds units, and there is one definition of a unit
    ("masks", "files"),
    ("masks", "letters"),  # a schedule made by hand comes in letters
    ("catalogue", "model"),
    ("cli", "ui"),
}
ALONE = {"gradio": ("ui",), "distributed": ("jobs",), "dask": ("jobs",)}


def part_of(path):
    parts = path.relative_to(ROOT / "explorer").with_suffix("").parts
    return "pruners.configs" if parts == ("pruners", "configs") else parts[0]


def imports(path):
    """(module, is it inside `if TYPE_CHECKING`) for every import statement."""
    tree = ast.parse(path.read_text())
    typed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typed:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from (f"explorer.{alias.name}" if node.module == "explorer" else node.module for alias in node.names)


def row_of(part):
    return next(index for index, row in enumerate(ROWS) if part in row)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path):
    here = part_of(path)
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in ALONE or here in ALONE[top], f"{top} belongs to {ALONE[top]}"
        if top != "explorer" or name == "explorer" or here in ("__init__", "__main__"):
            continue
        there = "pruners.configs" if name.startswith("explorer.pruners.configs") else name.split(".")[1]
        if there != here and (here, there) not in INSIDE:
            assert row_of(there) < row_of(here), f"{here} imports {there}"


def test_a_tab_never_imports_another_tab():
    tabs = {"explore", "features", "smaller", "optimize", "masks"}
    for path in (ROOT / "explorer" / "ui").glob("*.py"):
        if path.stem in tabs:
            others = "|".join(tabs - {path.stem})
            assert not re.search(
                rf"explorer\.ui\.({others})\b|from explorer\.ui import .*\b({others})\b", path.read_text()
            )


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), ROOT / "app.py"], ids=str)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= (300 if "explorer" in path.parts else 400)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert "pickle" not in ast.unparse(node)


def test_the_space_runs_the_gradio_that_is_pinned():
    front = re.search(r"^sdk_version: (\S+)$", (ROOT / "README.md").read_text(), re.MULTILINE)[1]
    pinned = re.search(r"^gradio==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[1]
    import gradio

    assert front == pinned == gradio.__version__


def test_no_file_needs_large_file_storage_and_assets_stay_small():
    sizes = {path: path.stat().st_size for path in (ROOT / "assets").rglob("*") if path.is_file()}
    assert max(sizes.values()) < 10_000_000 and sum(sizes.values()) < 120_000_000


def test_the_top_level_is_the_agreed_one():
    import subprocess

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    top = {name.split("/")[0] for name in listed if name}
    assert top <= {
        *("app.py", "explorer", "assets", "tests", "requirements.txt", "requirements-dev.txt", "README.md"),
        *("Makefile", "pyproject.toml", ".ci", ".gitignore", "CHANGELOG.md", "LICENSE"),
    }
