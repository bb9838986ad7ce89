"""Rules of the project that a program can check; `make lint` runs this file, import-linter and mypy."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [ROOT / "app.py", *sorted((ROOT / "explorer").rglob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))]
TOP_LEVEL = {
    *("app.py", "explorer", "assets", "tests", "README.md"),
    *("requirements.txt", "requirements.lock", "requirements-dev.txt", "requirements-dev.lock"),
    *("Makefile", "pyproject.toml", ".ci", ".gitignore", "CHANGELOG.md", "LICENSE"),
}


def test_imports_point_down_the_layers_and_make_no_circle():
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    linted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout


def test_files_and_functions_are_short_and_nothing_is_pickled():
    faults = [fault for path in SOURCES for fault in faults_of(path)]
    assert not faults, "\n".join(faults)


READS_PICKLE = "published.py"  # gates that others have published


def faults_of(path):
    name, text = path.relative_to(ROOT), path.read_text()
    if len(text.splitlines()) > (300 if name.parts[0] == "explorer" else 400):
        yield f"{name} is too long"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
            yield f"{name}: {node.name} is too long"
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"{name}: a relative import"
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        if is_import and "pickle" in ast.unparse(node) and name.name not in (READS_PICKLE, f"test_{READS_PICKLE}"):
            yield f"{name}: pickle"
        if name.name == READS_PICKLE and re.match(r"pickle\.(?!Unpickler$)", ast.unparse(node)):
            yield f"{name}: more of pickle than an unpickler that refuses all names but three"


def test_the_space_runs_the_gradio_that_is_pinned():
    front = re.search(r"^sdk_version: (\S+)$", (ROOT / "README.md").read_text(), re.MULTILINE)[1]
    pinned = re.search(r"^gradio==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[1]
    import gradio

    assert front == pinned == gradio.__version__


def test_no_file_needs_large_file_storage_and_assets_stay_small():
    sizes = {path: path.stat().st_size for path in (ROOT / "assets").rglob("*") if path.is_file()}
    assert max(sizes.values()) < 10_000_000 and sum(sizes.values()) < 140_000_000


def test_the_top_level_is_the_agreed_one():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    assert {name.split("/")[0] for name in files if name} <= TOP_LEVEL
