"""The trainers on tiny models and synthetic pictures, and the shapes that the pruners need."""

import json
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

pytestmark = pytest.mark.slow

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from explorer import training  # noqa: E402
from explorer.measures.clip_encoder import ClipEncoder  # noqa: E402
from explorer.training import autoencoder, captions, clip, evaluate, provenance, trainer, unet  # noqa: E402
from explorer.training import data as pictures  # noqa: E402
from explorer.training.loop import TrainingLoop, TrainingPlan, pick_device  # noqa: E402


def made_up(names: int = 6) -> pictures.Emoji:
    """Make coloured discs on white, three styles of each, with names, tags and groups."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: pictures.SIDE, : pictures.SIDE] - pictures.SIDE / 2
    images, items = [], []
    for number in range(names):
        for index, style in enumerate(pictures.STYLES):
            picture = np.full((pictures.SIDE, pictures.SIDE, 3), 255, np.uint8)
            picture[x**2 + y**2 < (14 + 5 * index) ** 2] = rng.integers(0, 255, 3)
            images.append(picture)
            items.append(pictures.Item(f"thing {number}", style, ("round", f"tag{number}"), "objects"))
    return pictures.Emoji(np.stack(images), items)


def tiny_loop(folder: Path, plan: TrainingPlan) -> tuple[TrainingLoop, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 3, 3)).to(memory_format=torch.channels_last)

    def loss(generator, step):
        return (model(torch.randn(4, 3, 8, 8, generator=generator)) - 1).pow(2).mean(), {}

    return TrainingLoop(folder, model, loss, plan), model


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(tmp_path, workers):
    plan = {"minutes": 1.0, "learning_rate": 1e-2, "ema": 0.9, "workers": workers, "warmup": 5}
    whole, model = tiny_loop(tmp_path / "whole", TrainingPlan(steps=24, **plan))
    whole.run()
    wanted = weights(model)
    first, _ = tiny_loop(tmp_path / "parts", TrainingPlan(steps=24, **plan))
    first._is_done = lambda: first.state.step >= 11  # as if it had been stopped there
    first.run()
    second, model = tiny_loop(tmp_path / "parts", TrainingPlan(steps=24, resume=True, **plan))
    assert second.state.step == 11
    second.run()
    assert all(torch.equal(a, b) for a, b in zip(wanted, weights(model), strict=True))


def test_training_ends_when_its_minutes_are_over_and_leaves_a_checkpoint_and_a_log(tmp_path):
    loop, _ = tiny_loop(tmp_path, TrainingPlan(minutes=0.01, learning_rate=1e-2))
    started = time.monotonic()
    state = loop.run()
    assert 0.6 <= time.monotonic() - started < 5
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["state"])["step"] == state.step > 0
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["rate"] < rows[0]["rate"] * 100 and all(r["seconds"] >= 0 for r in rows)


def test_a_checkpoint_of_another_seed_is_refused(tmp_path):
    loop, _ = tiny_loop(tmp_path, TrainingPlan(minutes=1, learning_rate=1e-2, steps=2))
    loop.run()
    with pytest.raises(ValueError, match="trained with seed 0, not 1"):
        tiny_loop(tmp_path, TrainingPlan(minutes=1, learning_rate=1e-2, steps=2, seed=1, resume=True))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    loop, model = tiny_loop(tmp_path, TrainingPlan(minutes=1, learning_rate=1e-2, steps=40))
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        loop.run()


def test_bad_requests_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match="known: emoji-autoencoder, emoji-clip, emoji-judge, emoji-unet"):
        training.train("emoji-nothing", minutes=1)
    for minutes in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive"):
            training.train("emoji-clip", minutes=minutes)
    with pytest.raises(ValueError, match="cpu or cuda"):
        pick_device("tpu")


def test_well_known_names_cover_every_group_word_for_word():
    known = pictures.well_known_names()
    assert len(known) >= 150
    assert not any(pictures.is_held_out(name) for name in known)
    others = [word for words in known.values() for word in words]
    assert len(others) == len(set(others)) and not set(others) & set(known)


def test_about_five_percent_of_the_names_are_held_out_and_always_the_same():
    share = sum(pictures.is_held_out(f"name {i}") for i in range(20_000)) / 20_000
    assert 0.05 < share < 0.062
    assert pictures.is_held_out("mammoth")


def test_pictures_are_cropped_centred_and_put_on_white():
    drawing = pictures.Image.new("RGBA", (100, 80))
    drawing.paste((255, 0, 0, 255), (60, 10, 80, 50))
    framed = pictures._frame(drawing)
    assert framed.shape == (64, 64, 3) and framed.dtype == np.uint8
    assert (framed[:2] == 255).all() and (framed[:, :13] == 255).all()
    assert (framed[6:58, 22:42] == [255, 0, 0]).all()
    assert pictures._frame(pictures.Image.new("RGBA", (10, 10))) is None


def test_cache_returns_the_built_data(tmp_path):
    emoji = made_up(2)
    pictures._write(emoji, tmp_path / "emoji64.safetensors")
    again = pictures.load(tmp_path)
    assert again.items == emoji.items and (again.pictures == emoji.pictures).all()


def test_variants_flags_and_components_are_left_out():
    assert pictures._is_included({"hexcode": "1F415", "group": 3})
    assert not pictures._is_included({"hexcode": "1F1E6"})
    assert not pictures._is_included({"hexcode": "1F3F4", "group": 9})
    assert not pictures._is_included({"hexcode": "1F468-200D-1F692", "group": 1})
    assert not pictures._is_included({"hexcode": "1F6B4-200D-2640-FE0F", "group": 1})


def test_every_word_of_the_captions_is_one_token_and_no_text_is_unknown():
    tokenizer = captions.train_tokenizer(["red apple", "dog face", "3d"], vocabulary=400)
    assert tokenizer.tokenize("Red dog") == ["red</w>", "dog</w>"]
    for text in ("Ünïcode 苹果 🍎 @#", "zebra", ""):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.eos_token_id) == 1
    assert captions.split_words("3D dog's face") == ["3", "d", "dog", "'s", "face"]


def test_captions_name_the_picture_and_mix_their_kinds():
    item, rng = pictures.Item("red apple", "flat", ("fruit",), "food"), random.Random(0)
    names, texts = ("red apple", "apple"), {captions.draw_caption(item, rng) for _ in range(200)}
    assert texts == {*names} | {f"flat {name}{tag}" for name in names for tag in ("", " fruit")}


def test_the_principal_encoder_gives_exactly_the_projections_of_patches():
    rng = torch.Generator().manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(24, 3, 20, 20, generator=rng), 64, mode="bilinear")
    images = (images * 255).byte().permute(0, 2, 3, 1).numpy()
    vae = autoencoder.build()
    autoencoder.set_principal_encoder(vae, images)
    latents = autoencoder.encode(vae, images)
    assert latents.shape == (24, autoencoder.LATENT_CHANNELS, 16, 16)
    assert latents.mean((0, 2, 3)).abs().max() < 0.02 and abs(latents.square().mean().sqrt() - 1) < 0.02
    centre, vectors, _ = autoencoder.principal_components(images)
    shifted = autoencoder.to_tensor(images) - centre.repeat(1, 16, 16)
    wanted = torch.nn.functional.conv2d(shifted, vectors, stride=autoencoder.PATCH)
    factor = (wanted * latents).sum((0, 2, 3)) / wanted.square().sum((0, 2, 3))
    assert (latents - factor[:, None, None] * wanted).abs().max() < 0.02


def test_v_prediction_recovers_the_clean_latent():
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(64, 4, 2, 2, generator=generator)
    alpha_bar = unet.make_scheduler().alphas_cumprod[torch.linspace(0, 999, 64).long()]
    latent, v = unet.add_noise(clean, clean.mean(0, keepdim=True), alpha_bar, generator)
    alpha_bar = alpha_bar[:, None, None, None]
    assert torch.allclose(alpha_bar.sqrt() * latent - (1 - alpha_bar).sqrt() * v, clean, atol=1e-4)


def test_noise_schedule_ends_with_almost_no_signal():
    scheduler = unet.make_scheduler()
    scheduler.set_timesteps(25)
    assert scheduler.alphas_cumprod[-1] < 1e-7
    assert scheduler.timesteps[0] == 999


def test_contrastive_training_learns_names(tmp_path):
    emoji = made_up()
    torch.manual_seed(0)
    tokenizer = captions.train_tokenizer(captions.list_texts(emoji), vocabulary=400)
    model = clip.build(tokenizer, width=32, layers=2)
    clip.train_encoder(
        emoji, tokenizer, model, tmp_path / "run", TrainingPlan(minutes=1, learning_rate=3e-3, steps=200, warmup=10)
    )
    clip.save(model, tokenizer, tmp_path / "clip")
    own = [item.name for item in emoji.items]
    scores = evaluate.score_images(ClipEncoder(tmp_path / "clip"), emoji.pictures, own, emoji.names)
    assert scores["top1"] > 3 / len(emoji.names)


def count_macs(network: nn.Module, text: torch.Tensor) -> int:
    """Count the MACs of convolutions and linear layers, one call, one batch element."""
    count = 0

    def hook(layer, _, out):
        nonlocal count
        count += out.numel() * layer.weight[0].numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(hook)
    sample = torch.zeros(1, network.config.in_channels, network.config.sample_size, network.config.sample_size)
    with torch.no_grad():
        network(sample, torch.tensor([500]), encoder_hidden_states=text)
    return count


def test_the_unet_is_shaped_as_the_pruners_need_it():
    network = unet.build(text_width=192)
    total = sum(p.numel() for p in network.parameters())
    parts = (".to_q.", ".to_k.", ".to_v.", ".to_out.", ".ff.")
    heads = sum(p.numel() for name, p in network.named_parameters() if any(part in name for part in parts))
    assert heads / total >= 0.45
    norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm)]
    assert norms and all(m.num_channels // m.num_groups >= 8 for m in norms)
    assert [len(b.resnets) for b in network.down_blocks] == [2] * 4
    assert [len(b.resnets) for b in network.up_blocks] == [3] * 4
    assert [hasattr(b, "attentions") for b in network.down_blocks] == [True, True, True, False]
    assert [hasattr(b, "attentions") for b in network.up_blocks] == [False, True, True, True]
    assert count_macs(network, torch.zeros(1, captions.MAX_LENGTH, 192)) <= 0.8e9


def test_a_resumed_run_knows_the_earlier_runs_of_its_weights(tmp_path):
    run_folder, out = tmp_path / "run", tmp_path / "published"
    for folder in (run_folder, out):
        folder.mkdir()
    assert trainer.earlier_runs(run_folder, out, "U-Net") == []
    provenance.write(out, [{"part": "decoder"}, {"part": "U-Net", "seed": 0}])
    assert trainer.earlier_runs(run_folder, out, "U-Net") == [{"part": "U-Net", "seed": 0}]
    provenance.write(run_folder, [{"part": "U-Net", "seed": 0}, {"part": "U-Net", "seed": 1}])
    (run_folder / "checkpoint.safetensors").touch()  # its own run continues
    assert trainer.earlier_runs(run_folder, out, "U-Net") == [{"part": "U-Net", "seed": 0}]
