"""How good a generator is: `python -m explorer.training.evaluate` draws, judges, writes the card and what KID needs."""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from explorer import catalogue, metrics
from explorer.evidence.jury import keep_real
from explorer.training import autoencoder, denoisers, pixels, transformer
from explorer.training import data as pictures
from explorer.training.cards import write_drawing_card, write_pixel_card
from explorer.training.loop import say
from explorer.training.sampling import GUIDANCE, STEPS, drawn, spread

GRID = 48
MOST_NAMES = 200
REAL = 500  # real pictures whose features go with a model of pixels


def judge_pictures(judge: metrics.Judge, images: np.ndarray, own: list[str], names: list[str]) -> dict:
    """Whether `judge` finds the own name of each picture, uint8 (N, H, W, 3), among all `names`; and the clip score."""
    shown = judge.pictures(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    texts = judge.texts(names)
    index = [names.index(name) for name in own]
    found = metrics.retrieval(shown, texts, index)
    score = metrics.clip_score(shown, texts[index]).mean().item()
    return {"top1": round(found.top1, 4), "top5": round(found.top5, 4), "clip_score": round(score, 2), "n": found.n}


def worst(judge: metrics.Judge, images: np.ndarray, own: list[str], names: list[str], count: int = 12) -> list[str]:
    """The names whose pictures the judge scores lowest against the best other name."""
    shown = judge.pictures(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    cosine = shown @ judge.texts(names).T
    index = torch.tensor([names.index(name) for name in own])[:, None]
    mine = cosine.gather(1, index)
    margin = (mine - cosine.scatter(1, index, -2.0).amax(1, keepdim=True))[:, 0]
    order = margin.argsort().tolist()
    return list(dict.fromkeys(own[i] for i in order))[:count]


def measure(
    folder: Path, judge: metrics.Judge, names: list[str], most: int = MOST_NAMES, seeds: int = 2
) -> tuple[dict, np.ndarray, list[str]]:
    """Draw `most` of the names (evenly chosen) once a seed at 25 DDIM steps and guidance 7.5.

    Returns the figures, the pictures of seed 0, and their names. The judge always chooses among all names.
    """
    prompts = spread(names, most)
    started = time.monotonic()
    images = np.concatenate([drawn(folder, prompts, seed) for seed in range(seeds)])
    seconds = (time.monotonic() - started) / len(images)
    own = prompts * seeds
    facts = judge_pictures(judge, images, own, names)
    facts |= {"names": len(names), "seeds": seeds, "steps": STEPS, "guidance": GUIDANCE}
    facts |= {"seconds_a_picture": round(seconds, 2), "hardest": worst(judge, images, own, names)}
    return facts, images[: len(prompts)], prompts


def ceiling(judge: metrics.Judge, emoji: pictures.Emoji, names: list[str]) -> dict:
    """What the judge makes of the training pictures themselves: no generator can be expected to do better."""
    some = emoji.where(lambda item: item.name in names)
    return judge_pictures(judge, some.pictures, [item.name for item in some.items], names)


def likeness(folder: Path, judge: metrics.Judge, real: np.ndarray, count: int) -> tuple[dict, np.ndarray]:
    """KID of `count` pictures of a model that is asked for nothing to `real` ones, and of one half of those to the
    other; how near each drawing comes to a picture of the training set. Returns the figures and the pictures."""
    images = drawn(folder, [""] * count, steps=pixels.STEPS, guidance=1.0)
    seen, known = (judge.pictures(torch.from_numpy(some).permute(0, 3, 1, 2).float() / 255) for some in (images, real))
    nearest = (seen @ known.T).amax(dim=1)
    facts = {
        "kid": f"{metrics.kid(seen, known):.4f}",
        "kid_real": f"{metrics.kid(known[::2], known[1::2]):.4f}",
    }
    return facts | {"n": count, "real": len(known), "nearest": round(nearest.mean().item(), 3)}, images


def main() -> None:
    """Measure a pipeline in assets/ and write its card and grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", choices=[one.RECIPE.name for one in (denoisers, transformer, pixels)], default=denoisers.RECIPE.name
    )
    parser.add_argument("--assets", type=Path, default=catalogue.ASSETS)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--names", type=int, default=MOST_NAMES, help="how many of the names to draw")
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each")
    options = parser.parse_args()
    out, emoji, judge = (
        options.assets / options.model,
        pictures.load(options.data),
        metrics.Judge(options.assets / "emoji-judge"),
    )
    facts = (_measured_pixels if options.model == pixels.RECIPE.name else _measured)(out, emoji, judge, options)
    say(json.dumps(facts))


def _measured(out: Path, emoji: pictures.Emoji, judge: metrics.Judge, options: argparse.Namespace) -> dict:
    names = json.loads((out / "names.json").read_text(encoding="utf-8"))["names"]
    facts, images, shown = measure(out, judge, names, options.names, options.seeds)
    facts["real"] = ceiling(judge, emoji, names)
    if out.name == denoisers.RECIPE.name:
        alike = emoji.where(lambda item: item.name in names and item.style == denoisers.BARE_STYLE)  # as bare names ask
        keep_real(alike.pictures, judge, options.assets / "emoji-judge")
    model = catalogue.load(out)
    facts["autoencoder"] = autoencoder.measure(model.pipe.vae, emoji)
    autoencoder.save_grid(images[[shown.index(name) for name in spread(shown, GRID)]], out / "grid.png")
    write_drawing_card(out, facts, model)
    return facts


def _measured_pixels(out: Path, emoji: pictures.Emoji, judge: metrics.Judge, options: argparse.Namespace) -> dict:
    real = autoencoder.to_images(pixels.shrunk(emoji.where(pixels.face).pictures))
    keep_real(real[:: max(1, len(real) // REAL)], judge, out)
    facts, images = likeness(out, judge, real, options.names)
    autoencoder.save_grid(images[:GRID], out / "grid.png")
    write_pixel_card(out, facts, catalogue.load(out))
    return facts


if __name__ == "__main__":
    main()
