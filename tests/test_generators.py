"""emoji-dit and emoji-ddpm: trained for a second they are pipelines that load, draw, go on, and can be cut."""

import json
import random

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from explorer import catalogue, metrics, training
from explorer.drawing import draw
from explorer.evidence.evaluation import Full, pairs_of
from explorer.evidence.evaluation import evaluate as evaluate_rows
from explorer.evidence.jury import JUDGE, Jury, keep_real
from explorer.evidence.summary import summary
from explorer.prompts import names
from explorer.training import autoencoder, cards, evaluate, fitting, pixels, record, transformer
from explorer.training import data as pictures
from explorer.training.transformer import NOBODY, Classes
from explorer.work import finished
from tests.test_training import made_up


@pytest.fixture
def emoji(monkeypatch, tmp_path):
    """Made-up pictures under well-known names of faces, and runs in a folder of the test's own."""
    some = made_up(4)
    names = dict(zip(some.names, (name for name in pictures.well_known() if "face" in name), strict=False))
    items = [pictures.Item(names[item.name], item.style, item.tags, "smileys") for item in some.items]
    known = pictures.Emoji(some.pictures, items)
    monkeypatch.setattr(pictures, "load", lambda data=None: known)
    monkeypatch.setenv("EXPLORER_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(fitting, "WORKERS", 1)
    return known


@pytest.mark.parametrize(("name", "guidance"), [("emoji-dit", 7.5), ("emoji-ddpm", 1.0)])
def test_a_second_of_training_makes_a_pipeline_that_loads_draws_and_goes_on(emoji, tmp_path, name, guidance):
    out = tmp_path / name
    training.train(name, minutes=0.02, out=out)
    model = catalogue.load(out)
    prompt = emoji.names[0] if name == "emoji-dit" else ""
    *_, (frame, shown) = draw(model, [prompt], [0], "ddim", 3, guidance, previews=1)
    assert frame.done and shown.shape == (1, 3, model.size * (4 if name == "emoji-dit" else 1), shown.shape[-1])
    assert model.denoiser.dtype == torch.float32
    part = next(out.glob("*/diffusion_pytorch_model*.safetensors"))
    with safe_open(part, framework="pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118 (no mapping)
    first = record.read(out)
    training.train(name, minutes=0.02, out=out, resume=True)
    again = record.read(out)
    assert len(again) == len(first) and again[-1]["steps"] > first[-1]["steps"]
    assert json.loads((out / "names.json").read_text())["names"] == (emoji.names if name == "emoji-dit" else [""])


def test_classes_are_bare_names_first_and_then_styles(emoji):
    classes = Classes(emoji)
    assert classes.labels[: len(emoji.names)] == emoji.names and len(set(classes.labels)) == len(classes.labels)
    for item, number, plain in zip(emoji.items, classes.of, classes.plain, strict=True):
        assert classes.labels[number] == (item.name if item.style == "flat" else f"{item.style} {item.name}")
        assert plain == (item.style == "flat")
    drawn = classes.draw([0] * 2000, random.Random(0))["class_labels"]
    assert (drawn == NOBODY).float().mean() == pytest.approx(0.1, abs=0.03) and set(drawn.tolist()) == {
        classes.of[0],
        NOBODY,
    }


def test_the_networks_are_shaped_as_the_pruners_need_them():
    dit, unet = transformer.build(), pixels.build()
    assert len(dit.transformer_blocks) >= 12 and dit.config.num_embeds_ada_norm == 1000
    norms = [module for module in unet.modules() if isinstance(module, nn.GroupNorm)]
    assert norms and all(norm.num_channels // norm.num_groups >= 8 for norm in norms)
    half = sum(p.numel() for network in (dit, unet) for p in network.parameters()) * 2 / 1e6
    assert half < 13  # MB in half precision: what there is room for


def test_pictures_shrink_to_half():
    images = np.full((2, 64, 64, 3), 255, dtype=np.uint8)
    images[0] = 0
    small = pixels.shrunk(images)
    assert small.shape == (2, 3, 32, 32) and small[0].max() == -1 and small[1].min() == 1


def test_what_is_drawn_without_being_asked_is_held_against_real_pictures(emoji, tmp_path, monkeypatch):
    out = tmp_path / "emoji-ddpm"
    training.train("emoji-ddpm", minutes=0.01, out=out)
    monkeypatch.setattr(pixels, "STEPS", 2)
    judge = metrics.Judge(catalogue.ASSETS / "emoji-judge")
    facts, images = evaluate.likeness(out, judge, emoji.pictures, 6)
    assert images.shape == (6, 32, 32, 3) and facts["n"] == 6 and facts["real"] == len(emoji.pictures)
    assert facts["kid"] > facts["kid_real"] and facts["nearest"] < 1
    cards.write_pixel_card(out, facts, catalogue.load(out))
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"training pictures: {facts['kid']} (n = 6)" in card and "{" not in card


def test_the_card_of_the_transformer_says_what_was_measured(emoji, tmp_path):
    out = tmp_path / "emoji-dit"
    training.train("emoji-dit", minutes=0.01, out=out)
    judge = metrics.Judge(catalogue.ASSETS / "emoji-judge")
    facts, images, shown = evaluate.measure(out, judge, emoji.names, most=2, seeds=1)
    facts |= {"real": {"top1": 1.0, "top5": 1.0, "clip_score": 34.0, "n": 9}}
    facts |= {"autoencoder": {"psnr": 31.25, "psnr_worst": 22.0, "n": 230}}
    cards.write_drawing_card(out, facts, catalogue.load(out))
    card = (out / "README.md").read_text(encoding="utf-8")
    assert len(images) == len(shown) == 2 and "# emoji-dit" in card and "n = 2" in card and "{" not in card


def test_a_model_that_is_asked_for_nothing_is_judged_by_likeness_alone(emoji, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "ASSETS", tmp_path)
    monkeypatch.setattr(catalogue, "EMBEDDED", ("emoji-ddpm",))
    training.train("emoji-ddpm", minutes=0.01, out=tmp_path / "emoji-ddpm")
    model = catalogue.load(tmp_path / "emoji-ddpm")
    judge = metrics.Judge(JUDGE)
    keep_real(autoencoder.to_images(pixels.shrunk(emoji.pictures)), judge, tmp_path / "emoji-ddpm")
    assert names(model) == [""]
    jury = Jury.of(model)
    assert jury.missing == ["no clip score and no retrieval: this model is asked for nothing"]
    rows = finished(
        evaluate_rows(model, Full("ddim", 2, 1.0), [], pairs_of([""], 4), tmp_path / "r.parquet", 0, jury=jury)
    )
    table = summary(rows, jury.real)
    assert "clip_score" not in table or table.clip_score.isna().all()
    assert table.kid.notna().all() and (table.n == 4).all()
