"""emoji-ddpm: a diffusion model in pixels, asked for nothing, as those that Diff-Pruning is about (Ho et al. 2020)."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

from explorer import catalogue
from explorer.training import autoencoder, publishing, record
from explorer.training import data as pictures
from explorer.training.denoisers import WORKERS, earlier_stretches
from explorer.training.loop import Loop, Plan, pick_device, runs_folder, say
from explorer.training.sampling import SAMPLES, drawn

NAME = "emoji-ddpm"
SIDE = 32
BATCH = 64
RATE = 1e-3
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
    """Linear noise, as in the DDPM's paper."""
    return DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=True)


def shrunk(images: np.ndarray) -> torch.Tensor:
    """uint8 (N, 64, 64, 3) to float (N, 3, 32, 32) in [-1, 1]."""
    small = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for image in images]
    return autoencoder.to_tensor(np.stack(small))


def objective(unet: UNet2DModel, clean: torch.Tensor, device: torch.device, batch: int):
    """The loss of the training loop: mean squared error of the noise at timesteps spread over each batch; pictures are
    mirrored at random."""
    kept_at = scheduler().alphas_cumprod

    def loss(generator: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        index = torch.randint(len(clean), (batch,), generator=generator)
        mirrored = torch.rand(batch, generator=generator) < 0.5
        x = torch.where(mirrored[:, None, None, None], clean[index].flip(3), clean[index])
        times = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch * len(kept_at)
        times = times.long().clamp(max=len(kept_at) - 1)
        noise = torch.randn(x.shape, generator=generator)
        kept = kept_at[times][:, None, None, None]
        noisy = (kept.sqrt() * x + (1 - kept).sqrt() * noise).to(device, memory_format=torch.channels_last)
        return F.mse_loss(unet(noisy, times.to(device)).sample.float(), noise.to(device)), {}

    return loss


def train(
    minutes: float,
    resume: bool = False,
    device: str = "cpu",
    seed: int = 0,
    data: Path | None = None,
    out: Path | None = None,
) -> None:
    """Train the U-Net on all pictures but those of held-out names and write it to `out` (default: assets/emoji-ddpm).

    `resume` goes on from the run's checkpoint, or else from the published weights.
    """
    home, out, target = runs_folder(NAME), out or catalogue.ASSETS / NAME, pick_device(device)
    known = pictures.load(data).where(lambda item: not pictures.held_out(item.name))
    torch.manual_seed(seed)
    unet = build()
    earlier = earlier_stretches(home, out) if resume else []
    if resume and (out / "unet" / "config.json").exists():  # overruled by a checkpoint, where there is one
        unet.load_state_dict(UNet2DModel.from_pretrained(out / "unet").state_dict())
    unet = unet.to(target, memory_format=torch.channels_last)
    workers = WORKERS if device == "cpu" else 1
    if workers > 1:
        torch.set_num_threads(1)
    plan = Plan(
        minutes, RATE, warmup=200, ema=0.999, device=device, seed=seed, resume=resume, workers=workers, bfloat16=True
    )
    loss = objective(unet, shrunk(known.pictures), target, BATCH // workers)

    def finish(model: UNet2DModel) -> None:
        this = record.stretch("U-Net", loop.state.seconds, loop.state.step, BATCH, device, seed)
        record.write(home, [*earlier, this])
        pipe = DDPMPipeline(unet=model, scheduler=scheduler())
        publishing.publish(pipe, {"names": [""], "words": [], "also": {}}, out, [*earlier, this], torch.float16)

    def sample(model: UNet2DModel, path: Path) -> None:
        finish(model)
        autoencoder.save_grid(drawn(out, [""] * SAMPLES, steps=STEPS, guidance=1.0), path)

    loop = Loop(home, unet, loss, plan, sample)
    loop.run()
    finish(unet)
    say(f"{NAME}: {loop.state.step} steps; measure it now: python -m explorer.training.evaluate --model {NAME}")
