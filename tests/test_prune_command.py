"""The command that runs a method: progress, an interruption at a terminal, resuming, the table at the end."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from explorer.cli import output
from explorer.cli.output import ProgressLines, importance_table
from explorer.cli.prune import run_and_save_states
from explorer.experiment import load_cached, prune
from explorer.masks.result import load
from explorer.progress import Progress, run_to_completion
from explorer.pruners import method_config
from explorer.pruners.resume import SavedState

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
LEARN = ("--steps", "6", "--method", "dipgo", "--guidance", "3", "--set", "granularity=stage", "--set", "batch=1")


def command(folder, out, *more):
    return ["prune", "--model", str(folder), *LEARN, "--out", str(out), *more]


def test_an_interrupted_search_resumes_to_the_same_file(sd_folder, tmp_path, run):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("dog\ncat\n")
    whole, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    settings = ("--prompts", str(prompts), "--set", "iterations=8")
    code, output, progress = run(*command(sd_folder, whole, *settings))
    assert code == 0 and "an importance for every ratio" in output and "50%" in output
    assert "8 of 8" in progress and "loss" in progress

    handled = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # in a background job it is ignored
    arguments = [sys.executable, "-m", "explorer", *command(sd_folder, stopped, *settings)]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True, **handled)
    for line in process.stderr:
        if " of 8: " in line:
            break
    process.send_signal(signal.SIGINT)
    errors = process.stderr.read()
    assert process.wait(60) == 130 and "continue with --resume" in errors and not stopped.exists()
    assert [file.name for file in tmp_path.glob(".*.state")] == [".stopped.safetensors.state"]

    code, _, errors = run(*command(sd_folder, stopped, *settings, "--resume", "--set", "learning_rate=0.1"))
    assert code == 2 and "other settings" in errors.splitlines()[-1]
    assert not run(*command(sd_folder, stopped, *settings, "--resume"))[0] and not list(tmp_path.glob(".*.state"))
    first, second = load(whole), load(stopped)
    assert np.array_equal(first.rank, second.rank) and np.array_equal(first.score, second.score)


def test_resuming_without_a_state_is_an_error(sd_folder, tmp_path, run):
    code, _, errors = run(*command(sd_folder, tmp_path / "new.safetensors", "--resume"))
    assert code == 2 and "there is no saved state to resume from" in errors.splitlines()[-1]


def failing(states):
    for number, state in enumerate(states):
        yield Progress(number + 1, 9, "learning", state=state)
    raise ValueError("the loss is no longer finite")


def test_learned_state_is_kept_after_an_error(tmp_path):
    saved = SavedState(tmp_path / "a.safetensors", {"method": "x"})
    with pytest.raises(ValueError, match=r"no longer finite\. What was learned so far is kept"):
        run_and_save_states(failing([{"done": np.array(1)}, {"done": np.array(2)}]), saved)
    assert saved.load()["done"] == 2
    saved.path.write_bytes(saved.path.read_bytes()[:20])
    with pytest.raises(ValueError, match="damaged"):
        saved.load()


def test_method_without_a_state_leaves_no_files(tmp_path):
    saved = SavedState(tmp_path / "a.safetensors", {"method": "x"})
    with pytest.raises(ValueError, match="no longer finite$"):
        run_and_save_states(failing([None]), saved)
    assert os.listdir(tmp_path) == []


def test_progress_lines_show_the_remaining_time(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 10.1, 40.0])
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=lambda: next(clock)))  # not of every other thread
    lines = ProgressLines()
    for done in (1, 2, 3, 5):
        lines(Progress(done, 5, f"loss {done}"))
    errors = capsys.readouterr().err.splitlines()
    assert errors == ["1 of 5: loss 1", "2 of 5: loss 2, 30 s left", "5 of 5: loss 5, 0 s left"]


def test_table_shows_the_reached_ratio_of_each_requested_one(sd_folder):
    model = load_cached(str(sd_folder))
    importance = run_to_completion(prune(model, "uniform", method_config("uniform", {"steps": 10})))
    rows = {row.split()[0]: row.split()[1:] for row in importance_table(importance).splitlines() if "%" in row}
    assert rows["80%"] == ["80.0%", "20.0%", "2", "2"] and "95%" not in rows
