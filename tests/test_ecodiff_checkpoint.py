"""Logits as EcoDiff's authors published them: the right layers, nothing but tensors, counted without weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from explorer.experiment import prune
from explorer.models import catalogue
from explorer.models.prunable_dims import find_prunable_dims
from explorer.progress import run_to_completion
from explorer.pruners import method_config

pytestmark = pytest.mark.slow


def write_files(folder: Path, denoiser) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """Write two files in the order in which a call reaches the layers; also returns their logits by dimension."""
    kinds, blocks = {"Attention": "heads", "FeedForward": "neurons"}, ["down_blocks", "mid_block", "up_blocks"]
    reached = []
    for name, module in denoiser.named_modules():
        if kind := kinds.get(type(module).__name__):
            reached.append((blocks.index(name.partition(".")[0]), name, kind))
    dims = find_prunable_dims(denoiser)
    generator, logits = torch.Generator().manual_seed(0), {}
    for _, name, kind in sorted(reached, key=lambda one: one[0]):
        size = dims[f"{name}:{kind}"].size
        logits[f"{name}:{kind}"] = torch.randn(size, generator=generator).bfloat16()
    for kind, file in (("heads", "attn.pt"), ("neurons", "ff.pt")):
        torch.save([value for name, value in logits.items() if name.endswith(kind)], folder / file)
    return folder / "attn.pt", folder / "ff.pt", logits


def make_config(attention: Path, feedforward: Path):
    return method_config("ecodiff-checkpoint", {"attention": str(attention), "feedforward": str(feedforward)})


def test_the_logits_reach_their_layers_and_the_shares_are_kept(sd_folder, tmp_path):
    model = catalogue.load(sd_folder, weights=False)
    attention, feedforward, logits = write_files(tmp_path, model.denoiser)
    widths = run_to_completion(prune(model, "ecodiff-checkpoint", make_config(attention, feedforward)))
    for kind, share in (("heads", 0.68), ("neurons", 0.88)):
        names = [name for name in widths.keep if name.endswith(kind)]
        kept = np.concatenate([widths.keep[name] for name in names])
        every = torch.cat([logits[name].float() for name in names]).numpy()
        assert kept.sum() == round(share * len(kept)) and every[kept].min() >= every[~kept].max()
    assert widths.header.ratio.reached == pytest.approx(1 - widths.params_fraction)
    pruned = catalogue.load(sd_folder).prune_widths(widths)
    expected = round(widths.params_fraction * widths.header.params)
    assert sum(p.numel() for p in pruned.denoiser.parameters()) == expected


def test_sdxl_is_counted_without_its_weights(tmp_path, run, document):
    model = catalogue.load("sdxl", weights=False)
    attention, feedforward, logits = write_files(tmp_path, model.denoiser)
    sizes = [len(value) for name, value in logits.items() if name.endswith("heads")]
    assert (len(sizes), sizes.count(10), sizes.count(20)) == (140, 20, 120)  # as in the published file
    out = tmp_path / "sdxl.safetensors"
    settings = ["--set", f"attention={attention}", "--set", f"feedforward={feedforward}"]
    assert run("prune", "--model", "sdxl", "--method", "ecodiff-checkpoint", *settings, "--out", out)[0] == 0
    cost = document("cost", "--model", "sdxl", "--mask", out)
    assert cost["whole"]["params"] == 2_567_463_684 and 0.79 < cost["kept_params"] < 0.84


def test_other_files_are_refused_in_one_sentence(sd_folder, tmp_path):
    model = catalogue.load(sd_folder, weights=False)
    attention, feedforward, _ = write_files(tmp_path, model.denoiser)
    torch.save([torch.zeros(3)], tmp_path / "short.pt")
    torch.save({"a": torch.zeros(3)}, tmp_path / "dict.pt")
    torch.save([Path("x")], tmp_path / "code.pt")
    (tmp_path / "noise.pt").write_bytes(b"nothing")
    (tmp_path / "empty.pt").write_bytes(b"")  # of which torch's error has no text
    for name, reason in {
        "short.pt": "has logits for 1 layers, the model has",
        "dict.pt": "holds no list of tensors",
        "code.pt": "holds no plain tensors",
        "noise.pt": "holds no plain tensors",
        "empty.pt": "holds no plain tensors",
        "missing.pt": "holds no plain tensors",
    }.items():
        with pytest.raises(ValueError, match=reason) as refused:
            run_to_completion(prune(model, "ecodiff-checkpoint", make_config(tmp_path / name, feedforward)))
        assert "\n" not in str(refused.value)
