"""emoji-unet: a small latent diffusion model of SD-1.5's shape, conditioned by the frozen text tower of emoji-clip."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from explorer.models import catalogue
from explorer.training import autoencoder, clip, provenance
from explorer.training import data as pictures
from explorer.training.captions import draw_caption, list_labels, load_tokenizer
from explorer.training.export import export, make_vocabulary
from explorer.training.loop import Loss, runs_folder
from explorer.training.options import TrainingOptions
from explorer.training.provenance import TrainingRun
from explorer.training.sampling import NUM_SAMPLES, generate_pictures, pick_evenly
from explorer.training.trainer import DenoiserTrainer, TrainerConfig

CONFIG = TrainerConfig("emoji-unet", folder="unet", part="U-Net", batch=32, learning_rate=1.2e-3)
DROPPED_SHARE = 0.1  # of the captions, left empty for guidance
TAGGED_SHARE, NAMED_SHARE = 0.1, 0.5  # of the captions: with tags; bare names, where the picture has their style
BARE_STYLE = "flat"  # what a bare name draws: one picture is learnt much sooner than a choice of three
BARE_SHARE = 0.5  # of the pictures in a batch that are of this style
NUM_TAGGED = 4  # captions with tags that are encoded per picture
OVERSHOOT = 8.0  # how far guidance is expected to push an early estimate
NOISINESS = 0.6  # below 1: more training at noisy timesteps, where the shape is decided


def build(text_width: int, latent_channels: int = autoencoder.LATENT_CHANNELS) -> UNet2DConditionModel:
    """Build a fresh U-Net with SD-1.5's stages, for captions of `text_width` features."""
    return UNet2DConditionModel(
        sample_size=pictures.SIDE // 4,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(64, 96, 128, 128),
        layers_per_block=2,
        transformer_layers_per_block=(1, 1, 3, 2),
        attention_head_dim=(4, 6, 4, 4),  # diffusers' name for the number of heads
        norm_num_groups=8,
        cross_attention_dim=text_width,
        use_linear_projection=True,
    )


def make_scheduler() -> DDIMScheduler:
    """Make a scheduler of cosine noise that ends at practically no signal, which every sampler of diffusers accepts."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # which StableDiffusionPipeline requires; without effect on trailing timesteps
    )


def load_text_tower(folder: Path) -> CLIPTextModel:
    """Load the text tower of the CLIPModel saved in `folder`, frozen, as the pipeline needs it."""
    whole = CLIPModel.from_pretrained(folder)
    tower = CLIPTextModel(whole.config.text_config)
    weights = {name: value for name, value in whole.state_dict().items() if name.startswith("text_model.")}
    prefix = "" if "text_model.final_layer_norm.weight" in tower.state_dict() else "text_model."
    tower.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items()})
    return tower.eval().requires_grad_(False)


class Conditions(Protocol):
    """What each picture of a training set is conditioned on."""

    has_bare_style: list[bool]  # whether a picture has the style that bare names stand for

    def draw(self, items: list[int], rng: random.Random) -> dict[str, torch.Tensor]:
        """Draw arguments of the denoiser for these pictures."""


class Captions:
    """The captions of a training set, encoded once, and random draws from them."""

    def __init__(self, emoji: pictures.Emoji, encode: Callable[[list[str]], dict[str, torch.Tensor]], seed: int):
        rng = random.Random(seed)
        self.texts = [""]
        self.has_bare_style = [item.style == BARE_STYLE for item in emoji.items]
        self.bare: list[list[int]] = []
        self.styled: list[list[int]] = []
        self.tagged: list[list[int]] = []
        for item in emoji.items:
            self.bare.append([self._add(label) for label in list_labels(item)])
            self.styled.append([self._add(f"{item.style} {label}") for label in list_labels(item)])
            self.tagged.append([self._add(draw_caption(item, rng, tags=1.0, bare=0.0)) for _ in range(NUM_TAGGED)])
        with torch.no_grad():
            parts = [self.texts[i : i + 256] for i in range(0, len(self.texts), 256)]
            encoded = [encode(part) for part in parts]
        self.encoded = {name: torch.cat([part[name] for part in encoded]) for name in encoded[0]}

    def _add(self, text: str) -> int:
        self.texts.append(text)
        return len(self.texts) - 1

    def draw(self, items: list[int], rng: random.Random) -> dict[str, torch.Tensor]:
        """Draw one caption per picture: style and name, a tenth with tags, a tenth empty; bare names for one style."""
        captions = []
        for item in items:
            kind = rng.random()
            if kind < DROPPED_SHARE:
                captions.append(0)
            elif kind < DROPPED_SHARE + TAGGED_SHARE:
                captions.append(rng.choice(self.tagged[item]))
            elif kind < DROPPED_SHARE + TAGGED_SHARE + NAMED_SHARE and self.has_bare_style[item]:
                captions.append(rng.choice(self.bare[item]))
            else:
                captions.append(rng.choice(self.styled[item]))
        return {name: value[captions] for name, value in self.encoded.items()}


def draw_indices(has_bare_style: list[bool], count: int, rng: random.Random) -> list[int]:
    """Draw random pictures, half of them of the style that bare names stand for."""
    bare = [index for index, is_bare in enumerate(has_bare_style) if is_bare]
    other = [index for index, is_bare in enumerate(has_bare_style) if not is_bare] or bare
    return [rng.choice(bare if rng.random() < BARE_SHARE else other) for _ in range(count)]


def add_noise(
    clean: torch.Tensor, centre: torch.Tensor, alpha_bar: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make noisy latents and the v that lead back to `clean` (B, C, h, w), at signal shares `alpha_bar` (B,).

    Guidance pushes early estimates away from the average picture `centre`. So half of the very noisy latents are made
    from a picture exaggerated that way, while v still leads to the true one: the network learns to pull them back.
    """
    size = len(clean)
    part = torch.rand(size, generator=generator) * (torch.rand(size, generator=generator) < 0.5)
    push = (math.log(OVERSHOOT) * part * (1 - 2 * alpha_bar).clamp(min=0)).exp()[:, None, None, None]
    noise = torch.randn(clean.shape, generator=generator)
    alpha, sigma = alpha_bar.sqrt()[:, None, None, None], (1 - alpha_bar).sqrt()[:, None, None, None]
    latent = alpha * (centre + push * (clean - centre)) + sigma * noise
    # for push = 1 this is alpha * noise - sigma * clean, written so that it holds where sigma vanishes
    target = alpha * noise - sigma * clean + alpha**2 / sigma * (push - 1) * (clean - centre)
    return latent, target


def make_loss(
    denoiser: torch.nn.Module, latents: torch.Tensor, conditions: Conditions, device: torch.device, batch: int
) -> Loss:
    """Make the loss of the training loop: mean squared error of v at timesteps spread over each batch."""
    alphas_cumprod = make_scheduler().alphas_cumprod
    centre = latents.mean(0, keepdim=True)

    def loss(generator: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        index = draw_indices(conditions.has_bare_style, batch, rng)
        even = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        times = (even**NOISINESS * len(alphas_cumprod)).long().clamp(max=len(alphas_cumprod) - 1)
        latent, target = add_noise(latents[index], centre, alphas_cumprod[times], generator)
        arguments = {name: value.to(device) for name, value in conditions.draw(index, rng).items()}
        latent = latent.to(device, memory_format=torch.channels_last)
        output = denoiser(latent, times.to(device), **arguments).sample
        return F.mse_loss(output.float(), target.to(device)), {}

    return loss


def assemble(
    unet: UNet2DConditionModel, vae: AutoencoderKL, tower: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """Assemble the complete pipeline, without safety checker and feature extractor."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=tower,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def train(options: TrainingOptions) -> None:
    """Train the U-Net on the well-known names and write the pipeline to `out` (default: assets/emoji-unet).

    `resume` continues from the run's checkpoint, or else from the published weights, those of another machine for
    example. Needs the text tower of emoji-clip and an encoder fixed by the emoji-autoencoder; raises ValueError
    without.
    """
    trainer = DenoiserTrainer(CONFIG, options)
    known = pictures.load(options.data).where(lambda item: item.name in pictures.well_known_names())
    vae = latest_autoencoder()
    tower, tokenizer = latest_text_tower()
    unet = trainer.prepare(build(tower.config.hidden_size))

    def encode(texts: list[str]) -> dict[str, torch.Tensor]:
        return {"encoder_hidden_states": tower(**clip.tokenize(tokenizer, texts)).last_hidden_state}

    captions = Captions(known, encode, options.seed)
    latents = autoencoder.encode(vae, known.pictures, options.device)

    def publish(model: UNet2DConditionModel, runs: list[TrainingRun]) -> None:
        # the decoder may have become sharper meanwhile
        pipe = assemble(model, latest_autoencoder(), tower, tokenizer).to(trainer.device)
        export(pipe, make_vocabulary(known), trainer.out, [*decoder_runs(trainer.out), *runs])

    def generate_grid() -> np.ndarray:
        return generate_pictures(catalogue.load(trainer.out), pick_evenly(known.names, NUM_SAMPLES))

    loss = make_loss(unet, latents, captions, trainer.device, trainer.micro_batch)
    trainer.run(unet, loss, publish, generate_grid)


def decoder_runs(out: Path) -> list[TrainingRun]:
    """List the runs that trained the decoder of `latest_autoencoder`."""
    own = provenance.read(runs_folder(autoencoder.NAME))
    return own or [run for run in provenance.read(out) if run["part"] == "decoder"]


def latest_text_tower() -> tuple[CLIPTextModel, CLIPTokenizer]:
    """Load what encodes the captions: emoji-clip's, if it was trained here, else the one that emoji-unet came with.

    Raises ValueError where there is neither.
    """
    trained, published = clip.encoder_folder("emoji-clip"), catalogue.ASSETS / CONFIG.name
    if (trained / "config.json").exists():
        return load_text_tower(trained), load_tokenizer(trained)
    if (published / "text_encoder" / "config.json").exists():
        tower = CLIPTextModel.from_pretrained(published / "text_encoder").eval().requires_grad_(False)
        return tower, load_tokenizer(published / "tokenizer")
    raise ValueError("train emoji-clip first: emoji-unet uses its text tower")


def latest_autoencoder() -> AutoencoderKL:
    """Load the best autoencoder there is: with its trained decoder, else as it was when its encoder was fixed.

    Raises ValueError where there is none.
    """
    runs = runs_folder(autoencoder.NAME)
    for folder in (runs / "vae", runs / "fixed", catalogue.ASSETS / CONFIG.name / "vae"):
        if (folder / "config.json").exists():
            return AutoencoderKL.from_pretrained(folder).eval()
    raise ValueError("train emoji-autoencoder first: emoji-unet generates its latents")
