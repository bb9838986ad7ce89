"""emoji-dit: a diffusion transformer of DiT's kind; a class for each name and style, the latents of emoji-unet.

It follows emoji-unet in all that is not the network: autoencoder, noise, loss, and what pictures it sees how often.
"""

import random
from pathlib import Path

import torch
from diffusers import DiTPipeline, DiTTransformer2DModel

from explorer import catalogue
from explorer.training import autoencoder, publishing, record
from explorer.training import data as pictures
from explorer.training.denoisers import (
    BARE_STYLE,
    DROPPED,
    WORKERS,
    decoder_stretches,
    earlier_stretches,
    latest_autoencoder,
    objective,
    scheduler,
)
from explorer.training.loop import Loop, Plan, pick_device, runs_folder, say
from explorer.training.sampling import SAMPLES, drawn, spread

NAME = "emoji-dit"
BATCH = 32
RATE = 1e-3
NOBODY = 1000  # the class that DiTPipeline takes for no class at all


def build() -> DiTTransformer2DModel:
    """A fresh transformer: 84 narrow heads, so that there are many that can go."""
    return DiTTransformer2DModel(
        sample_size=pictures.SIDE // 4,
        patch_size=2,
        in_channels=autoencoder.LATENT_CHANNELS,
        out_channels=autoencoder.LATENT_CHANNELS,
        num_layers=12,
        num_attention_heads=7,
        attention_head_dim=16,
        num_embeds_ada_norm=NOBODY,
        activation_fn="gelu-approximate",
        norm_elementwise_affine=False,
    ).eval()  # in training mode each block would drop classes by a lot of its own


class Classes:
    """The classes of a training set: bare names, which stand for one style, then styles and names."""

    def __init__(self, emoji: pictures.Emoji):
        styled = [f"{style} {name}" for style in pictures.STYLES if style != BARE_STYLE for name in emoji.names]
        self.labels = [*emoji.names, *styled]
        if len(self.labels) > NOBODY:
            raise ValueError(f"{len(self.labels)} names and styles are more than the {NOBODY} classes of a DiT")
        self.plain = [item.style == BARE_STYLE for item in emoji.items]
        number = {label: index for index, label in enumerate(self.labels)}
        said = (item.name if item.style == BARE_STYLE else f"{item.style} {item.name}" for item in emoji.items)
        self.of = [number[label] for label in said]

    def draw(self, items: list[int], rng: random.Random) -> dict[str, torch.Tensor]:
        """The class of each picture, a tenth of them none, for guidance."""
        return {"class_labels": torch.tensor([NOBODY if rng.random() < DROPPED else self.of[item] for item in items])}


def train(
    minutes: float,
    resume: bool = False,
    device: str = "cpu",
    seed: int = 0,
    data: Path | None = None,
    out: Path | None = None,
) -> None:
    """Train the transformer on the well-known names and write the pipeline to `out` (default: assets/emoji-dit).

    `resume` goes on from the run's checkpoint, or else from the published weights. Needs the autoencoder of emoji-unet;
    raises ValueError without.
    """
    home, out = runs_folder(NAME), out or catalogue.ASSETS / NAME
    known = pictures.load(data).where(lambda item: item.name in pictures.well_known())
    vae, target = latest_autoencoder(), pick_device(device)
    torch.manual_seed(seed)
    transformer, classes = build(), Classes(known)
    earlier = earlier_stretches(home, out, "transformer") if resume else []
    if resume and (out / "transformer" / "config.json").exists():  # overruled by a checkpoint, where there is one
        transformer.load_state_dict(DiTTransformer2DModel.from_pretrained(out / "transformer").state_dict())
    transformer.to(target)
    latents = autoencoder.encode(vae, known.pictures, device)
    workers = WORKERS if device == "cpu" else 1
    if workers > 1:
        torch.set_num_threads(1)
    plan = Plan(minutes, RATE, warmup=200, ema=0.999, device=device, seed=seed, resume=resume, workers=workers)
    loss = objective(transformer, latents, classes, target, BATCH // workers)

    def finish(model: DiTTransformer2DModel) -> None:
        this = record.stretch("transformer", loop.state.seconds, loop.state.step, BATCH, device, seed)
        record.write(home, [*earlier, this])
        pipe = DiTPipeline(transformer=model, vae=vae.to(target), scheduler=scheduler())
        stretches = [*decoder_stretches(out), *earlier, this]
        publishing.publish(pipe, publishing.vocabulary(known), out, stretches, torch.float16, classes.labels)

    def sample(model: DiTTransformer2DModel, path: Path) -> None:
        finish(model)
        autoencoder.save_grid(drawn(out, spread(known.names, SAMPLES)), path)

    loop = Loop(home, transformer, loss, plan, sample)
    loop.run()
    finish(transformer)
    say(f"{NAME}: {loop.state.step} steps; measure it now: python -m explorer.training.evaluate --model {NAME}")
