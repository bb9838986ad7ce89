"""emoji-dit: a diffusion transformer of DiT's kind; a class for each name and style, the latents of emoji-unet.

It follows emoji-unet in all that is not the network: autoencoder, noise, loss, and what pictures it sees how often.
"""

import random
from pathlib import Path

import torch
from diffusers import DiTPipeline, DiTTransformer2DModel

from explorer.training import autoencoder, publishing
from explorer.training import data as pictures
from explorer.training.denoisers import (
    BARE_STYLE,
    DROPPED,
    decoder_stretches,
    latest_autoencoder,
    objective,
    scheduler,
)
from explorer.training.fitting import Fitting, Recipe
from explorer.training.sampling import SAMPLES, drawn, spread

RECIPE = Recipe("emoji-dit", folder="transformer", part="transformer", batch=32, rate=2e-3)
NOBODY = 1000  # the class that DiTPipeline takes for no class at all


def build() -> DiTTransformer2DModel:
    """A fresh transformer: 84 narrow heads, so that there are many that can go.

    Each block starts as the identity and the output as zero (adaLN-Zero, Peebles & Xie 2023, section 3.2), which
    diffusers itself does not do; after 160 steps the loss is 0.57 instead of 0.71.
    """
    model = DiTTransformer2DModel(
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
    )
    for layer in (*(block.norm1.linear for block in model.transformer_blocks), model.proj_out_1, model.proj_out_2):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return model.eval()  # in training mode each block would drop classes by a lot of its own


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
    fitting = Fitting(RECIPE, out, minutes, resume, device, seed)
    known = pictures.load(data).where(lambda item: item.name in pictures.well_known())
    vae, classes = latest_autoencoder(), Classes(known)
    transformer = fitting.begin(build())
    latents = autoencoder.encode(vae, known.pictures, device)

    def publish(model: DiTTransformer2DModel, stretches: list[dict]) -> None:
        pipe = DiTPipeline(transformer=model, vae=vae.to(fitting.target), scheduler=scheduler())
        written = [*decoder_stretches(fitting.out), *stretches]
        names = publishing.vocabulary(known)
        publishing.publish(pipe, names, fitting.out, written, torch.float16, classes.labels)

    loss = objective(transformer, latents, classes, fitting.target, fitting.share)
    fitting.run(transformer, loss, publish, lambda: drawn(fitting.out, spread(known.names, SAMPLES)))
