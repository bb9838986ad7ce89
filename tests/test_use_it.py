"""What the drawer "Use it" shows really runs: its lines of Python, its commands; and hostile values stay harmless."""

import base64
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image

from explorer.bundled import masks as bundled
from explorer.cli import options
from explorer.experiment import ExperimentRequest, plan
from explorer.jobs.mask_library import MaskLibrary, bundled_entries
from explorer.masks.result import Importance, Mask, load
from explorer.pruners import PRUNERS
from explorer.ui import url_state
from explorer.ui.views.masks import Selection
from explorer.ui.views.prune_command import MODEL, first_commands, slug
from explorer.ui.views.use_it import drawer_json, use_of_file, use_of_request
from explorer.ui.views.widths import use_of_widths

ROOT = Path(__file__).resolve().parent.parent
VALUES = {"model": "emoji-unet", "method": "uniform", "prompt": "dog", "seed": 1, "steps": 4, "sampler": "ddim"}
VALUES |= {"guidance": 3.0, "ratio": 0.5, "baseline_sampler": "dpm++"}
SCENE = {"prompt": "dog", "seed": 1, "baseline_sampler": "unipc"}
ENTRIES = {entry.id: entry for entry in bundled_entries()}


def run_here(task, *arguments):
    return task(*arguments)


def shown(library=None, **changes):
    return drawer_json(use_of_request(run_here, library, VALUES | changes))


def of_file(id, ratio=0.5, edits="", **changes):
    return drawer_json(use_of_file("masks", ENTRIES[id], Selection(id, ratio, edits), SCENE | changes))


def save(value, folder):
    file = folder / value["file"]["name"]
    file.write_bytes(base64.b64decode(value["file"]["content"]))
    return file


def words_of(value, model="./my-model"):
    """Write the commands as the browser does, and read them as a shell does; without `python -m explorer`."""
    commands = [shlex.join([model if word == MODEL else word for word in words]) for words in value["commands"]]
    return [shlex.split(command)[3:] for command in commands]


def parse(words):
    """Parse a command by the real command line, without running it."""
    group = typer.main.get_command(options.app)
    name, command, rest = group.resolve_command(group.make_context("explorer", ["models"]), list(words))
    return command.make_context(name, rest).params


def run_python(lines, folder):
    path = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", lines], cwd=folder, env=path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (folder / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_lines_for_a_schedule_run_as_they_are_copied(tmp_path):
    value = shown()
    mask = Mask.load(save(value, tmp_path))
    assert mask.keep.tolist() == plan(ExperimentRequest(**VALUES)).keep.tolist()
    run_python(value["python"], tmp_path)


def test_the_lines_for_a_flux_draw_a_picture_of_its_own_size(tmp_path):
    value = shown(model="emoji-flux", sampler="euler", guidance=3.5)
    save(value, tmp_path)
    run_python(value["python"], tmp_path)
    assert Image.open(tmp_path / "picture.png").size == (64, 64)


def test_the_lines_for_widths_run_as_they_are_copied(tmp_path):
    [name] = [stem for stem in bundled.width_headers("emoji-dit") if stem == "ecodiff"]
    values = VALUES | {"model": "emoji-dit", "prompt": "3d airplane"}
    value = drawer_json(use_of_widths(name, 0.2, values))
    assert Importance.load(save(value, tmp_path)).at(0.2).params_fraction == pytest.approx(0.8, abs=0.01)
    run_python(value["python"], tmp_path)


@pytest.mark.parametrize("denoiser", ["emoji-ddpm", "emoji-dit"])
def test_a_pipeline_is_called_by_what_it_draws(denoiser):
    lines = shown(model=denoiser, prompt="12")["python"]
    assert ("pipe([12], " in lines) == (denoiser == "emoji-dit") and ("guidance" in lines) == (denoiser == "emoji-dit")
    compile(lines, "lines", "exec")


def test_an_importance_is_taken_whole_and_at_the_ratio_that_is_shown(tmp_path):
    value = shown(method="dipgo", steps=50, guidance=7.5, ratio=0.8)
    file = save(value, tmp_path)
    assert file.name == "emoji-unet-dipgo-ddim-50.safetensors" and ".at(0.8)" in value["python"]
    assert Importance.load(file).at(0.8).macs_fraction == value["saves"]["kept"]
    assert value["saves"]["baseline"].startswith("DPM-Solver++, ") and value["saves"]["baselineKept"] == 0.2


def test_a_schedule_that_was_edited_by_hand_is_the_file(tmp_path):
    keep = plan(ExperimentRequest(**VALUES)).keep.copy()
    keep[1] = True
    from explorer.masks.encoding import encode_bits

    value = shown(manual_schedule=encode_bits(keep))
    assert load(save(value, tmp_path)).keep.tolist() == keep.tolist() and value["edited"]
    assert "uniform" in value["commands"][0] and "edited by hand" in value["note"]
    id = "emoji-unet/dipgo-ddim-25"
    table = load(ENTRIES[id].path).at(0.5).keep.copy()
    table[1] = True
    edited = of_file(id, edits=encode_bits(table))
    assert load(save(edited, tmp_path)).header.pruner.name == "manual" and "dipgo" in edited["commands"][0]
    assert "--ratio" in edited["commands"][0] and "manual_schedule=" in edited["query"]


@pytest.mark.parametrize("id", ENTRIES)
def test_the_commands_of_every_bundled_file_parse_and_name_its_settings(id):
    value = of_file(id, 0.3)
    prune, *fit, generate = map(parse, words_of(value))
    header = ENTRIES[id].header
    config = header.pruner.config
    assert prune["model"] == "./my-model" and str((fit[0] if fit else prune)["out"]) == str(generate["mask"])
    assert [str(one["file"]) for one in fit] == (
        [str(prune["out"])] if config.get("extrapolation") == "learned" else []
    )
    given = dict(map(options.parse_setting, prune["settings"] or []))
    method = PRUNERS[prune["method"]].config
    trajectory = {name: prune[name] for name in ("steps", "sampler", "guidance", "seed") if name in method.model_fields}
    made = method(**trajectory | given).model_dump()
    assert made == {name: config.get(name, made[name]) for name in made}
    assert slug(value["file"]["name"].removesuffix(".safetensors")) == value["file"]["name"].removesuffix(
        ".safetensors"
    )


@pytest.mark.parametrize("changes", [{}, {"uniform.interval": 2}, {"method": "random"}, {"method": "deepcache"}])
def test_the_commands_run_for_a_folder_of_ones_own(sd_folder, tmp_path, monkeypatch, run, changes):
    monkeypatch.chdir(tmp_path)
    settings = {"ratio": 0.25} if changes.get("method") == "deepcache" else {}
    for words in words_of(shown(**changes, **settings), str(sd_folder)):
        code, _, errors = run(*words)
        assert code == 0, errors
    assert (tmp_path / "picture.png").exists()


def test_the_first_commands_of_an_own_model_parse_and_the_first_two_run(sd_folder, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    commands = words_of({"commands": first_commands(has_names=False)}, str(sd_folder))
    assert [str(parse(words)["model"]) for words in commands] == [str(sd_folder)] * 3
    assert all(run(*words)[0] == 0 for words in commands[:2])


EVIL = '"; import os; os.system("x") #\n\'\\ $(touch x) `touch x`'


def test_a_prompt_is_text_in_python_and_for_the_shell():
    value = shown(prompt=EVIL)
    import ast

    calls = [node for node in ast.walk(ast.parse(value["python"])) if isinstance(node, ast.Call)]
    assert [call.args[0].value for call in calls if getattr(call.func, "id", "") == "pipe"] == [EVIL.strip()]
    assert "os" not in {name.id for name in ast.walk(ast.parse(value["python"])) if isinstance(name, ast.Name)}
    assert parse(words_of(value)[1])["prompt"] == EVIL.strip()


@pytest.mark.parametrize("ratio", ["x", None, float("nan"), [], 7])
def test_a_value_that_no_control_has_is_one_sentence(ratio):
    with pytest.raises(ValueError):
        shown(ratio=ratio)


def test_a_file_without_a_ratio_is_one_sentence():
    with pytest.raises(ValueError, match="choose a ratio"):
        of_file("emoji-unet/dipgo-ddim-25", None)


def foreign(tmp_path, name, config):
    """Upload a file that claims to be of another model and method."""
    importance = load(ENTRIES["emoji-unet/dipgo-ddim-25"].path)
    header = importance.header
    record = header.pruner.model_copy(update={"name": name, "config": config})
    other = header.model_copy(update={"pruner": record, "model": header.model.model_copy(update={"id": "a/model"})})
    type(importance)(other, importance.rank, importance.score).save(tmp_path / "one.safetensors")
    return MaskLibrary(tmp_path / "library").add(tmp_path / "one.safetensors", "<b>../../x</b>", "me")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("$(touch x)", {}),
        ("dipgo", {"iterations": "$(touch x)", "nonsense": [1]}),
        ("dipgo", {"loss": "latent", "order": 2}),
        ("ecodiff-checkpoint", {"attention": "/etc/passwd", "feedforward": "/etc/passwd"}),
        ("../../etc", {"steps": 10**9}),
    ],
)
def test_a_foreign_file_puts_nothing_unchecked_into_commands_and_names(tmp_path, name, config):
    entry = foreign(tmp_path, name, config)
    value = drawer_json(use_of_file("masks", entry, Selection(entry.id, 0.5), SCENE))
    assert "touch" not in f"{value['commands']}{value['file']['name'].replace('touch-x', '')}"
    assert "passwd" not in f"{value['commands']}" and "/" not in value["file"]["name"]
    for words in words_of(value):
        parse(words)
    assert 'explorer.load("a/model")' in value["python"] and not value["query"]
    compile(value["python"], "lines", "exec")


def test_an_importance_of_the_library_is_found_on_explore(tmp_path):
    id = "emoji-unet/dipgo-dpm++-20"
    value = shown(MaskLibrary(tmp_path), method=url_state.IMPORTANCE + id, steps=20, sampler="dpm++", ratio=0.4)
    assert value["file"]["name"] == "emoji-unet-dipgo-dpm-20.safetensors" and ".at(0.4)" in value["python"]
