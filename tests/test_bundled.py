"""The embedded models in assets/: complete, as described, and measured as their cards say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from explorer.measures.clip_encoder import ClipEncoder
from explorer.models import catalogue
from explorer.training import captions, cards, clip, evaluate, provenance, sampling, unet
from explorer.training import data as pictures

ASSETS = Path(__file__).parent.parent / "assets"
UNET = ASSETS / "emoji-unet"


@pytest.fixture(scope="module")
def pipe():
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(UNET)


def test_the_bundled_pipeline_has_this_architecture_and_generates(pipe):
    fresh = unet.build(pipe.text_encoder.config.hidden_size, pipe.vae.config.latent_channels)
    assert {n: p.shape for n, p in fresh.named_parameters()} == {n: p.shape for n, p in pipe.unet.named_parameters()}
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    images = sampling.generate_pictures(catalogue.load(UNET), ["dog", "flat cat"], steps=3)
    assert images.shape == (2, 64, 64, 3)
    assert not np.array_equal(images[0], images[1])


def test_the_evaluation_counts_what_it_generated_and_writes_the_card(pipe, tmp_path, monkeypatch):
    def generate_grey(model, prompts, seed, sampler, steps, guidance):
        assert (sampler, steps, guidance) == ("ddim", 25, 7.5)
        return np.full((len(prompts), 64, 64, 3), 9, np.uint8)

    monkeypatch.setattr(evaluate, "generate_pictures", generate_grey)
    names = json.loads((UNET / "names.json").read_text(encoding="utf-8"))["names"]
    encoder = ClipEncoder(ASSETS / "emoji-judge")
    facts, images, prompts = evaluate.measure(catalogue.load(UNET), encoder, names, max_names=7, seeds=2)
    assert facts["n"] == 14 and len(images) == len(set(prompts)) == 7 and facts["names"] == len(names)
    assert facts["top1"] <= facts["top5"] <= 5 / 7  # one and the same picture is near to five names at most
    facts |= {"real": facts, "autoencoder": {"psnr": 31.25, "psnr_worst": 22.0, "n": 230}}
    provenance.write(tmp_path, [provenance.training_run("U-Net", 12.3, 1234, 5, "cpu", 7)])
    cards.write_generator_card(tmp_path, facts, catalogue.load(UNET))
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "31.2 dB" in card and "| U-Net | 1234 | 5 | 12 | 7 |" in card and "n = 14" in card


def test_bundled_text_tower_distinguishes_prompts_and_can_be_trained_further(pipe, tmp_path, monkeypatch):
    monkeypatch.setenv("EXPLORER_RUNS", str(tmp_path))
    ids = clip.tokenize(pipe.tokenizer, ["dog", "cat", ""])
    assert ids["input_ids"].shape == (3, captions.MAX_LENGTH)
    pooled = pipe.text_encoder(**ids).pooler_output
    assert torch.pdist(pooled).min() > 0.01
    tower, tokenizer = unet.latest_text_tower()
    assert torch.equal(pooled, tower(**clip.tokenize(tokenizer, ["dog", "cat", ""])).pooler_output)


def test_locally_trained_encoder_is_preferred_to_the_bundled_one(pipe, tmp_path, monkeypatch):
    monkeypatch.setenv("EXPLORER_RUNS", str(tmp_path))
    clip.save(clip.build(pipe.tokenizer, width=32, layers=2), pipe.tokenizer, clip.encoder_folder("emoji-clip"))
    tower, tokenizer = unet.latest_text_tower()
    assert tower.config.hidden_size == 32 and len(tokenizer) == len(pipe.tokenizer)
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_names_json_names_what_the_generator_was_trained_on():
    facts = json.loads((UNET / "names.json").read_text(encoding="utf-8"))
    assert facts["names"] and set(facts["groups"]) == set(facts["names"]) == set(pictures.well_known_names())
    assert set(facts["groups"].values()) == set(pictures.GROUPS.values())
    assert {"dog", "flat", "d"} <= set(facts["words"])


@pytest.mark.parametrize("name", ["emoji-judge", *catalogue.EMBEDDED])
def test_bundled_models_are_small_safetensors_files_with_a_card(name):
    folder = ASSETS / name
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert all(p.stat().st_size < 10_000_000 for p in files)
    assert not [p for p in files if p.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(word in card for word in ("## Data", "## Training", "## Quality", "## Limits", "seconds"))
