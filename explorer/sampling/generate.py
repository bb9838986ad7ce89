"""Drawing a batch of pictures, call by call, under a schedule or without one. Importing this loads no torch."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from explorer.masks import Mask
from explorer.model import Model

if TYPE_CHECKING:
    import torch

PREVIEWS = 8  # of a denoising run; each costs a decoding


@dataclass(frozen=True, eq=False)
class Frame:
    """One moment of a comparison."""

    role: str  # original | pruned | rival
    call: int  # calls made so far
    calls: int
    picture: bytes | None  # PNG: what it would look like if it ended here, or the finished picture
    seconds: float  # of the denoising loop, previews left out
    done: bool
    ssim: float | None = None  # to the original; on the last frame of the others
    psnr: float | None = None


def under(mask: Mask, denoiser: Any, scheduler: Any) -> AbstractContextManager:
    """Run a denoiser under a mask while `scheduler` drives it."""
    from explorer.graph import Forecast, describe
    from explorer.supernet import NoiseEstimate, SuperNet

    header = mask.header
    graph = describe(denoiser, header.granularity, header.reuse)
    header.refuse_unless(header.model.id, type(denoiser).__name__, header.calls, graph.units)
    return SuperNet(denoiser, graph, mask.keep, NoiseEstimate.of(scheduler), Forecast.of(header), scheduler)


def draw(
    model: Model,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: str,
    steps: int,
    guidance: float,
    mask: Mask | None = None,
    previews: int = PREVIEWS,
    solver: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[tuple[Frame, "torch.Tensor | None"]]:
    """Draw a batch, (B, 3, H, W) in [0, 1] with the last frame. Safe beside other draws of the same model.

    `solver` are settings of the sampler's own, as in `trajectory.sampler`. Raises ValueError for a mask that does not
    fit, and for a run that ends in values that are not finite.
    """
    from contextlib import nullcontext

    from explorer import trajectory

    model = model.twin()
    calls = trajectory.calls_of(sampler, model.scheduler_config, steps, solver)
    if mask is not None:
        mask.header.refuse_unless(model.id, type(model.denoiser).__name__, calls, mask.header.units)
    scheduler = trajectory.sampler(sampler, model.scheduler_config, solver)
    conditioning = model.encode(prompts, guidance)
    noise, generators = model.noise(seeds)
    shown = {round(calls * part / previews) - 1 for part in range(1, previews)}
    seconds, started = 0.0, time.perf_counter()
    with nullcontext() if mask is None else under(mask, model.denoiser, scheduler):
        for step in trajectory.denoise(model, scheduler, steps, noise, conditioning, guidance, generators):
            seconds += time.perf_counter() - started
            if step.call + 1 < calls:
                preview = png(model.decode(step.clean)[0]) if step.call in shown else None
                yield Frame("", step.call + 1, calls, preview, seconds, False), None
            started = time.perf_counter()
    pictures = model.decode(step.latents)
    if not bool(pictures.isfinite().all()):
        raise ValueError("the run ended in values that are not finite; lower the guidance or the ratio")
    yield Frame("", calls, calls, png(pictures[0]), seconds, True), pictures


def png(picture: "torch.Tensor") -> bytes:
    """A picture (3, H, W) in [0, 1] as PNG."""
    from PIL import Image

    pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
