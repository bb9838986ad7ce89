"""Writes model cards: every figure in them comes from the facts that training and evaluation measured."""

from pathlib import Path
from typing import Any

from torch import nn

from explorer.models.model import Model
from explorer.training import provenance

_SOURCES = """\
Emoji on white, 64x64, in three styles, with the names and tags of emojibase-data (MIT): `3d` is Microsoft's Fluent
Emoji (MIT), `flat` is Twemoji (CC-BY 4.0), `shaded` is Noto Color Emoji (SIL OFL 1.1). Components, flags and variants
by gender or direction are left out. The full notices are in `assets/LICENCES.md`."""

_FRONT = """\
---
license: apache-2.0
library_name: {library}
tags: [{tags}]
---
"""


def format_size(model: nn.Module) -> str:
    """Write the number of parameters in millions."""
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M"


def format_percent(share: float) -> str:
    """Write a share in percent: 0.613 -> 61 %, 0.0035 -> 0.4 %, 0.9968 -> 99.7 %; 0 and 100 only where exact."""
    return f"{100 * share:.{0 if 0.095 <= share <= 0.905 or share == 1 else 1}f} %"


def write_clip_card(name: str, out: Path, facts: dict[str, Any], model: nn.Module) -> None:
    """Write the card of emoji-clip or emoji-judge to `out`/README.md."""
    role = (
        "Its text tower, frozen, conditions the project's text-to-image models."
        if name == "emoji-clip"
        else "It conditions nothing; it scores what the project's models generate."
    )
    rows = "\n".join(_retrieval_row(part, figures) for part, figures in facts["retrieval"].items())
    text = f"""\
# {name}

A small CLIP encoder of emoji pictures and captions, {format_size(model)} parameters, in transformers' CLIPModel
layout, with a tokenizer of its own trained on the captions. {role}

## Data
{_SOURCES} A fixed 5 % of the names, chosen by a hash, were not used for training.

## Training
From scratch. The text tower first learns to point each caption at the principal components of the name's pictures and
is then fixed; the picture tower learns to match it, contrastively, from pictures turned, scaled, mirrored, tinted,
blurred and made noisy; the styles of one name are positives of each other.
Seed {facts["seed"]}, {facts["seconds"]:.0f} seconds on {provenance.hardware(facts["device"])}.
Train it again with `python -m explorer train {name}`; `--resume` continues.

## Quality, measured on real pictures
Rank of the picture's own name among all names, by cosine:

| pictures of | first | among first five | pictures | names |
|---|---|---|---|---|
{rows}

A random guess reaches {format_percent(5 / facts["retrieval"]["training"]["names"])} for the first five. The well-known
names are those that `emoji-unet` draws; they are also among the training names.

## Use
Pictures in RGB, 64x64, scaled to [-1, 1] (`preprocessor_config.json`); texts of at most 16 tokens with start and end.

## Limits
It knows emoji and nothing else, English only; words outside its captions are spelt in pieces that mean little to it.
"""
    front = _FRONT.format(library="transformers", tags="emoji, clip")
    (out / "README.md").write_text(front + text, encoding="utf-8")


def _retrieval_row(part: str, figures: dict[str, Any]) -> str:
    top1, top5 = format_percent(figures["top1"]), format_percent(figures["top5"])
    return f"| {part.replace('_', '-')} names | {top1} | {top5} | {figures['n']} | {figures['names']} |"


def write_generator_card(out: Path, quality: dict[str, Any], model: Model) -> None:
    """Write the card of a generator with a VAE to `out`/README.md, from its quality and the training record there."""
    about, recipe, tags = _GENERATORS.get(model.id) or _GENERATORS[model.pipeline]
    text = about.format(size=format_size(model.denoiser))
    text += _data_and_training(
        out.name, provenance.read(out), quality["names"], model.pipe.vae.config.latent_channels, recipe
    )
    text += _quality(quality)
    (out / "README.md").write_text(_FRONT.format(library="diffusers", tags=tags) + text, encoding="utf-8")


def write_ddpm_card(out: Path, facts: dict[str, Any], model: Model) -> None:
    """Write the card of emoji-ddpm to `out`/README.md."""
    rows = "\n".join(_row(run) for run in provenance.read(out))
    text = _DDPM.format(sources=_SOURCES, rows=rows, size=format_size(model.denoiser), **facts)
    (out / "README.md").write_text(_FRONT.format(library="diffusers", tags="emoji, ddpm") + text, encoding="utf-8")


def _row(run: provenance.TrainingRun) -> str:
    steps = run["steps"] or "not recorded"
    return f"| {run['part']} | {steps} | {run['batch']} | {run['seconds']} | {run['seed']} | {run['on']} |"


_DDPM = """\
# emoji-ddpm

An unconditional diffusion model of the faces among emoji in 32x32 pixels, {size} parameters, in diffusers' DDPMPipeline
layout, of the kind that Diff-Pruning is about, with the linear noise of Ho et al. 2020, but predicting v. It is
measured at 100 DDIM steps. Stored in half precision.

![48 pictures](grid.webp)

## Data
{sources} It learns the faces only: smileys whose name has the word, 104 names in three styles.

## Training
From scratch.

| part | steps | batch | seconds | seed | on |
|---|---|---|---|---|---|
{rows}

Train it again with `python -m explorer train emoji-ddpm`; `--resume` continues.

## Quality, measured
KID by emoji-judge's features to the {real} training pictures: {kid} (n = {n}); one half of these to the other:
{kid_real}. The nearest training picture of a generated one has a cosine of {nearest} on average.

## Limits
It draws faces and nothing else, many of them known ones mixed: with so few pictures to learn from it repeats more than
it invents. Eyes and mouths come apart now and then.
"""

_TRANSFORMER = """\
# emoji-dit

A class-conditional latent diffusion transformer of emoji, small enough for two CPU cores, in diffusers' DiTPipeline
layout ({size} parameters, stored in half precision). It predicts v, in the latents of emoji-unet's autoencoder. A class
is a name ("dog", in the flat style), or a style and a name ("3d dog", "shaded dog"); guidance 7.5 and 25 steps are what
it is measured at.

![48 pictures drawn from bare names](grid.webp)
"""

_CLASSES = """\
- Transformer: from scratch, cosine noise. Classes are names (flat style), or styles and names, a tenth of them none.
  Half of the noisiest latents are exaggerated away from the average picture, so that the network corrects what
  guidance overshoots."""

_CAPTIONS = """\
- U-Net: from scratch, cosine noise. Captions are names (flat style), or styles and names, some with tags, a tenth
  empty. Half of the noisiest latents are exaggerated away from the average picture, so that the network corrects
  what guidance overshoots."""

_UNET = """\
# emoji-unet

A text-to-image latent diffusion model of emoji, small enough for two CPU cores, in diffusers' StableDiffusionPipeline
layout. The U-Net has the stages of Stable Diffusion 1.5 ({size} parameters), predicts v, and is conditioned by the text
tower of emoji-clip. `StableDiffusionPipeline.from_pretrained` loads it as it is; guidance 7.5 and 25 steps are what it
is measured at. A bare name ("dog") draws the flat style; "3d dog" and "shaded dog" ask for the others.

![48 pictures drawn from bare names](grid.webp)
"""


_FLUX = """\
# emoji-flux

A text-to-image transformer of emoji of FLUX's kind, small enough for two CPU cores, in diffusers' FluxPipeline layout
({size} parameters in 3 double and 6 single blocks, stored in half precision): flow matching in the latents of
emoji-unet's autoencoder, names through the text tower of emoji-clip and a tiny T5. It is told how strong guidance is to
be, as FLUX.1-dev is, and makes one pass a step; 20 Euler steps and guidance 3.5 are what it is measured at. It reads 12
tokens: `FluxPipeline.from_pretrained(folder)("dog", height=64, width=64, max_sequence_length=12)`.

![48 pictures drawn from bare names](grid.webp)
"""

_GUIDED = """\
- Transformer and T5: from scratch by flow matching (Lipman et al. 2023), captions as for emoji-unet; that network is
  `emoji-flux-teacher`. Then guidance between 1 and 6 is distilled from it (Meng et al. 2023, section 3.1), of which the
  record below tells."""

_TURBO = """\
# emoji-flux-turbo

LoRA of rank 8 for [emoji-flux](../emoji-flux) ({size} parameters with it), which draws in four Euler steps what that
network draws in twenty, at guidance 3.5. `explorer.load("emoji-flux-turbo")` adds it to the weights; in diffusers:
`pipe = FluxPipeline.from_pretrained("emoji-flux"); pipe.load_lora_weights("emoji-flux-turbo")`.

![48 pictures drawn from bare names](grid.webp)
"""

_STEPS = """\
- Progressive distillation (Salimans & Ho 2022, algorithm 2) of emoji-flux, all four steps at once: each step of the
  student learns to go where four of emoji-flux's sixteen lead, from noise on. All weights learn; of what changed in
  each linear layer the eight largest directions are kept (`explorer/training/lora.py`)."""

_GENERATORS = {  # what a card says, by model or pipeline: of the model, of its training, tags
    "emoji-flux-turbo": (_TURBO, _STEPS, "emoji, text-to-image, flux, lora"),
    "StableDiffusionPipeline": (_UNET, _CAPTIONS, "emoji, text-to-image, stable-diffusion"),
    "DiTPipeline": (_TRANSFORMER, _CLASSES, "emoji, class-to-image, dit"),
    "FluxPipeline": (_FLUX, _GUIDED, "emoji, text-to-image, flux"),
}


def _data_and_training(name: str, runs: list[provenance.TrainingRun], names: int, channels: int, recipe: str) -> str:
    rows = "\n".join(map(_row, runs))
    return f"""
## Data
{_SOURCES} The generator learns the {names} names in `names.json`, which everybody knows, in all
three styles ({3 * names} pictures at most); the autoencoder all names but a fixed 5 %.

## Training
- Autoencoder: 64x64 to {channels} channels of 16x16. The encoder is the first {channels} principal components of 4x4
  patches, computed; the decoder is trained.
{recipe}

| part | steps | batch | seconds | seed | on |
|---|---|---|---|---|---|
{rows}

Each run continues from the one before; the code states the last recipe, earlier ones may have differed. Train it again
with `python -m explorer train {name}`; `--resume` continues.
"""


def _quality(quality: dict[str, Any]) -> str:
    auto, real = quality["autoencoder"], quality["real"]
    decibels = f"{auto['psnr']:.1f} dB on average, {auto['psnr_worst']:.1f} dB the worst, n = {auto['n']}"
    upper = f"{format_percent(real['top1'])}, {format_percent(real['top5'])}, {real['clip_score']:.1f}, n = {real['n']}"
    top1, top5 = format_percent(quality["top1"]), format_percent(quality["top5"])
    return f"""
## Quality, measured
| what | figure |
|---|---|
| autoencoder, PSNR on pictures of held-out names | {decibels} |
| emoji-judge finds the true name of a generated picture first, of {quality["names"]} names | {top1} |
| ... among the first five | {top5} |
| clip score (100 x cosine) of the generated pictures by emoji-judge | {quality["clip_score"]:.1f} |
| the same of the real pictures: first, first five, clip score | {upper} |
| seconds per picture in batches of 16 | {quality["seconds_per_picture"]:.1f} |

Generated pictures: n = {quality["n"]}, bare names as prompts, seeds: {quality["seeds"]}, {quality["steps"]} steps of
{quality["sampler"]}, guidance {quality["guidance"]}. emoji-judge never conditioned the generator.

## Limits
It draws emoji it has seen, on white, softer than the originals; it cannot count, compose scenes or draw words outside
`names.json`. Hardest for it, by emoji-judge: {", ".join(quality["hardest"])}.
"""
