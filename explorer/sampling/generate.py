"""Generates a batch of pictures, call by call, with a pruning result or without one. Importing this loads no torch."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from explorer.masks.result import Applicable
from explorer.models.model import Model

if TYPE_CHECKING:
    import torch

PREVIEWS = 8  # of a denoising run; each costs a decoding


@dataclass(frozen=True, eq=False)
class Frame:
    """How far the pictures of a run have come."""

    role: str  # original | pruned | baseline
    call: int  # calls made so far
    calls: int
    picture: bytes | None  # PNG: what it would look like if it ended here, or the finished picture
    seconds: float  # of the denoising loop, previews left out
    done: bool
    ssim: float | None = None  # to the original; on the last frame of the others
    psnr: float | None = None


def generate(
    model: Model,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: str,
    steps: int,
    guidance: float,
    result: Applicable | None = None,
    previews: int = PREVIEWS,
    solver: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[tuple[Frame, "torch.Tensor | None"]]:
    """Generate a batch, yielding a frame per call; the last one comes with the pictures (B, 3, H, W) in [0, 1].

    Several runs of one model can be made at the same time. `solver` are settings of the sampler's own, as in
    `schedulers.make_scheduler`. Raises ValueError for a result that does not fit, and for a run that ends in values
    that are not finite.
    """
    from explorer.sampling.rollout import denoise
    from explorer.sampling.schedulers import make_scheduler, num_function_evals

    calls = num_function_evals(sampler, model.scheduler_config, steps, solver)
    if result is not None:
        result.check_calls(model, calls)
    scheduler = make_scheduler(sampler, model.scheduler_config, solver)
    conditioning = model.encode(prompts, guidance)
    noise, generators = model.initial_latents(seeds)
    shown = {round(calls * part / previews) - 1 for part in range(1, previews)}
    context = nullcontext(model.with_shared_weights()) if result is None else result.apply_to(model, scheduler)
    with context as subject:
        seconds, started = 0.0, time.perf_counter()
        for step in denoise(subject, scheduler, steps, noise, conditioning, guidance, generators):
            seconds += time.perf_counter() - started
            if step.call + 1 < calls:
                preview = encode_png(model.decode(step.pred_original_sample)[0]) if step.call in shown else None
                yield Frame("", step.call + 1, calls, preview, seconds, False), None
            started = time.perf_counter()
    pictures = model.decode(step.latents)
    if not bool(pictures.isfinite().all()):
        raise ValueError("the run ended in values that are not finite; lower the guidance or the ratio")
    yield Frame("", calls, calls, encode_png(pictures[0]), seconds, True), pictures


def encode_png(picture: "torch.Tensor") -> bytes:
    """Encode a picture (3, H, W) in [0, 1] as PNG."""
    from PIL import Image

    pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
