"""emoji-ddpm: a diffusion model in pixels, asked for nothing, as those that Diff-Pruning is about (Ho et al. 2020).

Like theirs of faces, churches and bedrooms it knows one kind of thing, the faces: a model of this size that is to draw
every emoji, and is told no name, gets colours and outlines right and little else.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

from explorer.training import autoencoder, publishing
from explorer.training import data as pictures
from explorer.training.fitting import Fitting, Recipe
from explorer.training.sampling import SAMPLES, drawn

SIDE = 32
RECIPE = Recipe("emoji-ddpm", folder="unet", part="U-Net", batch=32, rate=1e-3, bfloat16=True)
STEPS = 100  # of DDIM, as the paper's


def build() -> UNet2DModel:
    """A fresh U-Net of the CIFAR-10 DDPM's kind; eight channels or more in each block of a norm, so that a tenth of
    them can go."""
    return UNet2DModel(
        sample_size=SIDE,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,  # one head, as in that model
        norm_num_groups=4,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )


def scheduler() -> DDPMScheduler:
    """Linear noise, as in the DDPM's paper; but v instead of the noise, which learns backgrounds and colours first:
    after 850 steps of predicting the noise there was neither."""
    betas = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    return DDPMScheduler(**betas, prediction_type="v_prediction", clip_sample=True)


def shrunk(images: np.ndarray) -> torch.Tensor:
    """uint8 (N, 64, 64, 3) to float (N, 3, 32, 32) in [-1, 1]."""
    small = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for image in images]
    return autoencoder.to_tensor(np.stack(small))


def face(item: pictures.Item) -> bool:
    """Whether a picture belongs to the training set: 104 names, in three styles each."""
    return item.group == "smileys" and "face" in item.name


def objective(unet: UNet2DModel, clean: torch.Tensor, device: torch.device, batch: int):
    """The loss of the training loop: mean squared error of v at timesteps spread over each batch."""
    kept_at = scheduler().alphas_cumprod

    def loss(generator: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        x = clean[torch.randint(len(clean), (batch,), generator=generator)]
        times = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch * len(kept_at)
        times = times.long().clamp(max=len(kept_at) - 1)
        noise = torch.randn(x.shape, generator=generator)
        signal, rest = (share.sqrt()[:, None, None, None] for share in (kept_at[times], 1 - kept_at[times]))
        latent = (signal * x + rest * noise).to(device, memory_format=torch.channels_last)
        found = unet(latent, times.to(device)).sample.float()
        return F.mse_loss(found, (signal * noise - rest * x).to(device)), {}

    return loss


def train(
    minutes: float,
    resume: bool = False,
    device: str = "cpu",
    seed: int = 0,
    data: Path | None = None,
    out: Path | None = None,
) -> None:
    """Train the U-Net on the faces and write it to `out` (default: assets/emoji-ddpm).

    `resume` goes on from the run's checkpoint, or else from the published weights.
    """
    fitting = Fitting(RECIPE, out, minutes, resume, device, seed)
    faces = pictures.load(data).where(face)
    unet = fitting.begin(build())

    def publish(model: UNet2DModel, stretches: list[dict]) -> None:
        pipe = DDPMPipeline(unet=model, scheduler=scheduler())
        publishing.publish(pipe, {"names": [""], "words": [], "also": {}}, fitting.out, stretches, torch.float16)

    loss = objective(unet, shrunk(faces.pictures), fitting.target, fitting.share)
    fitting.run(unet, loss, publish, lambda: drawn(fitting.out, [""] * SAMPLES, steps=STEPS, guidance=1.0))
