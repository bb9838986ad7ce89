"""emoji-clip and emoji-judge: two CLIP encoders of pictures and captions, the same recipe from two seeds.

emoji-clip lends its text tower to the generators; emoji-judge conditions nothing and scores what they draw. First the
text tower alone is taught what its words look like (`words`). Then it is fixed, so that more training never spoils a
generator that borrowed it, and the picture tower learns to meet it, on spoilt pictures (turned, blurred, noisy),
because generated ones are softer than real ones.
"""

import json
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from explorer import catalogue, metrics
from explorer.training import data as pictures
from explorer.training import words
from explorer.training.autoencoder import to_tensor
from explorer.training.captions import MAX_LENGTH, caption, corpus, keywords, train_tokenizer
from explorer.training.loop import Loop, Plan, pick_device, runs_folder, say

NAMES_A_BATCH = 40
KNOWN_SHARE = 0.5  # of a batch's names, for the well-known ones: they are what the generators draw
TEMPERATURE = 3.0  # logarithm of the first logit scale
OTHER_STYLE = 0.2  # how much a picture counts as one of a caption that names another style
JUDGE_SEED = 1000
TEACHING_SHARE = 0.2  # of the minutes, for the text tower
TEACHING_MINUTES = 3.0  # at most


def build(tokenizer: CLIPTokenizer, side: int = pictures.SIDE, width: int = 192, layers: int = 4) -> CLIPModel:
    """A fresh CLIPModel for `tokenizer` and pictures of `side` pixels."""
    tower = {"hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": width // 32}
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "num_hidden_layers": max(1, layers - 1),
        # with the default end token every text would pool to the same vector
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **tower,
    }
    vision = {"image_size": side, "patch_size": side // 4, "num_hidden_layers": layers, **tower}
    config = CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=width, logit_scale_init_value=TEMPERATURE
    )
    return CLIPModel(config)


def spoil(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn, scale, shift, mirror, tint, soften, roughen (N, 3, H, W) pictures in [-1, 1]; white stays around them."""
    n = len(batch)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    angle, scale = uniform(-0.3, 0.3), uniform(0.9, 1.25)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    first = torch.stack([scale * angle.cos() * flip, -scale * angle.sin(), uniform(-0.15, 0.15)], 1)
    second = torch.stack([scale * angle.sin() * flip, scale * angle.cos(), uniform(-0.15, 0.15)], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), batch.shape, align_corners=False)
    out = F.grid_sample(batch - 1, grid, align_corners=False) + 1  # padding becomes white
    tint = uniform(0.8, 1.2, 3, 1, 1) * uniform(0.8, 1.2, 1, 1, 1)
    out = 1 - (1 - out) * tint
    soft = F.interpolate(F.avg_pool2d(out, 4), scale_factor=4, mode="bilinear")
    smooth = F.avg_pool2d(F.pad(out, (2, 2, 2, 2), mode="replicate"), 5, 1)
    pick = uniform(0, 1, 1, 1, 1)
    mixed = torch.where(pick < 0.3, soft, torch.where(pick < 0.6, smooth, out))
    share = uniform(0, 1, 1, 1, 1)
    out = share * mixed + (1 - share) * out
    noise = torch.randn(out.shape, generator=generator) * uniform(0, 0.2, 1, 1, 1)
    return (out + noise).clamp(-1, 1)


def _targets(items: list[pictures.Item], captions: list[str], styled: list[bool]) -> torch.Tensor:
    """How much picture i belongs to caption j: (N, N), rows sum to 1."""
    rows = [
        [
            (1.0 if not styled[j] or a.style == b.style else OTHER_STYLE) * (a.name == b.name)
            for j, b in enumerate(items)
        ]
        for a in items
    ]
    weights = torch.tensor(rows)
    return weights / weights.sum(1, keepdim=True)


class Batches:
    """Random batches of one training set: about `names` names, two styles of each, with captions."""

    def __init__(self, emoji: pictures.Emoji, tokenizer: CLIPTokenizer, names: int = NAMES_A_BATCH):
        self.emoji, self.tokenizer, self.count = emoji, tokenizer, names
        self.pictures_of: dict[str, list[int]] = {}
        for index, item in enumerate(emoji.items):
            self.pictures_of.setdefault(item.name, []).append(index)
        self.known = [name for name in self.pictures_of if name in pictures.well_known()]
        self.others = [name for name in self.pictures_of if name not in pictures.well_known()]

    def draw(self, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Spoilt pictures in [-1, 1], tokenized captions, and the targets of one batch."""
        rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        known = min(len(self.known), round(self.count * KNOWN_SHARE))
        others = min(len(self.others), self.count - known)
        names = rng.sample(self.known, known) + rng.sample(self.others, others)
        index = [i for n in names for i in rng.sample(self.pictures_of[n], min(2, len(self.pictures_of[n])))]
        items = [self.emoji.items[i] for i in index]
        texts = [keywords(item, rng) if rng.random() < 0.2 else caption(item, rng) for item in items]
        styled = [text.startswith(f"{item.style} ") for text, item in zip(texts, items, strict=True)]
        batch = spoil(to_tensor(self.emoji.pictures[np.array(index)]), generator)
        return batch, tokens(self.tokenizer, texts), _targets(items, texts, styled)


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> dict[str, torch.Tensor]:
    """Padded to the full length and cut there, as StableDiffusionPipeline does it."""
    out = tokenizer(texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length)
    return {"input_ids": torch.tensor(out["input_ids"])}


def contrast(model: CLIPModel, batch: torch.Tensor, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy of picture to caption and back against soft targets."""
    out = model(input_ids=ids, pixel_values=batch)
    per_picture = out.logits_per_image.float()
    back = targets.T / targets.T.sum(1, keepdim=True)
    forth = -(targets * per_picture.log_softmax(1)).sum(1).mean()
    return 0.5 * (forth - (back * per_picture.T.log_softmax(1)).sum(1).mean())


def fit(emoji: pictures.Emoji, tokenizer: CLIPTokenizer, model: CLIPModel, folder: Path, plan: Plan) -> float:
    """Train `model` on `emoji` and leave the averaged weights in it. Returns seconds of training so far."""
    device = pick_device(plan.device)
    model.to(device).train()
    batches = Batches(emoji, tokenizer)

    def loss(generator, step):
        batch, text, targets = batches.draw(generator)
        value = contrast(model, batch.to(device), text["input_ids"].to(device), targets.to(device))
        with torch.no_grad():
            model.logit_scale.clamp_(max=4.0)
        return value, {"scale": model.logit_scale.exp().item()}

    state = Loop(folder, model, loss, plan).run()
    model.to("cpu").eval()
    return state.seconds


def measure(folder: Path, emoji: pictures.Emoji) -> dict[str, dict]:
    """Retrieval of the own name among all names, separately for pictures of training, well-known and held-out names."""
    judge = metrics.Judge(folder)
    names = emoji.names
    texts = judge.texts(names)
    parts = {
        "training": lambda item: not pictures.held_out(item.name),
        "well_known": lambda item: item.name in pictures.well_known(),
        "held_out": lambda item: pictures.held_out(item.name),
    }
    out = {}
    for part, keep in parts.items():
        some = emoji.where(keep)
        images = torch.from_numpy(some.pictures).permute(0, 3, 1, 2).float() / 255
        found = metrics.retrieval(judge.pictures(images), texts, [names.index(item.name) for item in some.items])
        out[part] = {"top1": round(found.top1, 4), "top5": round(found.top5, 4), "n": found.n, "names": len(names)}
    return out


def folder(name: str) -> Path:
    """Where an encoder goes. emoji-clip serves training alone and does not come with the project: its text tower is
    part of emoji-unet."""
    return catalogue.ASSETS / name if name == "emoji-judge" else runs_folder(name) / "model"


def _train(name: str, minutes, resume, device, seed, data, out) -> None:
    emoji = pictures.load(data)
    seen = emoji.where(lambda item: not pictures.held_out(item.name))
    home, out = runs_folder(name), out or folder(name)
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(corpus(emoji), length=MAX_LENGTH)
    model = build(tokenizer)
    taught = _teach(model, tokenizer, seen, home, minutes, seed, resume)
    plan = Plan(minutes - taught / 60, 1e-3, device=device, seed=seed, resume=resume, weight_decay=0.1, ema=0.998)
    seconds = taught + fit(seen, tokenizer, model, home, plan)
    save(model, tokenizer, out)
    facts = {"seconds": seconds, "device": device, "seed": seed, "retrieval": measure(out, emoji)}
    (home / "facts.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
    say(f"{name}: {facts}")
    from explorer.training.cards import write_clip_card

    write_clip_card(name, out, facts, model)


def _teach(
    model: CLIPModel, tokenizer: CLIPTokenizer, seen: pictures.Emoji, home: Path, minutes, seed, resume
) -> float:
    """Teach the text tower, or take the one that was, and fix it. Returns the seconds this run spent on it."""
    text, seconds = nn.ModuleList([model.text_model, model.text_projection]), 0.0
    kept = home / "text.safetensors"
    if resume and kept.exists():
        load_model(text, kept)
    else:
        share = min(TEACHING_MINUTES, TEACHING_SHARE * minutes)
        plan = Plan(share, 2e-3, warmup=20, ema=0.99, seed=seed)
        seconds = words.teach(seen, tokenizer, model, home / "words", plan)
        save_model(text, kept)
    text.requires_grad_(False)
    return seconds


def save(model: CLIPModel, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Write the model, its tokenizer and how pictures are prepared for it to the folder `out`."""
    model.save_pretrained(out, max_shard_size="9MB")
    tokenizer.save_pretrained(out)
    side = model.config.vision_config.image_size
    prepared = {"size": {"height": side, "width": side}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (out / "preprocessor_config.json").write_text(json.dumps(prepared, indent=2) + "\n", encoding="utf-8")


def train_clip(minutes, resume=False, device="cpu", seed=0, data=None, out=None) -> None:
    """Train emoji-clip; see explorer.training.train."""
    _train("emoji-clip", minutes, resume, device, seed, data, out)


def train_judge(minutes, resume=False, device="cpu", seed=0, data=None, out=None) -> None:
    """Train emoji-judge, the same recipe from another seed; see explorer.training.train."""
    _train("emoji-judge", minutes, resume, device, seed + JUDGE_SEED, data, out)
