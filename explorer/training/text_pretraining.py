"""Pretrains a text tower on what its words look like, before any picture encoder is trained.

A contrastive encoder trained for a short time tells words apart by colour and little else, and a generator that uses
its text tower then draws blots of the right colour. So the text tower first learns to point every caption at a fixed
description of the name's pictures: their levelled principal components, which differ for all names. It takes a minute.
"""

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPModel, CLIPTokenizer

from explorer.training.autoencoder import to_tensor
from explorer.training.captions import draw_caption, draw_keywords
from explorer.training.data import Emoji, well_known_names
from explorer.training.loop import TrainingLoop, TrainingPlan

SIDE = 16  # pixels of the pictures that are described
LEVELLING = 0.5  # as for the latents: fine detail counts, but less than colour and outline
SCALE = 20.0
BATCH = 96


def describe_names(emoji: Emoji, width: int) -> tuple[list[str], torch.Tensor]:
    """Return the names, and for each a direction (names, width) of length 1: what its pictures have in common."""
    small = F.interpolate(to_tensor(emoji.pictures), SIDE, mode="area").flatten(1).double()
    _, values, vectors = torch.linalg.svd(small - small.mean(0), full_matrices=False)
    count = min(width, len(values))
    described = (small - small.mean(0)) @ vectors[:count].T / values[:count].clamp(min=1e-6) ** LEVELLING
    names = emoji.names
    position = torch.tensor([names.index(item.name) for item in emoji.items])
    mean = torch.zeros(len(names), width, dtype=torch.double)
    mean[:, :count].index_add_(0, position, described)
    return names, F.normalize(mean, dim=1).float()


def pretrain_text_tower(
    emoji: Emoji, tokenizer: CLIPTokenizer, model: CLIPModel, folder: Path, plan: TrainingPlan
) -> float:
    """Train text tower and projection of `model`, on the CPU, to find each name's description by its captions.

    Returns the seconds of training so far; the picture tower does not change.
    """
    names, targets = describe_names(emoji, model.config.projection_dim)
    text = nn.ModuleList([model.text_model, model.text_projection])
    first = {item.name: item for item in emoji.items}
    known = [index for index, name in enumerate(names) if name in well_known_names()] or [0]

    def loss(generator: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        index = [rng.choice(known) if rng.random() < 0.5 else rng.randrange(len(names)) for _ in range(BATCH)]
        items = [first[names[i]] for i in index]
        texts = [
            draw_keywords(item, rng) if rng.random() < 0.15 else draw_caption(item, rng, bare=0.5) for item in items
        ]
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        pooled = model.text_projection(model.text_model(input_ids=ids).pooler_output)
        logits = SCALE * F.normalize(pooled, dim=1) @ targets.T
        found = (logits.argmax(1) == torch.tensor(index)).float().mean().item()
        return F.cross_entropy(logits, torch.tensor(index)), {"found": found}

    return TrainingLoop(folder, text.train(), loss, plan).run().seconds
