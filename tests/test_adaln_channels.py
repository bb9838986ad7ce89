"""Channels of FLUX's AdaLN layers: only on request, pruned like heads and neurons, counted apart."""

import copy
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from explorer import figures
from explorer.cli import app
from explorer.cli.output import describe_mask, importance_table
from explorer.execution.macs import count_layer_macs
from explorer.execution.width_gates import WidthGates, prune_widths
from explorer.experiment import prune
from explorer.masks.result import load
from explorer.masks.width import Widths
from explorer.models import catalogue
from explorer.models.model import Model
from explorer.models.prunable_dims import find_prunable_dims
from explorer.progress import run_to_completion
from explorer.pruners import method_config
from explorer.pruners.width_ranking import select_dims
from explorer.ui.markup import width_tiles, width_title
from tests.test_width_gates import BATCH, TIME, TOKENS, _cast, run
from tests.test_width_gates import prune as remove
from tests.tiny_transformers import flux as make_flux

TEXT = {"encoder_hidden_states": TOKENS, "pooled_projections": torch.randn(BATCH, 16)}
PLACES = {"img_ids": torch.rand(16, 3), "txt_ids": torch.zeros(5, 3)}
CALL = {"hidden_states": torch.randn(BATCH, 16, 4), "timestep": TIME / 1000, **TEXT, **PLACES}
FIRST = "transformer_blocks.0.norm1_context:adaln_channels"


def flux():
    torch.manual_seed(3)
    sizes = {"in_channels": 4, "attention_head_dim": 16, "num_attention_heads": 4, "axes_dims_rope": (4, 4, 8)}
    made = make_flux(**sizes, joint_attention_dim=32, pooled_projection_dim=16, guidance_embeds=False)
    for parameter in made.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return made


class TinyFlux(Model):
    """A FLUX whose pictures are its latents, (B, 4, 4, 4): one token per pixel."""

    def __init__(self):
        denoiser = flux()
        denoiser.register_to_config(sample_size=4)
        super().__init__("tiny-flux", "DiTPipeline", denoiser, {"clip_sample": False}, 5)

    def encode(self, prompts, guidance):
        given = {name: CALL[name][:1] for name in ("encoder_hidden_states", "pooled_projections")}
        many = {name: value.repeat(len(prompts), *(1,) * (value.ndim - 1)) for name, value in given.items()}
        return many | {name: CALL[name] for name in ("img_ids", "txt_ids")}

    def denoise(self, x, t, conditioning, guidance):
        tokens = x.flatten(2).transpose(1, 2)
        patches = self.denoiser(tokens, timestep=t.expand(len(x)) / 1000, **conditioning, return_dict=False)[0]
        return patches.transpose(1, 2).reshape(x.shape)

    def decode(self, latents):
        return latents[:, :3].clamp(0, 1)


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(TinyFlux, "example_inputs", lambda *_: CALL)
    return TinyFlux()


def some(there, left):
    """Keep a random choice of `left(dim)` elements of every dimension."""
    rng = np.random.default_rng(0)
    return {name: rng.permutation(dim.size) < left(dim) for name, dim in there.items()}


def spent(network) -> int:
    with count_layer_macs(network) as macs:
        run(network, CALL)
    return sum(macs.values())


LEFT = {
    "30 %": lambda dim: round(0.3 * dim.size),
    "70 %": lambda dim: round(0.7 * dim.size),
    "a site without any": lambda dim: 0 if dim.name == FIRST else round(0.6 * dim.size),
    "nothing": lambda dim: 0,
}


def test_adaln_channels_are_found_on_request_only():
    network = flux()
    plain, all_of_them = find_prunable_dims(network), find_prunable_dims(network, adaln_channels=True)
    assert not any(name.endswith(":adaln_channels") for name in plain)
    assert {name: dim for name, dim in all_of_them.items() if not name.endswith(":adaln_channels")} == plain
    sizes = {name: dim.size for name, dim in all_of_them.items() if name.endswith(":adaln_channels")}
    double = {
        f"transformer_blocks.{i}.{norm}:adaln_channels": 6 * 64 for i in (0, 1) for norm in ("norm1", "norm1_context")
    }
    assert sizes == double | {f"single_transformer_blocks.{i}.norm:adaln_channels": 3 * 64 for i in (0, 1)}
    assert all(all_of_them[name].params == 64 + 1 for name in sizes)


@pytest.mark.parametrize("alone", [True, False], ids=["rows alone", "with heads and neurons"])
@pytest.mark.parametrize("left", LEFT)
def test_pruned_adaln_equals_gated_adaln_at_the_predicted_cost(left, alone):
    whole = flux()
    dims = find_prunable_dims(whole, adaln_channels=True)
    there = {
        name: dim
        for name, dim in find_prunable_dims(whole, adaln_channels=True).items()
        if name.endswith(":adaln_channels") or not alone
    }
    widths = some(there, LEFT[left])
    smaller = copy.deepcopy(whole)
    remove(smaller, widths)
    with WidthGates(whole, dims, widths):
        gated = run(whole, CALL)
    assert (gated - run(whole, CALL)).abs().max() > 1e-3
    assert (run(smaller, CALL) - gated).abs().max() <= 1e-4 * gated.abs().max().clamp(min=1)
    before, after = (sum(parameter.numel() for parameter in one.parameters()) for one in (whole, smaller))
    assert before - after == sum(there[name].removed_params(keep) for name, keep in widths.items())
    if alone:
        gone = sum(int((~keep).sum()) for keep in widths.values())
        assert spent(whole) - spent(smaller) == gone * (64 + 1) * len(CALL["timestep"])


def test_gated_adaln_channel_is_zero_with_its_bias_per_picture():
    network, outputs = flux(), []
    linear = network.transformer_blocks[0].norm1_context.linear
    gates = torch.ones(2, 6 * 64)
    gates[1, :100] = 0
    with WidthGates(network, find_prunable_dims(network, True), {FIRST: gates}):
        linear.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output))
        run(network, CALL)
    assert (outputs[0][0] != 0).all() and (outputs[0][1, :100] == 0).all() and (outputs[0][1, 100:] != 0).all()


def test_gradients_reach_soft_gates_of_adaln_channels():
    network = flux()
    gates = {
        n: torch.full((s.size,), 0.9, requires_grad=True)
        for n, s in find_prunable_dims(network, adaln_channels=True).items()
    }
    with WidthGates(network, find_prunable_dims(network, True), gates):
        network(**CALL, return_dict=False)[0].square().sum().backward()
    assert all(bool(gate.grad.ne(0).any()) for gate in gates.values())


def test_adaln_channels_can_be_pruned_again_without_changing_shared_weights():
    whole = flux()
    before = run(whole, CALL)
    shared = {id(tensor): tensor for tensor in (*whole.parameters(), *whole.buffers())}
    once, twice = (copy.deepcopy(whole, dict(shared)) for _ in range(2))
    first = some(find_prunable_dims(whole, adaln_channels=True), LEFT["70 %"])
    remove(twice, first)
    second = some(find_prunable_dims(twice, adaln_channels=True), LEFT["70 %"])
    remove(twice, second)
    both = {name: keep.copy() for name, keep in first.items()}
    for name, keep in second.items():
        both[name][both[name]] = keep
    remove(once, both)
    assert torch.equal(run(once, CALL), run(twice, CALL)) and torch.equal(run(whole, CALL), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("left", ["30 %", "a site without any"])
def test_network_with_pruned_adaln_runs_in_half_precision(dtype, left):
    network = flux()
    remove(network, some(find_prunable_dims(network, adaln_channels=True), LEFT[left]))
    reference = run(network, CALL)
    found = run(network.to(dtype), {name: _cast(value, dtype) for name, value in CALL.items()})
    assert found.dtype == dtype and (found.float() - reference).abs().max() < 0.1 * reference.abs().max()


@pytest.mark.parametrize(
    "remove_dims", [prune_widths, WidthGates, lambda unet, dims, _: find_prunable_dims(unet, adaln_channels=True)]
)
def test_network_without_adaln_channels_refuses_them_unchanged(unet, remove_dims):
    before = {name: parameter.clone() for name, parameter in unet.named_parameters()}
    heads = {name: np.zeros(dim.size, bool) for name, dim in find_prunable_dims(unet).items()}
    with pytest.raises(ValueError, match="a UNet2DConditionModel|this UNet2DConditionModel"):
        remove_dims(unet, find_prunable_dims(unet), heads | {FIRST: np.zeros(384, bool)})
    assert all(torch.equal(parameter, before[name]) for name, parameter in unet.named_parameters())


@pytest.mark.parametrize("method", ["ecodiff", "magnitude", "random-width"])
def test_pruner_refuses_prune_adaln_without_adaln_channels(sd_folder, method):
    with pytest.raises(ValueError, match="a UNet2DConditionModel has none"):
        run_to_completion(prune(catalogue.load(sd_folder), method, method_config(method, {"prune_adaln": True})))


SETTINGS = {
    "magnitude": {},
    "random-width": {"ranking": "blocks"},
    "taylor": {"axis": "heads and neurons", "num_images": 2, "steps": 2, "stride": 300, "guidance": 1},
    "ecodiff": {"steps": 2, "iterations": 2, "batch": 2, "num_images": 2, "guidance": 1, "warmup_steps": 1},
}


@pytest.mark.parametrize("method", SETTINGS)
def test_importance_with_adaln_channels_round_trips_and_prunes_the_model(model, method, tmp_path):
    plain = run_to_completion(prune(model, method, method_config(method, SETTINGS[method]), ["dog"]))
    found = run_to_completion(
        prune(model, method, method_config(method, SETTINGS[method] | {"prune_adaln": True}), ["dog"])
    )
    assert not any(name.endswith(":adaln_channels") for name in plain.rank) and FIRST in found.rank
    found.save(tmp_path / "order.safetensors")
    load(tmp_path / "order.safetensors").at(0.3).save(tmp_path / "widths.safetensors")
    widths = load(tmp_path / "widths.safetensors")
    assert isinstance(widths, Widths) and FIRST in widths.keep
    smaller = model.prune_widths(widths).denoiser
    left = sum(parameter.numel() for parameter in smaller.parameters())
    assert (
        left
        == round(widths.params_fraction * widths.header.params)
        == widths.header.params - sum(widths.removed_by_kind.values())
    )
    assert spent(smaller) == round(widths.macs_fraction * spent(model.denoiser))
    assert found.header.max_ratio > plain.header.max_ratio + 0.1


def test_removed_channels_are_counted_by_kind_in_every_output(model, tmp_path):
    config = method_config("magnitude", {"prune_adaln": True, "ranking": "local"})
    found = run_to_completion(prune(model, "magnitude", config))
    widths, there = found.at(0.3), select_dims(model, config)
    expected = {
        kind: sum(there[name].removed_params(keep) for name, keep in widths.keep.items() if name.endswith(kind))
        for kind in ("heads", "neurons", "adaln_channels")
    }
    assert widths.removed_by_kind == expected and min(expected.values()) > 0
    widths.save(tmp_path / "w.safetensors")
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "w.safetensors"), "--json"])
    assert json.loads(shown.stdout)["removed"] == expected
    count = f"AdaLN channels {expected['adaln_channels']:,}"
    assert count in describe_mask(widths) and count in width_tiles(widths)
    columns = importance_table(found).splitlines()[0]
    places = [columns.index(f"{kind} removed") for kind in ("heads", "neurons", "AdaLN channels")]
    assert places == sorted(places)
    assert width_title(found.header) == "Magnitude, heads and neurons, AdaLN channels"
    bars = figures.share_bars(widths.keep)
    assert "neurons stay" in bars.layout.title.text and "AdaLN channels stay" in bars.layout.title.text
    assert any("AdaLN channels stay" in text for text in bars.data[0].text)
