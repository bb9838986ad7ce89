"""emoji-clip and emoji-judge: two CLIP encoders of pictures and captions, the same recipe from two seeds.

The generators use the text tower of emoji-clip; emoji-judge conditions nothing and scores what they generate. First the
text tower alone learns what its words look like (`text_pretraining`). Then it is fixed, so that more training never
changes a generator that uses it, and the picture tower learns to match it, on augmented pictures (turned, blurred,
noisy), because generated ones are softer than real ones.
"""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from explorer.measures import metrics
from explorer.measures.clip_encoder import ClipEncoder
from explorer.models import catalogue
from explorer.training import data as pictures
from explorer.training.autoencoder import to_tensor
from explorer.training.captions import MAX_LENGTH, draw_caption, draw_keywords, list_texts, train_tokenizer
from explorer.training.cards import write_clip_card
from explorer.training.loop import TrainingLoop, TrainingPlan, pick_device, print_progress, runs_folder
from explorer.training.options import TrainingOptions
from explorer.training.text_pretraining import pretrain_text_tower

NAMES_PER_BATCH = 40
KNOWN_SHARE = 0.5  # of a batch's names, for the well-known ones: they are what the generators draw
KEYWORDS_SHARE = 0.2  # of the captions, without the name
LOG_LOGIT_SCALE = 3.0  # at first
OTHER_STYLE_WEIGHT = 0.2  # how much a picture counts as one of a caption that names another style
JUDGE_SEED = 1000
PRETRAINING_SHARE = 0.2  # of the minutes, for the text tower
MAX_PRETRAINING_MINUTES = 3.0


def build(tokenizer: CLIPTokenizer, side: int = pictures.SIDE, width: int = 192, layers: int = 4) -> CLIPModel:
    """Build a fresh CLIPModel for `tokenizer` and pictures of `side` pixels."""
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
        text_config=text, vision_config=vision, projection_dim=width, logit_scale_init_value=LOG_LOGIT_SCALE
    )
    return CLIPModel(config)


def augment(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn, scale, shift, mirror, tint, blur and add noise to pictures (N, 3, H, W) in [-1, 1] on white."""
    n = len(batch)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    angle, scale = uniform(-0.3, 0.3), uniform(0.9, 1.25)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    first = torch.stack([scale * angle.cos() * flip, -scale * angle.sin(), uniform(-0.15, 0.15)], 1)
    second = torch.stack([scale * angle.sin() * flip, scale * angle.cos(), uniform(-0.15, 0.15)], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(batch.shape), align_corners=False)
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
    """Compute how much picture i belongs to caption j: (N, N), rows sum to 1."""
    rows = [
        [
            (1.0 if not styled[j] or a.style == b.style else OTHER_STYLE_WEIGHT) * (a.name == b.name)
            for j, b in enumerate(items)
        ]
        for a in items
    ]
    weights = torch.tensor(rows)
    return weights / weights.sum(1, keepdim=True)


class Batches:
    """Random batches of one training set: about `names` names, two styles of each, with captions."""

    def __init__(self, emoji: pictures.Emoji, tokenizer: CLIPTokenizer, names: int = NAMES_PER_BATCH):
        self.emoji, self.tokenizer, self.count = emoji, tokenizer, names
        self.pictures_of: dict[str, list[int]] = {}
        for index, item in enumerate(emoji.items):
            self.pictures_of.setdefault(item.name, []).append(index)
        self.known = [name for name in self.pictures_of if name in pictures.well_known_names()]
        self.others = [name for name in self.pictures_of if name not in pictures.well_known_names()]

    def draw(self, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Draw one batch: augmented pictures in [-1, 1], tokenized captions, and the targets."""
        rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        known = min(len(self.known), round(self.count * KNOWN_SHARE))
        others = min(len(self.others), self.count - known)
        names = rng.sample(self.known, known) + rng.sample(self.others, others)
        index = [i for n in names for i in rng.sample(self.pictures_of[n], min(2, len(self.pictures_of[n])))]
        items = [self.emoji.items[i] for i in index]
        texts = [
            draw_keywords(item, rng) if rng.random() < KEYWORDS_SHARE else draw_caption(item, rng) for item in items
        ]
        styled = [text.startswith(f"{item.style} ") for text, item in zip(texts, items, strict=True)]
        batch = augment(to_tensor(self.emoji.pictures[np.array(index)]), generator)
        return batch, tokenize(self.tokenizer, texts), _targets(items, texts, styled)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> dict[str, torch.Tensor]:
    """Tokenize texts, padded or truncated to the full length, as StableDiffusionPipeline does it."""
    out = tokenizer(texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length)
    return {"input_ids": torch.tensor(out["input_ids"])}


def contrastive_loss(model: CLIPModel, batch: torch.Tensor, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute the cross entropy of picture to caption and of caption to picture, with soft targets (N, N)."""
    logits = model(input_ids=ids, pixel_values=batch).logits_per_image.float()
    transposed = targets.T / targets.T.sum(1, keepdim=True)
    to_caption = -(targets * logits.log_softmax(1)).sum(1).mean()
    return 0.5 * (to_caption - (transposed * logits.T.log_softmax(1)).sum(1).mean())


def train_encoder(
    emoji: pictures.Emoji, tokenizer: CLIPTokenizer, model: CLIPModel, folder: Path, plan: TrainingPlan
) -> float:
    """Train `model` on `emoji` and leave the averaged weights in it. Returns the seconds of training so far."""
    device = pick_device(plan.device)
    model.to(device).train()
    batches = Batches(emoji, tokenizer)

    def loss(generator: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        batch, text, targets = batches.draw(generator)
        value = contrastive_loss(model, batch.to(device), text["input_ids"].to(device), targets.to(device))
        with torch.no_grad():
            model.logit_scale.clamp_(max=4.0)
        return value, {"scale": model.logit_scale.exp().item()}

    state = TrainingLoop(folder, model, loss, plan).run()
    model.to("cpu").eval()
    return state.seconds


def measure(folder: Path, emoji: pictures.Emoji) -> dict[str, dict]:
    """Measure how often the own name of a picture is found among all names, separately for training, well-known and
    held-out names."""
    encoder = ClipEncoder(folder)
    names = emoji.names
    texts = encoder.embed_texts(names)
    parts = {
        "training": lambda item: not pictures.is_held_out(item.name),
        "well_known": lambda item: item.name in pictures.well_known_names(),
        "held_out": lambda item: pictures.is_held_out(item.name),
    }
    figures = {}
    for part, keep in parts.items():
        some = emoji.where(keep)
        embeddings = encoder.embed_pictures(torch.from_numpy(some.pictures).permute(0, 3, 1, 2).float() / 255)
        found = metrics.retrieval(embeddings, texts, [names.index(item.name) for item in some.items])
        figures[part] = {"top1": round(found.top1, 4), "top5": round(found.top5, 4), "n": found.n, "names": len(names)}
    return figures


def encoder_folder(name: str) -> Path:
    """Return where an encoder is written. emoji-clip is for training alone and does not come with the project: its text
    tower is part of emoji-unet."""
    return catalogue.ASSETS / name if name == "emoji-judge" else runs_folder(name) / "model"


def _train(name: str, options: TrainingOptions) -> None:
    emoji = pictures.load(options.data)
    seen = emoji.where(lambda item: not pictures.is_held_out(item.name))
    folder, out = runs_folder(name), options.out or encoder_folder(name)
    torch.manual_seed(options.seed)
    tokenizer = train_tokenizer(list_texts(emoji), length=MAX_LENGTH)
    model = build(tokenizer)
    pretraining = _pretrain(model, tokenizer, seen, folder, options)
    rest = replace(options, minutes=options.minutes - pretraining / 60)
    plan = TrainingPlan.of(rest, 1e-3, weight_decay=0.1, ema=0.998)
    seconds = pretraining + train_encoder(seen, tokenizer, model, folder, plan)
    save(model, tokenizer, out)
    facts = {"seconds": seconds, "device": options.device, "seed": options.seed, "retrieval": measure(out, emoji)}
    (folder / "facts.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
    print_progress(f"{name}: {facts}")
    write_clip_card(name, out, facts, model)


def _pretrain(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    seen: pictures.Emoji,
    folder: Path,
    options: TrainingOptions,
) -> float:
    """Pretrain the text tower, or load the one of an earlier run, and fix it. Returns the seconds that it took now."""
    text, seconds = nn.ModuleList([model.text_model, model.text_projection]), 0.0
    file = folder / "text.safetensors"
    if options.resume and file.exists():
        load_model(text, file)
    else:
        share = min(MAX_PRETRAINING_MINUTES, PRETRAINING_SHARE * options.minutes)
        plan = TrainingPlan(share, 2e-3, warmup=20, ema=0.99, seed=options.seed)
        seconds = pretrain_text_tower(seen, tokenizer, model, folder / "words", plan)
        save_model(text, str(file))
    text.requires_grad_(False)
    return seconds


def save(model: CLIPModel, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Write the model, its tokenizer and how pictures are preprocessed for it to the folder `out`."""
    model.save_pretrained(out, max_shard_size="9MB")
    tokenizer.save_pretrained(out)
    side = model.config.vision_config.image_size
    prepared = {"size": {"height": side, "width": side}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (out / "preprocessor_config.json").write_text(json.dumps(prepared, indent=2) + "\n", encoding="utf-8")


def train_clip(options: TrainingOptions) -> None:
    """Train emoji-clip; see `explorer.training.train`."""
    _train("emoji-clip", options)


def train_judge(options: TrainingOptions) -> None:
    """Train emoji-judge, by the same recipe with another seed; see `explorer.training.train`."""
    _train("emoji-judge", replace(options, seed=options.seed + JUDGE_SEED))
