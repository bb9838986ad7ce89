"""Measures a generator: `python -m explorer.training.evaluate` generates and scores pictures, and writes the card.

It also writes the features of real pictures that KID needs.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from explorer.evaluation.scorers import save_real_features
from explorer.measures import metrics
from explorer.measures.clip_encoder import ClipEncoder
from explorer.models import catalogue
from explorer.models.model import Model
from explorer.models.pipeline_files import read_json
from explorer.training import autoencoder, ddpm, dit, flux, unet
from explorer.training import data as pictures
from explorer.training.cards import write_ddpm_card, write_generator_card
from explorer.training.loop import print_progress
from explorer.training.sampling import GUIDANCE, STEPS, generate_pictures, pick_evenly

GRID_SIZE = 48  # pictures
MAX_NAMES = 200
MAX_REAL = 500  # real pictures whose features go with a model on pixels


def embed_images(encoder: ClipEncoder, images: np.ndarray) -> torch.Tensor:
    """Embed pictures, uint8 (N, H, W, 3): (N, D)."""
    return encoder.embed_pictures(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)


def score_images(encoder: ClipEncoder, images: np.ndarray, own: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Score pictures, uint8 (N, H, W, 3): how often the encoder finds the own name of each among all `names`, and the
    clip score."""
    embeddings, texts = embed_images(encoder, images), encoder.embed_texts(names)
    index = [names.index(name) for name in own]
    found = metrics.retrieval(embeddings, texts, index)
    score = metrics.clip_score(embeddings, texts[index]).mean().item()
    return {"top1": round(found.top1, 4), "top5": round(found.top5, 4), "clip_score": round(score, 2), "n": found.n}


def hardest_names(
    encoder: ClipEncoder, images: np.ndarray, own: Sequence[str], names: Sequence[str], count: int = 12
) -> list[str]:
    """List the names whose pictures the encoder scores lowest compared with the best other name."""
    cosine = embed_images(encoder, images) @ encoder.embed_texts(names).T
    index = torch.tensor([names.index(name) for name in own])[:, None]
    mine = cosine.gather(1, index)
    margin = (mine - cosine.scatter(1, index, -2.0).amax(1, keepdim=True))[:, 0]
    order = margin.argsort().tolist()
    return list(dict.fromkeys(own[i] for i in order))[:count]


def measure(
    model: Model, encoder: ClipEncoder, names: list[str], max_names: int = MAX_NAMES, seeds: int = 2
) -> tuple[dict[str, Any], np.ndarray, list[str]]:
    """Generate up to `max_names` of the names (evenly chosen) once per seed, with the model's own sampler, steps and
    guidance, else at 25 DDIM steps and guidance 7.5.

    Returns the figures, the pictures of seed 0, and their names. The encoder always chooses among all names.
    """
    prompts = pick_evenly(names, max_names)
    started = time.monotonic()
    run: dict[str, Any] = {"sampler": "ddim", "steps": STEPS, "guidance": GUIDANCE} | catalogue.own_run(model.id)
    images = np.concatenate([generate_pictures(model, prompts, seed, **run) for seed in range(seeds)])
    seconds = (time.monotonic() - started) / len(images)
    own = prompts * seeds
    facts = score_images(encoder, images, own, names)
    facts |= {"names": len(names), "seeds": seeds} | run
    facts |= {"seconds_per_picture": round(seconds, 2), "hardest": hardest_names(encoder, images, own, names)}
    return facts, images[: len(prompts)], prompts


def score_training_pictures(encoder: ClipEncoder, emoji: pictures.Emoji, names: list[str]) -> dict[str, Any]:
    """Score the training pictures themselves: no generator can be expected to do better."""
    some = emoji.where(lambda item: item.name in names)
    return score_images(encoder, some.pictures, [item.name for item in some.items], names)


def compare_with_real(
    model: Model, encoder: ClipEncoder, real: np.ndarray, count: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Compare `count` pictures of an unconditional model with `real` ones, uint8 (N, H, W, 3).

    Returns the figures (KID to them, KID of one half of them to the other, how near each picture comes to one of the
    training set) and the pictures.
    """
    images = generate_pictures(model, [""] * count, steps=ddpm.STEPS, guidance=1.0)
    generated, known = (embed_images(encoder, some) for some in (images, real))
    nearest = (generated @ known.T).amax(dim=1)
    facts = {
        "kid": f"{metrics.kid(generated, known):.4f}",
        "kid_real": f"{metrics.kid(known[::2], known[1::2]):.4f}",
    }
    return facts | {"n": count, "real": len(known), "nearest": round(nearest.mean().item(), 3)}, images


def main() -> None:
    """Measure a pipeline in assets/ and write its card and grid."""
    names = [config.name for config in (unet.CONFIG, dit.CONFIG, flux.CONFIG, flux.TURBO, ddpm.CONFIG)]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=names, default=unet.CONFIG.name)
    parser.add_argument("--assets", type=Path, default=catalogue.ASSETS)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--names", type=int, default=MAX_NAMES, help="how many of the names to generate")
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each")
    options = parser.parse_args()
    run = _measure_unconditional if options.model == ddpm.CONFIG.name else _measure_conditional
    encoder = ClipEncoder(options.assets / "emoji-judge")
    print_progress(json.dumps(run(options.assets / options.model, pictures.load(options.data), encoder, options)))


def _measure_conditional(
    out: Path, emoji: pictures.Emoji, encoder: ClipEncoder, options: argparse.Namespace
) -> dict[str, Any]:
    model = catalogue.load(out.name if out.parent == catalogue.ASSETS else out)
    known = read_json(out / "names.json") if (out / "names.json").is_file() else catalogue.vocabulary(model.id)
    names = known["names"]
    facts, images, prompts = measure(model, encoder, names, options.names, options.seeds)
    facts["real"] = score_training_pictures(encoder, emoji, names)
    if out.name == unet.CONFIG.name:
        same_style = emoji.where(lambda item: item.name in names and item.style == unet.BARE_STYLE)  # of bare names
        save_real_features(same_style.pictures, encoder, options.assets / "emoji-judge")
    facts["autoencoder"] = autoencoder.measure(model.pipe.vae, emoji)
    shown = [prompts.index(name) for name in pick_evenly(prompts, GRID_SIZE)]
    autoencoder.save_grid(images[shown], out / "grid.webp")
    write_generator_card(out, facts, model)
    return facts


def _measure_unconditional(
    out: Path, emoji: pictures.Emoji, encoder: ClipEncoder, options: argparse.Namespace
) -> dict[str, Any]:
    real = autoencoder.to_images(ddpm.shrink(emoji.where(ddpm.is_face).pictures))
    save_real_features(real[:: max(1, len(real) // MAX_REAL)], encoder, out)
    facts, images = compare_with_real(catalogue.load(out), encoder, real, options.names)
    autoencoder.save_grid(images[:GRID_SIZE], out / "grid.webp")
    write_ddpm_card(out, facts, catalogue.load(out))
    return facts


if __name__ == "__main__":
    main()
