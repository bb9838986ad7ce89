"""emoji-dit: a diffusion transformer like DiT, with a class for each name and style, on the latents of emoji-unet.

It follows emoji-unet in everything but the network: autoencoder, noise, loss, and how often it sees which pictures.
"""

import random

import numpy as np
import torch
from diffusers import DiTPipeline, DiTTransformer2DModel

from explorer.models import catalogue
from explorer.training import autoencoder
from explorer.training import data as pictures
from explorer.training.export import export, make_vocabulary
from explorer.training.options import TrainingOptions
from explorer.training.provenance import TrainingRun
from explorer.training.sampling import NUM_SAMPLES, generate_pictures, pick_evenly
from explorer.training.trainer import DenoiserTrainer, TrainerConfig
from explorer.training.unet import (
    BARE_STYLE,
    DROPPED_SHARE,
    decoder_runs,
    latest_autoencoder,
    make_loss,
    make_scheduler,
)

CONFIG = TrainerConfig("emoji-dit", folder="transformer", part="transformer", batch=32, learning_rate=2e-3)
NO_CLASS = 1000  # the class that DiTPipeline takes for no class at all


def build() -> DiTTransformer2DModel:
    """Build a fresh transformer with 84 narrow heads, so that there are many that can be pruned.

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
        num_embeds_ada_norm=NO_CLASS,
        activation_fn="gelu-approximate",
        norm_elementwise_affine=False,
    )
    for layer in (*(block.norm1.linear for block in model.transformer_blocks), model.proj_out_1, model.proj_out_2):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return model.eval()  # in training mode each block would drop random classes of its own


class Classes:
    """The classes of a training set: bare names, which stand for one style, then styles and names."""

    def __init__(self, emoji: pictures.Emoji):
        styled = [f"{style} {name}" for style in pictures.STYLES if style != BARE_STYLE for name in emoji.names]
        self.labels = [*emoji.names, *styled]
        if len(self.labels) > NO_CLASS:
            raise ValueError(f"{len(self.labels)} names and styles are more than the {NO_CLASS} classes of a DiT")
        self.has_bare_style = [item.style == BARE_STYLE for item in emoji.items]
        number = {label: index for index, label in enumerate(self.labels)}
        own = (item.name if item.style == BARE_STYLE else f"{item.style} {item.name}" for item in emoji.items)
        self.class_of = [number[label] for label in own]  # of each picture

    def draw(self, items: list[int], rng: random.Random) -> dict[str, torch.Tensor]:
        """Return the class of each picture, a tenth of them none, for guidance."""
        classes = [NO_CLASS if rng.random() < DROPPED_SHARE else self.class_of[item] for item in items]
        return {"class_labels": torch.tensor(classes)}


def train(options: TrainingOptions) -> None:
    """Train the transformer on the well-known names and write the pipeline to `out` (default: assets/emoji-dit).

    `resume` continues from the run's checkpoint, or else from the published weights. Needs the autoencoder of
    emoji-unet; raises ValueError without.
    """
    trainer = DenoiserTrainer(CONFIG, options)
    known = pictures.load(options.data).where(lambda item: item.name in pictures.well_known_names())
    vae, classes = latest_autoencoder(), Classes(known)
    transformer = trainer.prepare(build())
    latents = autoencoder.encode(vae, known.pictures, options.device)

    def publish(model: DiTTransformer2DModel, runs: list[TrainingRun]) -> None:
        pipe = DiTPipeline(transformer=model, vae=vae.to(trainer.device), scheduler=make_scheduler())
        all_runs = [*decoder_runs(trainer.out), *runs]
        export(pipe, make_vocabulary(known), trainer.out, all_runs, torch.float16, classes.labels)

    def generate_grid() -> np.ndarray:
        return generate_pictures(catalogue.load(trainer.out), pick_evenly(known.names, NUM_SAMPLES))

    loss = make_loss(transformer, latents, classes, trainer.device, trainer.micro_batch)
    trainer.run(transformer, loss, publish, generate_grid)
