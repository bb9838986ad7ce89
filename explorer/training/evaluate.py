"""How good emoji-unet is: `python -m explorer.training.evaluate` draws, judges, writes the card and what KID needs."""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from explorer import metrics
from explorer.evidence.jury import keep_real
from explorer.training import autoencoder
from explorer.training import data as pictures
from explorer.training.cards import write_unet_card
from explorer.training.denoisers import BARE_STYLE, GUIDANCE, NAME, STEPS, generate, spread
from explorer.training.loop import say

GRID = 48
MOST_NAMES = 200


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
    pipe: StableDiffusionPipeline, judge: metrics.Judge, names: list[str], most: int = MOST_NAMES, seeds: int = 2
) -> tuple[dict, np.ndarray, list[str]]:
    """Draw `most` of the names (evenly chosen) once a seed at 25 DDIM steps and guidance 7.5.

    Returns the figures, the pictures of seed 0, and their names. The judge always chooses among all names.
    """
    prompts = spread(names, most)
    started = time.monotonic()
    images = np.concatenate([generate(pipe, prompts, seed) for seed in range(seeds)])
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


def main() -> None:
    """Measure the pipeline in assets/ and write its card and grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=Path("assets"))
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--names", type=int, default=MOST_NAMES, help="how many of the names to draw")
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each")
    options = parser.parse_args()
    out = options.assets / NAME
    emoji = pictures.load(options.data)
    pipe = StableDiffusionPipeline.from_pretrained(out)
    names = json.loads((out / "names.json").read_text(encoding="utf-8"))["names"]
    judge = metrics.Judge(options.assets / "emoji-judge")
    facts, images, drawn = measure(pipe, judge, names, options.names, options.seeds)
    facts["real"] = ceiling(judge, emoji, names)
    alike = emoji.where(lambda item: item.name in names and item.style == BARE_STYLE)  # as bare names ask
    keep_real(alike.pictures, options.assets / "emoji-judge")
    facts["autoencoder"] = autoencoder.measure(pipe.vae, emoji)
    shown = [drawn.index(name) for name in spread(drawn, GRID)]
    autoencoder.save_grid(images[shown], out / "grid.png")
    write_unet_card(out, facts, pipe)
    say(json.dumps(facts))


if __name__ == "__main__":
    main()
