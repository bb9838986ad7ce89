"""emoji-ddpm: an unconditional diffusion model on pixels, of the kind that Diff-Pruning is about (Ho et al. 2020).

Like theirs of faces, churches and bedrooms it knows one kind of thing, the faces: a model of this size that has to draw
every emoji, without a name to go by, gets colours and outlines right and little else.
"""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

from explorer.models import catalogue
from explorer.training import autoencoder
from explorer.training import data as pictures
from explorer.training.export import export
from explorer.training.loop import Loss
from explorer.training.options import TrainingOptions
from explorer.training.provenance import TrainingRun
from explorer.training.sampling import NUM_SAMPLES, generate_pictures
from explorer.training.trainer import DenoiserTrainer, TrainerConfig

SIDE = 32
CONFIG = TrainerConfig("emoji-ddpm", folder="unet", part="U-Net", batch=32, learning_rate=1e-3, bfloat16=True)
STEPS = 100  # of DDIM, as in the paper


def build() -> UNet2DModel:
    """Build a fresh U-Net like the CIFAR-10 DDPM's.

    Each group of a norm has at least eight channels, so that a tenth of them can be pruned.
    """
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


def make_scheduler() -> DDPMScheduler:
    """Make a scheduler of linear noise, as in the DDPM paper, but with a v-prediction.

    That learns backgrounds and colours first: after 850 steps of predicting the noise there was neither.
    """
    betas = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    return DDPMScheduler(**betas, prediction_type="v_prediction", clip_sample=True)


def shrink(images: np.ndarray) -> torch.Tensor:
    """Convert uint8 (N, 64, 64, 3) to float (N, 3, 32, 32) in [-1, 1]."""
    small = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for image in images]
    return autoencoder.to_tensor(np.stack(small))


def is_face(item: pictures.Item) -> bool:
    """Say whether a picture belongs to the training set: 104 names, in three styles each."""
    return item.group == "smileys" and "face" in item.name


def make_loss(unet: UNet2DModel, clean: torch.Tensor, device: torch.device, batch: int) -> Loss:
    """Make the loss of the training loop: mean squared error of v at timesteps spread over each batch.

    clean: pictures (N, 3, H, W).
    """
    alphas_cumprod = make_scheduler().alphas_cumprod

    def loss(generator: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        x = clean[torch.randint(len(clean), (batch,), generator=generator)]
        times = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch * len(alphas_cumprod)
        times = times.long().clamp(max=len(alphas_cumprod) - 1)
        noise = torch.randn(x.shape, generator=generator)
        shares = (alphas_cumprod[times], 1 - alphas_cumprod[times])
        alpha, sigma = (share.sqrt()[:, None, None, None] for share in shares)
        latent = (alpha * x + sigma * noise).to(device, memory_format=torch.channels_last)
        output = unet(latent, times.to(device)).sample.float()
        return F.mse_loss(output, (alpha * noise - sigma * x).to(device)), {}

    return loss


def train(options: TrainingOptions) -> None:
    """Train the U-Net on the faces and write it to `out` (default: assets/emoji-ddpm).

    `resume` continues from the run's checkpoint, or else from the published weights.
    """
    trainer = DenoiserTrainer(CONFIG, options)
    faces = pictures.load(options.data).where(is_face)
    unet = trainer.prepare(build())

    def publish(model: UNet2DModel, runs: list[TrainingRun]) -> None:
        pipe = DDPMPipeline(unet=model, scheduler=make_scheduler())
        export(pipe, {"names": [""], "words": [], "also": {}}, trainer.out, runs, torch.float16)

    def generate_grid() -> np.ndarray:
        return generate_pictures(catalogue.load(trainer.out), [""] * NUM_SAMPLES, steps=STEPS, guidance=1.0)

    loss = make_loss(unet, shrink(faces.pictures), trainer.device, trainer.micro_batch)
    trainer.run(unet, loss, publish, generate_grid)
