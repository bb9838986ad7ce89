"""Logits as EcoDiff's authors released them: the right layers, nothing but tensors, counted without weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from explorer import catalogue
from explorer.experiment import config_of, prune
from explorer.structure import sites
from explorer.work import finished


def files(folder: Path, denoiser) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """Two files in the order in which a call reaches the layers, and their logits by site."""
    kinds, blocks = {"Attention": "heads", "FeedForward": "neurons"}, ["down_blocks", "mid_block", "up_blocks"]
    reached = []
    for name, module in denoiser.named_modules():
        if kind := kinds.get(type(module).__name__):
            reached.append((blocks.index(name.partition(".")[0]), name, kind))
    generator, logits = torch.Generator().manual_seed(0), {}
    for _, name, kind in sorted(reached, key=lambda one: one[0]):
        size = sites(denoiser)[f"{name}:{kind}"].size
        logits[f"{name}:{kind}"] = torch.randn(size, generator=generator).bfloat16()
    for kind, file in (("heads", "attn.pt"), ("neurons", "ff.pt")):
        torch.save([value for name, value in logits.items() if name.endswith(kind)], folder / file)
    return folder / "attn.pt", folder / "ff.pt", logits


def asked(attention: Path, feedforward: Path, **others):
    return config_of("ecodiff-released", {"attention": str(attention), "feedforward": str(feedforward)} | others)


def test_the_logits_reach_their_layers_and_the_shares_are_kept(sd_folder, tmp_path):
    model = catalogue.load(sd_folder, weights=False)
    attention, feedforward, logits = files(tmp_path, model.denoiser)
    found = finished(prune(model, "ecodiff-released", asked(attention, feedforward)))
    for kind, share in (("heads", 0.68), ("neurons", 0.88)):
        names = [name for name in found.keep if name.endswith(kind)]
        kept = np.concatenate([found.keep[name] for name in names])
        every = torch.cat([logits[name].float() for name in names]).numpy()
        assert kept.sum() == round(share * len(kept)) and every[kept].min() >= every[~kept].max()
    assert found.header.ratio.reached == pytest.approx(1 - found.kept)
    whole = catalogue.load(sd_folder)
    smaller = found.narrowed(whole)
    assert sum(p.numel() for p in smaller.denoiser.parameters()) == round(found.kept * found.header.params)


def test_sdxl_is_counted_without_its_weights(tmp_path, run, document):
    model = catalogue.load("sdxl", weights=False)
    attention, feedforward, logits = files(tmp_path, model.denoiser)
    sizes = [len(value) for name, value in logits.items() if name.endswith("heads")]
    assert (len(sizes), sizes.count(10), sizes.count(20)) == (140, 20, 120)  # as in the released file
    out = tmp_path / "sdxl.safetensors"
    settings = ["--set", f"attention={attention}", "--set", f"feedforward={feedforward}"]
    assert run("prune", "--model", "sdxl", "--method", "ecodiff-released", *settings, "--out", out)[0] == 0
    told = document("cost", "--model", "sdxl", "--mask", out)
    assert told["whole"]["params"] == 2_567_463_684 and 0.79 < told["kept_params"] < 0.84


def test_other_files_are_refused_in_one_sentence(sd_folder, tmp_path):
    model = catalogue.load(sd_folder, weights=False)
    attention, feedforward, _ = files(tmp_path, model.denoiser)
    torch.save([torch.zeros(3)], tmp_path / "short.pt")
    torch.save({"a": torch.zeros(3)}, tmp_path / "dict.pt")
    torch.save([Path("x")], tmp_path / "code.pt")
    (tmp_path / "noise.pt").write_bytes(b"nothing")
    (tmp_path / "empty.pt").write_bytes(b"")  # of which torch says nothing at all
    for name, said in {
        "short.pt": "has logits for 1 layers, the model has",
        "dict.pt": "holds no list of tensors",
        "code.pt": "holds no plain tensors",
        "noise.pt": "holds no plain tensors",
        "empty.pt": "holds no plain tensors",
        "missing.pt": "holds no plain tensors",
    }.items():
        with pytest.raises(ValueError, match=said) as refused:
            finished(prune(model, "ecodiff-released", asked(tmp_path / name, feedforward)))
        assert "\n" not in str(refused.value)
