"""The command that runs a method: progress, stopping at a terminal, going on, the table at the end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from explorer import masks
from explorer.cli.pruning import Kept, Lines, followed, told
from explorer.work import Progress

ROOT = Path(__file__).resolve().parent.parent
LEARN = ("--steps", "6", "--method", "dipgo", "--guidance", "3", "--set", "granularity=stage", "--set", "batch=1")


def command(folder, out, *more):
    return ["prune", "--model", str(folder), *LEARN, "--out", str(out), *more]


def test_a_search_stopped_by_the_keyboard_goes_on_to_the_same_file(sd_folder, tmp_path, run):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("dog\ncat\n")
    whole, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    settings = ("--prompts", str(prompts), "--set", "iterations=8")
    code, said, progress = run(*command(sd_folder, whole, *settings))
    assert code == 0 and "an importance for every ratio" in said and "50%" in said
    assert "8 of 8" in progress and "loss" in progress

    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # in a background job it is ignored
    arguments = [sys.executable, "-m", "explorer", *command(sd_folder, stopped, *settings)]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True, **heard)
    for line in process.stderr:
        if " of 8: " in line:
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    errors = process.stderr.read()
    assert process.wait(60) == 130 and "go on with --resume" in errors and not stopped.exists()
    assert [file.name for file in tmp_path.glob(".*.state")] == [".stopped.safetensors.state"]

    code, _, said = run(*command(sd_folder, stopped, *settings, "--resume", "--set", "rate=0.1"))
    assert code == 2 and "other settings" in said.splitlines()[-1]
    assert not run(*command(sd_folder, stopped, *settings, "--resume"))[0] and not list(tmp_path.glob(".*.state"))
    first, second = masks.load(whole), masks.load(stopped)
    assert np.array_equal(first.rank, second.rank) and np.array_equal(first.score, second.score)


def test_nothing_to_go_on_with_is_said(sd_folder, tmp_path, run):
    code, _, said = run(*command(sd_folder, tmp_path / "new.safetensors", "--resume"))
    assert code == 2 and "nothing to go on with" in said.splitlines()[-1]


def failing(states):
    for number, state in enumerate(states):
        yield Progress(number + 1, 9, "learning", state=state)
    raise ValueError("the loss is no longer finite")


def test_what_was_learned_before_a_failure_is_kept(tmp_path):
    kept = Kept(tmp_path / "a.safetensors", {"method": "x"})
    with pytest.raises(ValueError, match=r"no longer finite\. What was learned so far is kept"):
        followed(failing([{"done": np.array(1)}, {"done": np.array(2)}]), kept)
    assert kept.load()["done"] == 2
    kept.path.write_bytes(kept.path.read_bytes()[:20])
    with pytest.raises(ValueError, match="damaged"):
        kept.load()


def test_a_method_without_a_state_leaves_nothing_behind(tmp_path):
    kept = Kept(tmp_path / "a.safetensors", {"method": "x"})
    with pytest.raises(ValueError, match="no longer finite$"):
        followed(failing([None]), kept)
    assert os.listdir(tmp_path) == []


def test_lines_say_how_long_it_takes(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 10.1, 40.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    lines = Lines()
    for done in (1, 2, 3, 5):
        lines(Progress(done, 5, f"loss {done}"))
    said = capsys.readouterr().err.splitlines()
    assert said == ["1 of 5: loss 1", "2 of 5: loss 2, 30 s left", "5 of 5: loss 5, 0 s left"]


def test_the_table_says_what_was_reached(sd_folder):
    from explorer import catalogue
    from explorer.experiment import config_of, prune
    from explorer.work import finished

    model = catalogue.load(sd_folder)
    importance = finished(prune(model, "uniform", config_of("uniform", {"steps": 10})))
    rows = {row.split()[0]: row.split()[1:] for row in told(importance).splitlines()[2:]}
    assert rows["80%"] == ["80.0%", "2", "2"] and "95%" not in rows
