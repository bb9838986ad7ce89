"""The AutoencoderKL of the latent generators: 64x64 pictures to 16x16 latents of zero mean and unit variance.

The encoder is not learned but computed: the first principal components of 4x4 patches, written into the weights of
diffusers' ordinary encoder (exactly, see `set_principal_encoder`). So a generator can be trained at once, while the
decoder, which is trained by gradient descent on slightly noisy latents, becomes sharper meanwhile.
"""

import itertools
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn

from explorer.training import data as pictures
from explorer.training import provenance
from explorer.training.loop import (
    TrainingLoop,
    TrainingPlan,
    TrainingState,
    pick_device,
    print_progress,
    runs_folder,
)
from explorer.training.options import TrainingOptions

NAME = "emoji-autoencoder"
LATENT_CHANNELS = 12  # 8 lose more than 4 dB, 16 gain 2.7 before the decoder is trained
PATCH = 4
BATCH = 8
NOISE = 0.05  # standard deviations, on the latents that the decoder learns from: generators make small errors
# 1 gives every component unit variance, 0 leaves them as they are; between them fine detail stays weaker than colour
LEVELLING = 0.5
PEDESTAL = 64.0  # see set_principal_encoder
LOG_VARIANCE = -7.0  # of the encoder's posterior: practically its mean


def build() -> AutoencoderKL:
    """Build a fresh autoencoder, 0.8 M parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=pictures.SIDE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Convert uint8 (N, H, W, 3) to float (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_images(batch: torch.Tensor) -> np.ndarray:
    """Convert float (N, 3, H, W) in [-1, 1] to uint8 (N, H, W, 3); values outside are clipped."""
    scaled = batch.float().clamp(-1, 1).add(1).mul(127.5).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def save_grid(images: np.ndarray, path: Path, columns: int = 12) -> None:
    """Save uint8 (N, H, W, 3) as one picture, row by row; a last row that is not full is filled with white."""
    missing = -len(images) % columns
    side = images.shape[1]
    full = np.concatenate([images, np.full((missing, side, side, 3), 255, np.uint8)])
    rows = full.reshape(-1, columns, side, side, 3).transpose(0, 2, 1, 3, 4)
    Image.fromarray(rows.reshape(-1, columns * side, 3)).save(path, quality=95)  # of WebP; PNG has none


def _distortion(decoded: torch.Tensor, true: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Compute the loss, and the PSNR in dB of the unclipped picture."""
    squared = F.mse_loss(decoded.float(), true)
    return 4 * squared + F.l1_loss(decoded.float(), true), 10 * math.log10(4 / (squared.item() + 1e-9))


def principal_components(
    images: np.ndarray, count: int = LATENT_CHANNELS
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the principal components of the 4x4 patches of uint8 (N, H, W, 3) pictures, scaled to [-1, 1].

    Returns the mean (3, 4, 4), the components (count, 3, 4, 4) and their standard deviations (count,), largest first.
    """
    patches = F.unfold(to_tensor(images[:: max(1, len(images) // 2000)]), PATCH, stride=PATCH)
    patches = patches.transpose(1, 2).reshape(-1, 3 * PATCH * PATCH).double()
    centre = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - centre).T.cov())
    vectors = vectors.flip(1).T[:count].reshape(count, 3, PATCH, PATCH)
    return centre.reshape(3, PATCH, PATCH).float(), vectors.float(), values.flip(0)[:count].sqrt().float()


@torch.no_grad()
def set_principal_encoder(vae: AutoencoderKL, images: np.ndarray) -> None:
    """Set the encoder's weights, in place, so that its mean is the levelled principal components of 4x4 patches.

    The residual branches are zero, two strided convolutions gather the patch, and two tricks cancel what is between
    them and the output. The group norm: half of each group's channels are a constant pedestal, so large that it alone
    determines the norm's scale. The SiLU: silu(x) - silu(-x) = x, so every component is passed on with both signs.
    """
    encoder = vae.encoder
    for block in [r for d in encoder.down_blocks for r in d.resnets] + list(encoder.mid_block.resnets):
        block.conv2.weight.zero_()
        block.conv2.bias.zero_()
    first, second = (encoder.down_blocks[i].downsamplers[0].conv for i in (0, 1))
    last = encoder.down_blocks[2].resnets[0].conv_shortcut
    for layer in (encoder.conv_in, first, second, last, encoder.conv_out, vae.quant_conv):
        layer.weight.zero_()
        layer.bias.zero_()
    count = vae.config.latent_channels
    centre, vectors, spread = principal_components(images, count)
    left = spread ** (1 - LEVELLING)  # the remaining standard deviations, up to a factor: their mean square is 1
    vectors = vectors * (left / spread / left.square().mean().sqrt())[:, None, None, None]
    _gather_patches(encoder.conv_in, first, second, centre, vectors)
    _pass_both_signs(last, encoder.conv_norm_out, encoder.conv_out, count)
    vae.quant_conv.weight[range(count), range(count)] = 1
    vae.quant_conv.bias[count:] = LOG_VARIANCE


def _gather_patches(
    entry: nn.Conv2d, first: nn.Conv2d, second: nn.Conv2d, centre: torch.Tensor, vectors: torch.Tensor
) -> None:
    """Gather pixels to 2x2 to 4x4: `second` computes the product of each patch with each of `vectors`."""
    for colour in range(3):
        entry.weight[colour, colour, 1, 1] = 1
        for y, x in itertools.product(range(2), range(2)):
            first.weight[6 * y + 3 * x + colour, colour, y, x] = 1
            for row, column in itertools.product(range(2), range(2)):
                source = 6 * row + 3 * column + colour
                second.weight[: len(vectors), source, y, x] = vectors[:, colour, 2 * y + row, 2 * x + column]
    assert second.bias is not None
    second.bias[: len(vectors)] = -(vectors * centre).sum((1, 2, 3))


def _pass_both_signs(last: nn.Conv2d, norm: nn.GroupNorm, out: nn.Conv2d, count: int) -> None:
    """Pass the first `count` channels through group norm and SiLU unchanged; see `set_principal_encoder`."""
    size = norm.num_channels // norm.num_groups
    assert last.bias is not None
    norm.weight.fill_(PEDESTAL / 2**0.5)
    norm.bias.zero_()
    for group in range(norm.num_groups):
        high = group * size + size // 2
        last.bias[high : high + size // 2] = torch.tensor([PEDESTAL, -PEDESTAL] * (size // 4))
    for component in range(count):
        plus = component % norm.num_groups * size + 2 * (component // norm.num_groups)
        last.weight[plus, component], last.weight[plus + 1, component] = 1, -1
        out.weight[component, plus, 1, 1], out.weight[component, plus + 1, 1, 1] = 1, -1


def train_decoder(vae: AutoencoderKL, images: np.ndarray, plan: TrainingPlan) -> TrainingState:
    """Train the decoder on latents that are computed once; its averaged weights stay in `vae`."""
    device = pick_device(plan.device)
    vae.requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    both = np.concatenate([images, images[:, :, ::-1]])
    latents = encode(vae, both, plan.device)
    vae.to(device, memory_format=torch.channels_last)

    def loss(generator: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        index = torch.randint(len(both), (BATCH,), generator=generator)
        noise = torch.randn(BATCH, *latents.shape[1:], generator=generator)
        noisy = (latents[index] + NOISE * noise).to(device, memory_format=torch.channels_last)
        true = to_tensor(both[index.numpy()]).to(device)
        distortion, psnr = _distortion(vae.decode(noisy).sample, true)
        return distortion, {"psnr": psnr}

    return TrainingLoop(runs_folder(NAME), vae, loss, plan).run()


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray, device: str = "cpu", batch: int = 64) -> torch.Tensor:
    """Encode uint8 (N, 64, 64, 3) pictures as mean latents (N, C, 16, 16), float32 on the CPU."""
    vae.to(pick_device(device))
    parts = (to_tensor(images[i : i + batch]).to(device) for i in range(0, len(images), batch))
    return torch.cat([vae.encode(part).latent_dist.mean.float().cpu() for part in parts])


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """Compute the PSNR in dB, (N,), of reconstructions (mean latent, 8 bits) of uint8 (N, 64, 64, 3) pictures."""
    decoded = [to_images(vae.decode(encode(vae, images[i : i + 64])).sample) for i in range(0, len(images), 64)]
    error = (np.concatenate(decoded).astype(np.float64) - images) ** 2
    return 10 * np.log10(255**2 / error.mean((1, 2, 3)).clip(1e-9))


def measure(vae: AutoencoderKL, emoji: pictures.Emoji, grid: Path | None = None) -> dict[str, float]:
    """Measure the PSNR on the pictures of the held-out names: its mean, the worst, and their number.

    A `grid` of originals above their reconstructions is saved there.
    """
    vae.to("cpu").eval()
    held_out = emoji.where(lambda item: pictures.is_held_out(item.name))
    psnr = reconstruction_psnr(vae, held_out.pictures)
    if grid is not None:
        shown = held_out.pictures[:: max(1, len(held_out.pictures) // 48)][:48]
        with torch.no_grad():
            decoded = to_images(vae.decode(encode(vae, shown)).sample)
        rows = [x for i in range(0, len(shown), 12) for x in (shown[i : i + 12], decoded[i : i + 12])]
        save_grid(np.concatenate(rows), grid)
    return {"psnr": round(float(psnr.mean()), 2), "psnr_worst": round(float(psnr.min()), 2), "n": len(psnr)}


def train(options: TrainingOptions) -> None:
    """Compute the encoder, train the decoder for `minutes`, write both to `out` (default: vae in the run's folder)."""
    emoji = pictures.load(options.data)
    seen = emoji.where(lambda item: not pictures.is_held_out(item.name)).pictures
    folder = runs_folder(NAME)
    torch.manual_seed(options.seed)
    vae = build()
    set_principal_encoder(vae, seen)
    vae.save_pretrained(folder / "fixed")
    plan = TrainingPlan.of(options, 2e-3, weight_decay=0.0, ema=0.998)
    state = train_decoder(vae, seen, plan)
    vae.to("cpu").save_pretrained(options.out or folder / "vae")
    run = provenance.training_run("decoder", state.seconds, state.step, BATCH, options.device, options.seed)
    provenance.write(folder, [run])
    print_progress(f"{NAME}: {measure(vae, emoji, folder / 'reconstructions.png')}")
