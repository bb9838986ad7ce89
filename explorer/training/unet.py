"""emoji-unet: a small latent diffusion model of SD-1.5's shape, conditioned by the frozen text tower of emoji-clip."""

import math
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from explorer import catalogue
from explorer.training import autoencoder, clip, publishing, record
from explorer.training import data as pictures
from explorer.training.captions import caption, labels, load_tokenizer
from explorer.training.fitting import Fitting, Recipe
from explorer.training.loop import runs_folder
from explorer.training.sampling import SAMPLES, drawn, spread

RECIPE = Recipe("emoji-unet", folder="unet", part="U-Net", batch=32, rate=1.2e-3)
DROPPED = 0.1  # captions left empty, for guidance
BARE_STYLE = "flat"  # what a bare name draws: one picture is learnt much sooner than a choice of three
BARE_SHARE = 0.5  # of the pictures in a batch that are of this style
TAGGED = 4  # captions with tags that are kept per picture
OVERSHOOT = 8.0  # how far guidance is expected to push an early estimate
NOISINESS = 0.6  # below 1: more training at noisy timesteps, where the shape is decided


def build(text_width: int, latent_channels: int = autoencoder.LATENT_CHANNELS) -> UNet2DConditionModel:
    """A fresh U-Net with SD-1.5's stages, for captions of `text_width` features."""
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


def scheduler() -> DDIMScheduler:
    """Cosine noise that ends at practically no signal, which every sampler of diffusers takes as it is."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # what StableDiffusionPipeline insists on; without effect on trailing timesteps
    )


def text_tower(folder: Path) -> CLIPTextModel:
    """The frozen text tower of the CLIPModel saved in `folder`, as the pipeline wants it."""
    clip = CLIPModel.from_pretrained(folder)
    tower = CLIPTextModel(clip.config.text_config)
    kept = {k: v for k, v in clip.state_dict().items() if k.startswith("text_model.")}
    own = tower.state_dict()
    prefix = "" if "text_model.final_layer_norm.weight" in own else "text_model."
    tower.load_state_dict({k.removeprefix(prefix): v for k, v in kept.items()})
    return tower.eval().requires_grad_(False)


class Captions:
    """The captions of a training set, encoded once, and random draws from them."""

    def __init__(self, emoji: pictures.Emoji, tokenizer: CLIPTokenizer, tower: CLIPTextModel, seed: int):
        rng = random.Random(seed)
        self.texts = [""]
        self.plain = [item.style == BARE_STYLE for item in emoji.items]
        self.bare: list[list[int]] = []
        self.styled: list[list[int]] = []
        self.tagged: list[list[int]] = []
        for item in emoji.items:
            self.bare.append([self._add(label) for label in labels(item)])
            self.styled.append([self._add(f"{item.style} {label}") for label in labels(item)])
            self.tagged.append([self._add(caption(item, rng, tags=1.0, bare=0.0)) for _ in range(TAGGED)])
        with torch.no_grad():
            parts = [self.texts[i : i + 256] for i in range(0, len(self.texts), 256)]
            self.hidden = torch.cat([tower(**clip.tokens(tokenizer, part)).last_hidden_state for part in parts])

    def _add(self, text: str) -> int:
        self.texts.append(text)
        return len(self.texts) - 1

    def draw(self, items: list[int], rng: random.Random) -> dict[str, torch.Tensor]:
        """One caption for each picture: style and name, a tenth with tags, a tenth empty; bare names for one style."""
        chosen = []
        for item in items:
            kind = rng.random()
            if kind < DROPPED:
                chosen.append(0)
            elif kind < DROPPED + 0.1:
                chosen.append(rng.choice(self.tagged[item]))
            elif kind < DROPPED + 0.6 and self.plain[item]:
                chosen.append(rng.choice(self.bare[item]))
            else:
                chosen.append(rng.choice(self.styled[item]))
        return {"encoder_hidden_states": self.hidden[chosen]}


def sample(plain: list[bool], count: int, rng: random.Random) -> list[int]:
    """Random pictures, half of them of the style that bare names stand for, which are marked in `plain`."""
    bare = [i for i, is_plain in enumerate(plain) if is_plain]
    other = [i for i, is_plain in enumerate(plain) if not is_plain] or bare
    return [rng.choice(bare if rng.random() < BARE_SHARE else other) for _ in range(count)]


def noisy(
    clean: torch.Tensor, centre: torch.Tensor, kept: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A noisy latent and the v that leads back to `clean` (B, C, h, w), at signal shares `kept` = alpha_bar (B,).

    Guidance pushes early estimates away from the average picture `centre`. So half of the very noisy latents are made
    from a picture exaggerated that way, while v still leads to the true one: the network learns to pull them back.
    """
    size = len(clean)
    part = torch.rand(size, generator=generator) * (torch.rand(size, generator=generator) < 0.5)
    push = (math.log(OVERSHOOT) * part * (1 - 2 * kept).clamp(min=0)).exp()[:, None, None, None]
    noise = torch.randn(clean.shape, generator=generator)
    signal, rest = kept.sqrt()[:, None, None, None], (1 - kept).sqrt()[:, None, None, None]
    latent = signal * (centre + push * (clean - centre)) + rest * noise
    # for push = 1 this is signal * noise - rest * clean, written so that it holds where rest vanishes
    target = signal * noise - rest * clean + signal**2 / rest * (push - 1) * (clean - centre)
    return latent, target


def objective(denoiser: torch.nn.Module, latents: torch.Tensor, asked: Any, device: torch.device, batch: int):
    """The loss of the training loop: mean squared error of v at timesteps spread over each batch.

    asked: has `plain` and `draw`, as `Captions`: what each picture is of, as arguments of the denoiser.
    """
    kept_at = scheduler().alphas_cumprod
    centre = latents.mean(0, keepdim=True)

    def loss(generator: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        index = sample(asked.plain, batch, rng)
        even = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        times = (even**NOISINESS * len(kept_at)).long().clamp(max=len(kept_at) - 1)
        latent, target = noisy(latents[index], centre, kept_at[times], generator)
        said = {name: value.to(device) for name, value in asked.draw(index, rng).items()}
        latent = latent.to(device, memory_format=torch.channels_last)
        found = denoiser(latent, times.to(device), **said).sample
        return F.mse_loss(found.float(), target.to(device)), {}

    return loss


def assemble(
    unet: UNet2DConditionModel, vae: AutoencoderKL, tower: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """The complete pipeline, without safety checker and feature extractor."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=tower,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def train(
    minutes: float,
    resume: bool = False,
    device: str = "cpu",
    seed: int = 0,
    data: Path | None = None,
    out: Path | None = None,
) -> None:
    """Train the U-Net on the well-known names and write the pipeline to `out` (default: assets/emoji-unet).

    `resume` goes on from the run's checkpoint, or else from the published weights: those of another machine, say.

    Needs the text tower of emoji-clip and an encoder fixed by the emoji-autoencoder; raises ValueError without.
    """
    fitting = Fitting(RECIPE, out, minutes, resume, device, seed)
    known = pictures.load(data).where(lambda item: item.name in pictures.well_known())
    vae = latest_autoencoder()
    tower, tokenizer = latest_text_tower()
    unet = fitting.begin(build(tower.config.hidden_size))
    captions = Captions(known, tokenizer, tower, seed)
    latents = autoencoder.encode(vae, known.pictures, device)

    def publish(model: UNet2DConditionModel, stretches: list[dict]) -> None:
        # the decoder may have become sharper meanwhile
        pipe = assemble(model, latest_autoencoder(), tower, tokenizer).to(fitting.target)
        written = [*decoder_stretches(fitting.out), *stretches]
        publishing.publish(pipe, publishing.vocabulary(known), fitting.out, written)

    loss = objective(unet, latents, captions, fitting.target, fitting.share)
    fitting.run(unet, loss, publish, lambda: drawn(fitting.out, spread(known.names, SAMPLES)))


def decoder_stretches(out: Path) -> list[dict]:
    """How the decoder of `latest_autoencoder` was trained."""
    return record.read(runs_folder(autoencoder.NAME)) or [s for s in record.read(out) if s["part"] == "decoder"]


def latest_text_tower() -> tuple[CLIPTextModel, CLIPTokenizer]:
    """What reads the captions: emoji-clip's, as it was trained here, else the one that emoji-unet came with."""
    trained, published = clip.folder("emoji-clip"), catalogue.ASSETS / RECIPE.name
    if (trained / "config.json").exists():
        return text_tower(trained), load_tokenizer(trained)
    if (published / "text_encoder" / "config.json").exists():
        tower = CLIPTextModel.from_pretrained(published / "text_encoder").eval().requires_grad_(False)
        return tower, load_tokenizer(published / "tokenizer")
    raise ValueError("train emoji-clip first: emoji-unet borrows its text tower")


def latest_autoencoder() -> AutoencoderKL:
    """The best autoencoder there is: with the decoder trained on, else as it was when its encoder was fixed."""
    home = runs_folder(autoencoder.NAME)
    for folder in (home / "vae", home / "fixed", catalogue.ASSETS / RECIPE.name / "vae"):
        if (folder / "config.json").exists():
            return AutoencoderKL.from_pretrained(folder).eval()
    raise ValueError("train emoji-autoencoder first: emoji-unet draws in its latents")
