"""The documents: their length, links, commands, settings and numbers are those of the project."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer

from explorer.cli import app
from explorer.cli.options import parse_setting
from explorer.evaluation import baselines
from explorer.evaluation.results import read_results
from explorer.evaluation.statistics import interval, paired_difference
from explorer.pruners import method_config
from explorer.settings import Settings
from explorer.studies.precompute import PARTS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = (README, ROOT / "CHANGELOG.md", *sorted((ROOT / "explorer").rglob("README.md")))
DOCUMENTS += (*sorted((ROOT / "assets").rglob("README.md")), ROOT / "tests/bench/README.md")
MAX_LINES = 140
PREFIX = "python -m explorer "
RESULTS = ROOT / "assets/results/emoji-unet-ddim-50"


def commands_of(file: Path) -> list[str]:
    """The commands of the project in a document, without the call of Python; `...` stands for any."""
    found = re.findall(rf"{PREFIX}([^`\n&#|]*)", file.read_text(encoding="utf-8"))
    return [line.strip() for line in found if not line.startswith("...")]


def test_the_readme_is_short_enough_to_be_read():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(file):
    for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, heading = target.partition("#")
        there = file.parent / path.replace("%2B", "+") if path else file
        assert there.exists(), target
        if heading:
            assert heading in headings(there), target


def headings(file: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub and the hub make them."""
    titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def command_names(command: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """The names of all commands below one, groups included."""
    below = getattr(command, "commands", {})
    return {path} | {name for word, one in below.items() for name in command_names(one, (*path, word))}


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_commands_and_their_options_exist(file):
    root = typer.main.get_command(app)
    for line in commands_of(file):
        words = shlex.split(line)
        command: Any = root
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert command is not root, f"{file.name}: {line}"
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        unknown = {word for word in words if word.startswith("--")} - known - {"--help"}
        assert not unknown, f"{file.name}: {line}"
        if command.name == "precompute":
            assert {word for word in words if not word.startswith("--") and not word.isdigit()} <= set(PARTS), line
        if "--method" in words and "--set" in words:
            settings = [parse_setting(words[at + 1]) for at, word in enumerate(words) if word == "--set"]
            assert method_config(words[words.index("--method") + 1], dict(settings))


def test_every_command_has_help(run):
    for words in command_names(typer.main.get_command(app)):
        code, out, _ = run(*words, "--help")
        assert code == 0 and "Usage" in out


@pytest.mark.slow
def test_the_commands_and_the_library_lines_of_the_readme_work(run, sd_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "TUNING_IMAGES", 1)  # the baseline's own tests are test_evaluation's
    shutil.copytree(sd_folder, tmp_path / "my-sd15")
    monkeypatch.chdir(tmp_path)
    for line in commands_of(README):
        code, out, error = run(*shlex.split(line))
        assert code == 0, f"{line}: {error}"
        assert out
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 -- the README's own lines
    assert names["picture"].size == (64, 64)
    assert names["schedule"].macs_fraction == pytest.approx(0.5)
    assert names["widths"].params_fraction == pytest.approx(0.8, abs=1e-3)
    assert json.loads(Path("smaller/model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"
    assert {"dog.png", "trial.parquet", "mine.safetensors"} <= {file.name for file in tmp_path.iterdir()}


def test_the_table_of_settings_is_complete():
    text = (ROOT / "explorer/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `EXPLORER_(\w+)` \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    expected = [
        (name.upper(), f"`{field.default}`" if field.default not in ("", ()) else "empty", field.description)
        for name, field in Settings.model_fields.items()
    ]
    assert rows == expected


def test_every_bench_has_its_line():
    text = (ROOT / "tests/bench/README.md").read_text(encoding="utf-8")
    names = {file.name for file in (ROOT / "tests/bench").glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"^\| `(\w+\.py)` \|", text, re.MULTILINE)) == names


# -- the result table


SHIPPED = "**DiP-GO**, the shipped file"
CANDIDATES = {  # a row of the table -> file, method, and settings by which its rows are found
    SHIPPED: ("head-to-head", "dipgo", {"algorithm": "nested"}),
    "whole calls, denser at both ends, order 1": (
        "uniform-ends",
        "uniform",
        {"order": 1, "max_extrapolation": None},
    ),
    "... extrapolating at most 1 call ahead": ("uniform-ends", "uniform", {"order": 1, "max_extrapolation": 1}),
    "... order 0": ("uniform-ends", "uniform", {"order": 0}),
    "planned calls, learned coefficients, the shipped file": ("planned", "planned", {}),
    "whole calls, found by a search": ("head-to-head", "search", {}),
    "DiP-GO as published": ("head-to-head", "dipgo", {"algorithm": "argmax"}),
    "UniPC, fewer steps": ("", "unipc-steps", {}),
    "DDIM, fewer steps": ("", "ddim-steps", {}),
    "DPM-Solver++, fewer steps": ("", "dpm++-steps", {}),
    "DeepCache (keeps 51.8 and 28.1 % of the MACs)": ("", "deepcache", {}),
}
RATIOS = (0.5, 0.7)
MAX_COST_DIFFERENCE = 0.001  # share of the MACs, of all rows that do not state theirs


def candidate_rows(name: str, ratio: float) -> pd.DataFrame:
    """The pictures of a row of the table at a ratio."""
    kind, method, settings = CANDIDATES[name]
    _, rows = read_results(Path(f"{RESULTS}-{kind}.parquet" if kind else f"{RESULTS}.parquet"))
    rows = rows[(rows.method == method) & (rows.ratio.astype(float).round(6) == ratio)]
    fits = [all(json.loads(text)[key] == value for key, value in settings.items()) for text in rows.settings]
    rows = rows[fits]
    assert rows.key.nunique() == 1 and rows.error.isna().all()
    return rows


def result_line(name: str) -> str:
    """The line of the README's table that the results files give."""
    cells, count = [name], 0
    for ratio in RATIOS:
        rows, learned = candidate_rows(name, ratio), candidate_rows(SHIPPED, ratio)
        count = len(rows)
        mean, low, high = interval(rows.psnr_box.to_numpy(float), rows.prompt.to_numpy())
        lead = ""
        if name != SHIPPED:
            found = paired_difference(pd.concat([learned, rows]), learned.key.iloc[0], rows.key.iloc[0], "psnr_box")
            assert found.n == count
            lead = f"{found.mean:.1f} [{found.low:.1f}, {found.high:.1f}]"
        cells += [f"{mean:.1f} [{low:.1f}, {high:.1f}]", lead]
        if "keeps" not in name:
            assert abs(rows.kept.iloc[0] - (1 - ratio)) < MAX_COST_DIFFERENCE
    return f"| {' | '.join([*cells, str(count)])} |".replace("|  |", "| |")


def seed_leads(ratio: float, baseline: str) -> dict[str, tuple[float, float, float]]:
    """By how much each seed of the search, and their mean, is ahead of a row: mean and interval, pictures of all."""
    _, others = read_results(Path(f"{RESULTS}-seeds.parquet"))
    others = others[(others.method == "dipgo") & (others.ratio.astype(float).round(6) == ratio)]
    seeds = others.pivot_table("psnr_box", ["prompt", "seed"], "key")
    known = {"shipped": candidate_rows(SHIPPED, ratio), "baseline": candidate_rows(baseline, ratio)}
    for name, rows in known.items():
        seeds = seeds.join(rows.set_index(["prompt", "seed"]).psnr_box.rename(name), how="inner")
    leads = seeds.drop(columns="baseline").sub(seeds.baseline, axis=0).assign(mean=lambda all: all.mean(axis=1))
    prompts = leads.index.get_level_values("prompt").to_numpy()
    return {f"{name}": tuple(interval(values.to_numpy(float), prompts)) for name, values in leads.items()}


@pytest.mark.parametrize("name", CANDIDATES)
def test_the_result_table_follows_from_the_files(name):
    assert result_line(name) in README.read_text(encoding="utf-8").splitlines()


def test_the_sentence_about_losing_follows_from_the_files():
    leads = seed_leads(0.5, "whole calls, denser at both ends, order 1")
    text = " ".join(README.read_text(encoding="utf-8").split())
    mean, low, high = leads.pop("mean")
    worst = min(leads.values())
    assert f"{-worst[0]:.1f} [{-worst[2]:.1f}, {-worst[1]:.1f}] dB behind" in text
    assert f"{mean:.1f} [{low:.1f}, {high:.1f}] dB" in text
    others = seed_leads(0.7, "... extrapolating at most 1 call ahead")
    assert all(low > 0 for _, low, _ in others.values())
