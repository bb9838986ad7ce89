"""emoji-dit and emoji-ddpm: trained for a second they are pipelines that load, generate and can be trained on."""

import json
import random

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from explorer import training
from explorer.evaluation.candidates import ReferenceRun, make_samples
from explorer.evaluation.evaluate import evaluate as evaluate_candidates
from explorer.evaluation.scorers import JUDGE, Scorers, save_real_features
from explorer.evaluation.statistics import summarize
from explorer.measures.clip_encoder import ClipEncoder
from explorer.models import catalogue
from explorer.models.prompts import model_names
from explorer.progress import run_to_completion
from explorer.sampling.generate import generate
from explorer.training import autoencoder, cards, ddpm, dit, evaluate, provenance, trainer
from explorer.training import data as pictures
from explorer.training.dit import NO_CLASS, Classes
from tests.test_training import made_up

pytestmark = pytest.mark.slow


@pytest.fixture
def emoji(monkeypatch, tmp_path):
    """Make up pictures under well-known names of faces; runs go to a folder of the test's own."""
    some = made_up(4)
    names = dict(zip(some.names, (name for name in pictures.well_known_names() if "face" in name), strict=False))
    items = [pictures.Item(names[item.name], item.style, item.tags, "smileys") for item in some.items]
    known = pictures.Emoji(some.pictures, items)
    monkeypatch.setattr(pictures, "load", lambda data=None: known)
    monkeypatch.setenv("EXPLORER_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(trainer, "WORKERS", 1)
    return known


@pytest.mark.parametrize(("name", "guidance"), [("emoji-dit", 7.5), ("emoji-ddpm", 1.0)])
def test_a_second_of_training_makes_a_pipeline_that_loads_generates_and_resumes(emoji, tmp_path, name, guidance):
    out = tmp_path / name
    training.train(name, minutes=0.02, out=out)
    model = catalogue.load(out)
    prompt = emoji.names[0] if name == "emoji-dit" else ""
    *_, (frame, shown) = generate(model, [prompt], [0], "ddim", 3, guidance, previews=1)
    side = model.latent_size[0] * (4 if name == "emoji-dit" else 1)
    assert frame.done and shown.shape == (1, 3, side, side)
    assert model.denoiser.dtype == torch.float32
    part = next(out.glob("*/diffusion_pytorch_model*.safetensors"))
    with safe_open(part, framework="pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118 (no mapping)
    first = provenance.read(out)
    training.train(name, minutes=0.02, out=out, resume=True)
    again = provenance.read(out)
    assert len(again) == len(first) and again[-1]["steps"] > first[-1]["steps"]
    assert json.loads((out / "names.json").read_text())["names"] == (emoji.names if name == "emoji-dit" else [""])


def test_classes_are_names_first_and_then_styles(emoji):
    classes = Classes(emoji)
    assert classes.labels[: len(emoji.names)] == emoji.names and len(set(classes.labels)) == len(classes.labels)
    for item, number, plain in zip(emoji.items, classes.class_of, classes.has_bare_style, strict=True):
        assert classes.labels[number] == (item.name if item.style == "flat" else f"{item.style} {item.name}")
        assert plain == (item.style == "flat")
    labels = classes.draw([0] * 2000, random.Random(0))["class_labels"]
    assert (labels == NO_CLASS).float().mean() == pytest.approx(0.1, abs=0.03)
    assert set(labels.tolist()) == {classes.class_of[0], NO_CLASS}


def test_networks_have_the_shapes_that_pruners_need():
    transformer, unet = dit.build(), ddpm.build()
    assert len(transformer.transformer_blocks) >= 12 and transformer.config.num_embeds_ada_norm == 1000
    norms = [module for module in unet.modules() if isinstance(module, nn.GroupNorm)]
    assert norms and all(norm.num_channels // norm.num_groups >= 8 for norm in norms)
    megabytes = sum(p.numel() for network in (transformer, unet) for p in network.parameters()) * 2 / 1e6
    assert megabytes < 13  # in half precision: the space there is for them


def test_pictures_shrink_to_half():
    images = np.full((2, 64, 64, 3), 255, dtype=np.uint8)
    images[0] = 0
    small = ddpm.shrink(images)
    assert small.shape == (2, 3, 32, 32) and small[0].max() == -1 and small[1].min() == 1


def test_pictures_of_an_unconditional_model_are_compared_with_real_ones(emoji, tmp_path, monkeypatch):
    out = tmp_path / "emoji-ddpm"
    training.train("emoji-ddpm", minutes=0.01, out=out)
    monkeypatch.setattr(ddpm, "STEPS", 2)
    facts, images = evaluate.compare_with_real(catalogue.load(out), ClipEncoder(JUDGE), emoji.pictures, 6)
    assert images.shape == (6, 32, 32, 3) and facts["n"] == 6 and facts["real"] == len(emoji.pictures)
    assert facts["kid"] > facts["kid_real"] and facts["nearest"] < 1
    cards.write_ddpm_card(out, facts, catalogue.load(out))
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"training pictures: {facts['kid']} (n = 6)" in card and "{" not in card


def test_model_card_of_the_transformer_states_the_measurements(emoji, tmp_path):
    out = tmp_path / "emoji-dit"
    training.train("emoji-dit", minutes=0.01, out=out)
    facts, images, shown = evaluate.measure(catalogue.load(out), ClipEncoder(JUDGE), emoji.names, max_names=2, seeds=1)
    facts |= {"real": {"top1": 1.0, "top5": 1.0, "clip_score": 34.0, "n": 9}}
    facts |= {"autoencoder": {"psnr": 31.25, "psnr_worst": 22.0, "n": 230}}
    cards.write_generator_card(out, facts, catalogue.load(out))
    card = (out / "README.md").read_text(encoding="utf-8")
    assert len(images) == len(shown) == 2 and "# emoji-dit" in card and "n = 2" in card and "{" not in card


def test_an_unconditional_model_is_scored_by_real_pictures_alone(emoji, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "ASSETS", tmp_path)
    monkeypatch.setattr(catalogue, "EMBEDDED", ("emoji-ddpm",))
    training.train("emoji-ddpm", minutes=0.01, out=tmp_path / "emoji-ddpm")
    model = catalogue.load(tmp_path / "emoji-ddpm")
    real = autoencoder.to_images(ddpm.shrink(emoji.pictures))
    save_real_features(real, ClipEncoder(JUDGE), tmp_path / "emoji-ddpm")
    assert model_names(model) == [""]
    scorers = Scorers.of(model)
    assert scorers.missing == ["no clip score and no retrieval: this model is unconditional"]
    run = (model, ReferenceRun("ddim", 2, 1.0), [], make_samples([""], 4), tmp_path / "r.parquet")
    rows = run_to_completion(evaluate_candidates(*run, converged_steps=0, scorers=scorers))
    table = summarize(rows, scorers.real)
    assert "clip_score" not in table or table.clip_score.isna().all()
    assert table.kid.notna().all() and (table.n == 4).all()
