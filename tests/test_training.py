"""The trainers on tiny models and made-up pictures, and what the models in assets/ must be like."""

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

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from explorer import training  # noqa: E402
from explorer.training import autoencoder, captions, clip, denoisers, evaluate, fitting, record  # noqa: E402
from explorer.training import data as pictures  # noqa: E402
from explorer.training.loop import Loop, Plan, pick_device  # noqa: E402


def made_up(names: int = 6) -> pictures.Emoji:
    """Coloured discs on white, three styles of each, with names, tags and groups."""
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


def tiny_loop(folder: Path, plan: Plan) -> tuple[Loop, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 3, 3)).to(memory_format=torch.channels_last)

    def loss(generator, step):
        return (model(torch.randn(4, 3, 8, 8, generator=generator)) - 1).pow(2).mean(), {}

    return Loop(folder, model, loss, plan), model


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(tmp_path, workers):
    plan = {"minutes": 1.0, "rate": 1e-2, "ema": 0.9, "workers": workers, "warmup": 5}
    whole, model = tiny_loop(tmp_path / "whole", Plan(steps=24, **plan))
    whole.run()
    wanted = weights(model)
    first, _ = tiny_loop(tmp_path / "parts", Plan(steps=24, **plan))
    first._done = lambda: first.state.step >= 11  # as if it had been stopped there
    first.run()
    second, model = tiny_loop(tmp_path / "parts", Plan(steps=24, resume=True, **plan))
    assert second.state.step == 11
    second.run()
    assert all(torch.equal(a, b) for a, b in zip(wanted, weights(model), strict=True))


def test_training_ends_when_its_minutes_are_over_and_leaves_a_checkpoint_and_a_log(tmp_path):
    loop, _ = tiny_loop(tmp_path, Plan(minutes=0.01, rate=1e-2))
    started = time.monotonic()
    state = loop.run()
    assert 0.6 <= time.monotonic() - started < 5
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["state"])["step"] == state.step > 0
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["rate"] < rows[0]["rate"] * 100 and all(r["seconds"] >= 0 for r in rows)


def test_a_checkpoint_of_another_seed_is_refused(tmp_path):
    loop, _ = tiny_loop(tmp_path, Plan(minutes=1, rate=1e-2, steps=2))
    loop.run()
    with pytest.raises(ValueError, match="trained with seed 0, not 1"):
        tiny_loop(tmp_path, Plan(minutes=1, rate=1e-2, steps=2, seed=1, resume=True))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    loop, model = tiny_loop(tmp_path, Plan(minutes=1, rate=1e-2, steps=40))
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        loop.run()


def test_bad_requests_are_refused_with_a_sentence():
    with pytest.raises(ValueError, match="known: emoji-autoencoder, emoji-clip, emoji-judge, emoji-unet"):
        training.train("emoji-nothing", minutes=1)
    for minutes in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive"):
            training.train("emoji-clip", minutes=minutes)
    with pytest.raises(ValueError, match="cpu or cuda"):
        pick_device("tpu")


def test_well_known_names_cover_every_group_word_for_word():
    known = pictures.well_known()
    assert len(known) >= 150
    assert not any(pictures.held_out(name) for name in known)
    others = [word for words in known.values() for word in words]
    assert len(others) == len(set(others)) and not set(others) & set(known)


def test_about_five_percent_of_the_names_are_held_out_and_always_the_same():
    share = sum(pictures.held_out(f"name {i}") for i in range(20_000)) / 20_000
    assert 0.05 < share < 0.062
    assert pictures.held_out("mammoth")


def test_pictures_are_cropped_centred_and_put_on_white():
    drawing = pictures.Image.new("RGBA", (100, 80))
    drawing.paste((255, 0, 0, 255), (60, 10, 80, 50))
    framed = pictures._frame(drawing)
    assert framed.shape == (64, 64, 3) and framed.dtype == np.uint8
    assert (framed[:2] == 255).all() and (framed[:, :13] == 255).all()
    assert (framed[6:58, 22:42] == [255, 0, 0]).all()
    assert pictures._frame(pictures.Image.new("RGBA", (10, 10))) is None


def test_the_cache_gives_back_what_was_built(tmp_path):
    emoji = made_up(2)
    pictures._write(emoji, tmp_path / "emoji64.safetensors")
    again = pictures.load(tmp_path)
    assert again.items == emoji.items and (again.pictures == emoji.pictures).all()


def test_variants_flags_and_components_are_left_out():
    assert pictures._wanted({"hexcode": "1F415", "group": 3})
    assert not pictures._wanted({"hexcode": "1F1E6"})
    assert not pictures._wanted({"hexcode": "1F3F4", "group": 9})
    assert not pictures._wanted({"hexcode": "1F468-200D-1F692", "group": 1})
    assert not pictures._wanted({"hexcode": "1F6B4-200D-2640-FE0F", "group": 1})


def test_every_word_of_the_captions_is_one_token_and_no_text_is_unknown():
    tokenizer = captions.train_tokenizer(["red apple", "dog face", "3d"], vocabulary=400)
    assert tokenizer.tokenize("Red dog") == ["red</w>", "dog</w>"]
    for text in ("Ünïcode 苹果 🍎 @#", "zebra", ""):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.eos_token_id) == 1
    assert captions.split("3D dog's face") == ["3", "d", "dog", "'s", "face"]


def test_captions_name_the_picture_and_mix_their_kinds():
    item, rng = pictures.Item("red apple", "flat", ("fruit",), "food"), random.Random(0)
    names, texts = ("red apple", "apple"), {captions.caption(item, rng) for _ in range(200)}
    assert texts == {*names} | {f"flat {name}{tag}" for name in names for tag in ("", " fruit")}


def test_the_principal_encoder_gives_exactly_the_projections_of_patches():
    rng = torch.Generator().manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(24, 3, 20, 20, generator=rng), 64, mode="bilinear")
    images = (images * 255).byte().permute(0, 2, 3, 1).numpy()
    vae = autoencoder.build()
    autoencoder.principal_encoder(vae, images)
    latents = autoencoder.encode(vae, images)
    assert latents.shape == (24, autoencoder.LATENT_CHANNELS, 16, 16)
    assert latents.mean((0, 2, 3)).abs().max() < 0.02 and abs(latents.square().mean().sqrt() - 1) < 0.02
    centre, vectors, _ = autoencoder.components(images)
    shifted = autoencoder.to_tensor(images) - centre.repeat(1, 16, 16)
    wanted = torch.nn.functional.conv2d(shifted, vectors, stride=autoencoder.PATCH)
    factor = (wanted * latents).sum((0, 2, 3)) / wanted.square().sum((0, 2, 3))
    assert (latents - factor[:, None, None] * wanted).abs().max() < 0.02


def test_v_leads_back_to_the_clean_latent_also_from_an_exaggerated_one():
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(64, 4, 2, 2, generator=generator)
    kept = denoisers.scheduler().alphas_cumprod[torch.linspace(0, 999, 64).long()]
    latent, v = denoisers.noisy(clean, clean.mean(0, keepdim=True), kept, generator)
    kept = kept[:, None, None, None]
    assert torch.allclose(kept.sqrt() * latent - (1 - kept).sqrt() * v, clean, atol=1e-4)


def test_noise_ends_at_practically_no_signal():
    scheduler = denoisers.scheduler()
    scheduler.set_timesteps(25)
    assert scheduler.alphas_cumprod[-1] < 1e-7
    assert scheduler.timesteps[0] == 999


def test_contrastive_training_learns_names(tmp_path):
    emoji = made_up()
    torch.manual_seed(0)
    tokenizer = captions.train_tokenizer(captions.corpus(emoji), vocabulary=400)
    model = clip.build(tokenizer, width=32, layers=2)
    clip.fit(emoji, tokenizer, model, tmp_path / "run", Plan(minutes=1, rate=3e-3, steps=200, warmup=10))
    clip.save(model, tokenizer, tmp_path / "clip")
    judge = evaluate.metrics.Judge(tmp_path / "clip")
    own = [item.name for item in emoji.items]
    assert evaluate.judge_pictures(judge, emoji.pictures, own, emoji.names)["top1"] > 3 / len(emoji.names)


def multiply_adds(unet: nn.Module, text: torch.Tensor) -> int:
    """Of convolutions and linear layers, one call, one batch element."""
    count = 0

    def hook(layer, _, out):
        nonlocal count
        count += out.numel() * layer.weight[0].numel()

    for layer in unet.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(hook)
    side = unet.config.sample_size
    with torch.no_grad():
        unet(torch.zeros(1, unet.config.in_channels, side, side), torch.tensor([500]), encoder_hidden_states=text)
    return count


def test_the_unet_is_shaped_as_the_pruners_need_it():
    unet = denoisers.build(text_width=192)
    total = sum(p.numel() for p in unet.parameters())
    parts = (".to_q.", ".to_k.", ".to_v.", ".to_out.", ".ff.")
    heads = sum(p.numel() for name, p in unet.named_parameters() if any(part in name for part in parts))
    assert heads / total >= 0.45
    norms = [m for m in unet.modules() if isinstance(m, nn.GroupNorm)]
    assert norms and all(m.num_channels // m.num_groups >= 8 for m in norms)
    assert [len(b.resnets) for b in unet.down_blocks] == [2] * 4 and [len(b.resnets) for b in unet.up_blocks] == [3] * 4
    assert [hasattr(b, "attentions") for b in unet.down_blocks] == [True, True, True, False]
    assert [hasattr(b, "attentions") for b in unet.up_blocks] == [False, True, True, True]
    assert multiply_adds(unet, torch.zeros(1, captions.MAX_LENGTH, 192)) <= 0.8e9


def test_a_resumed_run_knows_what_its_weights_went_through(tmp_path):
    home, out = tmp_path / "run", tmp_path / "published"
    for folder in (home, out):
        folder.mkdir()
    assert fitting.earlier_stretches(home, out, "U-Net") == []
    record.write(out, [{"part": "decoder"}, {"part": "U-Net", "seed": 0}])
    assert fitting.earlier_stretches(home, out, "U-Net") == [{"part": "U-Net", "seed": 0}]
    record.write(home, [{"part": "U-Net", "seed": 0}, {"part": "U-Net", "seed": 1}])
    (home / "checkpoint.safetensors").touch()  # its own stretch goes on
    assert fitting.earlier_stretches(home, out, "U-Net") == [{"part": "U-Net", "seed": 0}]
