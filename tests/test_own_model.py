"""The configuration of a stranger's denoiser: checked before anything is built, then described without weights."""

import json
from types import SimpleNamespace

import gradio as gr
import pytest

from explorer.jobs import tasks
from explorer.models import catalogue, own_config
from explorer.models.architectures import DENOISERS
from explorer.ui import footer
from explorer.ui.own_model import brought_by
from explorer.ui.views.own_model import NO_NUMBERS, describe
from tests.conftest import ddpm_unet, dit, sd_unet, sdxl_unet

CONFIGS = {name: catalogue.typical_row(name)["denoiser"] for name in DENOISERS if name[:3] in ("UNe", "DiT")}
UNET, DIT = CONFIGS["UNet2DConditionModel"], CONFIGS["DiTTransformer2DModel"]


def run_here(task, *arguments):
    return task(*arguments)


def refuse_to_run(task, *arguments):
    pytest.fail("nothing may be built")


@pytest.mark.parametrize("make", [sd_unet, sdxl_unet, ddpm_unet, dit])
def test_a_configuration_says_the_same_as_the_network(make):
    network = make()
    value = describe(run_here, "mine", network.to_json_string())
    assert value["title"].startswith("mine: ") and len(value["units"]) > 2
    params = sum(parameter.numel() for parameter in network.parameters())
    assert dict(value["facts"])["parameters"] == f"{params / 1e6:,.1f} M"
    assert any("DiP-GO" in row[0] and "98 %" in row[2] for row in value["furthest"])


def test_every_model_of_the_hub_is_answered_from_its_row():
    for row in json.loads(catalogue.ROWS.read_text()):
        if "denoiser" in row and len(row["denoiser"]) > 1:
            own_config.read_config(json.dumps(row["denoiser"]))  # within the limits
    [found] = tasks.describe_architecture("", own_config.read_config(json.dumps(DIT)), 50)
    assert found["params"] == catalogue.typical_row("DiTTransformer2DModel")["params"]


@pytest.mark.parametrize("name", ["ddpm-cifar10", " google/ddpm-cifar10-32 ", "emoji-ddpm"])
def test_a_model_of_the_catalogue_is_known_by_id_and_by_its_name_on_the_hub(name):
    value = describe(run_here, name, "")
    assert dict(value["facts"])["denoiser"] == "UNet2DModel" and value["commands"]


@pytest.mark.parametrize("name", ["someone/secret", "../../etc", "/etc/passwd", "./my-model", "", "https://x.y/z"])
def test_any_other_name_gets_the_commands_and_neither_disk_nor_network_are_asked(monkeypatch, name):
    import socket

    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("no request leaves"))
    value = describe(refuse_to_run, name, "")
    assert value["title"] == NO_NUMBERS and not value["facts"] and value["commands"]


REFUSED = {
    "": "JSON",
    "[" * 40_000: "JSON",
    "[1]": "no denoiser",
    '{"_class_name": ["UNet2DModel"]}': "no denoiser",
    '{"_class_name": "MochiTransformer3DModel"}': "known are",
    '{"_class_name": "UNet2DModel", "in_channels": 1e400}': "larger than",
    '{"_class_name": "UNet2DModel", "in_channels": NaN}': "larger than",
    '{"_class_name": "UNet2DModel", "in_channels": 1000000}': "larger than",
    json.dumps({"_class_name": "UNet2DModel", "x": "a" * 201}): "200 letters",
    json.dumps({"_class_name": "UNet2DModel", "x": [0] * 2000}): "1,000 values",
    json.dumps({"_class_name": "UNet2DModel", "x": "a" * 70_000}): "64 KB",
    json.dumps(UNET | {"layers_per_block": 99_999}): "layers",
    json.dumps(UNET | {"transformer_layers_per_block": [[50] * 9] * 4}): "layers",
    json.dumps(UNET | {"down_block_types": ["DownBlock2D"] * 40}): "blocks",
    json.dumps(UNET | {"block_out_channels": [32, 32, 32, 99_000]}): "channels",
    json.dumps(UNET | {"block_out_channels": [19_000] * 4}): "parameters",
    json.dumps(UNET | {"sample_size": [64, 50_000]}): "pixels",
    json.dumps(DIT | {"num_layers": 5_000}): "layers",
    json.dumps(DIT | {"num_attention_heads": 9_000, "attention_head_dim": 9_000}): "channels",
    json.dumps(DIT | {"sample_size": 1024, "patch_size": 1}): "tokens",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:30] + text[-30:])
def test_what_is_too_large_or_none_is_refused_before_anything_is_built(text):
    with pytest.raises(ValueError, match=REFUSED[text]) as caught:
        if text:
            describe(refuse_to_run, "x", text)
        else:
            own_config.read_config(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


WRONG = [
    {"evil": 1},
    {"self": 1},
    {"block_out_channels": "abc"},
    {"block_out_channels": [0, 0, 0, 0]},
    {"attention_head_dim": 0},
    {"down_block_types": ["os.system"] * 4},
    {"sample_size": None},
    {"sample_size": -5},
    {"cross_attention_dim": {"a": [1]}},
    {"act_fn": "__import__"},
    {"layers_per_block": -3},
    {"addition_embed_type": "image"},
]


@pytest.mark.parametrize("changes", WRONG, ids=str)
def test_what_diffusers_cannot_build_is_one_sentence(changes):
    with pytest.raises(ValueError) as caught:
        describe(run_here, "x", json.dumps(UNET | changes))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("data", [None, 5, [], {}, {"name": "x"}, "text"])
def test_an_event_without_its_fields_brings_nothing(data):
    assert brought_by(gr.EventData(None, data)) == (None, None)


@pytest.mark.parametrize(
    ("name", "config"), [(None, ""), ([], ""), ("x", None), ("x", {"a": 1}), ("x" * 301, ""), (1, 2)]
)
def test_an_event_that_brings_something_else_is_one_sentence(name, config):
    with pytest.raises(ValueError, match="type the name"):
        describe(refuse_to_run, name, config)


def test_the_foot_leads_to_readme_papers_and_the_space(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert footer.footer_markup().count('rel="noopener"') == 5 and "Code" not in footer.footer_markup()
    monkeypatch.setenv("SPACE_ID", "somebody/a-space")
    assert 'href="https://huggingface.co/spaces/somebody/a-space/tree/main"' in footer.footer_markup()
    monkeypatch.setenv("SPACE_ID", '"><script>/x')
    assert "script" not in footer.footer_markup()


def test_the_repository_is_what_the_project_names(monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\n[project.urls]\nRepository = "https://example.org/code"\n')
    monkeypatch.setattr(footer, "ROOT", tmp_path)
    assert footer.repository_url() == "https://example.org/code"
    (tmp_path / "pyproject.toml").write_text('[project]\n[project.urls]\nSource = "javascript:alert(1)"\n')
    assert footer.repository_url() == ""


def test_a_budget_counts_what_is_described():
    from explorer.ui.budgets import BudgetError, Budgets
    from explorer.ui.runs import VisitorRuns

    runs = VisitorRuns(None, Budgets(changes_per_minute=1))
    request = SimpleNamespace(client=SimpleNamespace(host="1.2.3.4"), headers={})
    runs.count_change(request)
    with pytest.raises(BudgetError):
        runs.count_change(request)
