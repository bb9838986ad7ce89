"""What some pictures say about the gates of a schedule: their loss, and its gradient or each gate's contribution.

This is one task of a step of DiP-GO. Its input and its answer are plain values and arrays, so that any process that has
the model can do it; the pictures of a step in fixed micro-batches give the same answer in any process.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from explorer.errors import oom_as_value_error
from explorer.execution.prediction import Prediction
from explorer.execution.soft_supernet import ScheduleGates, SoftSuperNet
from explorer.masks.block_graph import BlockGraph, Extrapolation
from explorer.measures import metrics
from explorer.models.model import Model
from explorer.pruners.schedule_configs import DipgoConfig
from explorer.sampling.generate import encode_png
from explorer.sampling.rollout import denoise, rollout
from explorer.sampling.schedulers import make_scheduler

LOSSES = {
    "latent": lambda latents, full: (latents - full).square().mean(dim=(1, 2, 3)),
    "l1": lambda pictures, full: (pictures - full).abs().mean(dim=(1, 2, 3)),
    "l2": lambda pictures, full: (pictures - full).square().mean(dim=(1, 2, 3)),
    "ssim": lambda pictures, full: 1 - metrics.ssim(pictures, full),
    "l1+ssim": lambda pictures, full: (pictures - full).abs().mean(dim=(1, 2, 3)) + 1 - metrics.ssim(pictures, full),
}
TINY = 1e-12


class MicroBatch(NamedTuple):
    """Pictures of one step: those from number `first` of its batch on."""

    step: int
    first: int
    prompts: Sequence[str]
    seeds: Sequence[int]


class GateGradients(NamedTuple):
    """Means over the pictures of a micro-batch."""

    metrics: dict[str, float]  # the loss and its terms
    gradient: np.ndarray  # float32 (T, U): the gradient of the scores, or the contribution of each gate
    picture: bytes | None  # PNG: what the gates generate, of the batch's first picture


class GradientTask:
    """`GradientTask(model, config)(micro_batch, *gates)`: for a worker pool, whose workers each make their own."""

    def __init__(self, model: Model, config: DipgoConfig):
        self.model, self.config = model.with_shared_weights(), config
        self.graph = model.graph(config.granularity, config.reuse)
        self.gamma = torch.from_numpy(macs_share(self.graph, config.cascade)).float()
        self.model.denoiser.requires_grad_(False)

    def __call__(self, batch: MicroBatch, *gates: np.ndarray) -> GateGradients:
        """Evaluate gates: scores (T, U) for `argmax`; for `nested` what is kept, bool (T, U), and which calls are
        evaluated, bool (T,). Raises ValueError where there is not enough memory."""
        with oom_as_value_error(len(batch.seeds)):
            return self._argmax(batch, *gates) if self.config.algorithm == "argmax" else self._nested(batch, *gates)

    def _argmax(self, batch: MicroBatch, score: np.ndarray) -> GateGradients:
        """Compute the terms of eq. 3 and its gradient. Call 0 is open, because it has nothing to reuse."""
        leaf = torch.from_numpy(score).requires_grad_()
        share = leaf.sigmoid()  # of two logits: the straight-through softmax, without noise
        hard = (share > 0.5).float()
        hard[0] = 1.0
        gates = ScheduleGates.of(hard + share - share.detach(), self.graph)
        ends, full, picture = self._generate(batch, gates)
        loss = LOSSES[self.config.loss](ends, full).mean()
        kept = kept_share(self.graph, gates.live.detach().numpy() > 0.5)
        values = {"loss": loss.item(), "kept": kept}
        if kept >= self.config.tau:
            penalty = (gates.live * self.gamma).sum(dim=1).mean()
            values |= {"penalty": penalty.item()}
            loss = loss + self.config.alpha * penalty
        return GateGradients(values, torch.autograd.grad(loss, leaf)[0].numpy(), picture)

    def _nested(self, batch: MicroBatch, keep: np.ndarray, evaluated_calls: np.ndarray) -> GateGradients:
        """Measure contributions. A dead unit's own gate is open, so that its reader's tells what both would bring."""
        hard = torch.from_numpy(keep | ~self.graph.needed(keep)).float()
        own = hard[..., None].repeat(1, 1, len(batch.seeds)).requires_grad_()
        ends, full, picture = self._generate(batch, ScheduleGates.of(own, self.graph, evaluated_calls))
        loss, contribution = self._contribution(batch, own, ends, full, keep)
        return GateGradients({"loss": loss, "kept": kept_share(self.graph, keep)}, contribution, picture)

    def _contribution(
        self, batch: MicroBatch, own: torch.Tensor, ends: torch.Tensor, full: torch.Tensor, keep: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Compute the mean loss, and by what share of it each gate, (T, U), lowers it where it is kept or would be:
        Gauss-Newton.

        With r the remaining distance and v what a gate changes, closing it leaves |r - v|^2. The gradient has 2 r v
        alone, which near the full run is almost 0; |v|^2 comes from the gradient of a random direction.
        """
        distance, count = ends - full, ends[0].numel()
        losses = distance.detach().square().mean(dim=(1, 2, 3)).clamp(min=TINY).to(own)
        rng = np.random.default_rng((self.config.seed, batch.step, 2))  # as for the whole batch
        normal = rng.standard_normal((batch.first + len(ends), *ends.shape[1:]))[batch.first :]
        direction = torch.from_numpy(normal).to(ends) / count**0.5
        gradient = torch.autograd.grad(ends, own, 2 * distance.detach() / count, retain_graph=True)[0]
        curvature = torch.autograd.grad(ends, own, direction)[0].square()
        closing = torch.where(torch.from_numpy(keep)[..., None], curvature - gradient, -curvature - gradient) / losses
        return losses.mean().item(), closing.mean(dim=2).numpy()

    def _generate(self, batch: MicroBatch, gates: ScheduleGates) -> tuple[torch.Tensor, torch.Tensor, bytes | None]:
        """Generate the pictures under the gates and in the full run, from the same noise: final latents (B, C, H, W),
        or pictures for the losses of pictures."""
        noise, _ = self.model.initial_latents(batch.seeds)
        encoded = self.model.encode(batch.prompts, self.config.guidance)
        run = (self.config.steps, noise, encoded, self.config.guidance)
        *_, last = denoise(self.model, self._scheduler(), *run, generators=None)
        scheduler = self._scheduler()
        extrapolation = Extrapolation.of(self.config)
        net = SoftSuperNet(self.model.denoiser, self.graph, Prediction.of(scheduler), extrapolation)
        ends = rollout(self.model, scheduler, *run, net.at, gates, self.config.checkpointing)
        picture = None if batch.first else encode_png(self.model.decode(ends.detach()[:1])[0])
        if self.config.loss == "latent":
            return ends, last.latents, picture
        return self.model.decode_differentiable(ends), self.model.decode_differentiable(last.latents), picture

    def _scheduler(self) -> Any:
        return make_scheduler(self.config.sampler, self.model.scheduler_config)


def macs_share(graph: BlockGraph, cascade: bool = True) -> np.ndarray:
    """Compute the share of a call's MACs that each gate decides on, (U,), gamma of eq. 3: its own, or its cascade's."""
    macs = graph.macs / graph.macs_per_call
    return graph.cascades @ macs if cascade else macs


def kept_share(graph: BlockGraph, keep: np.ndarray) -> float:
    """Compute the share of a whole run's MACs that `keep`, bool (T, U), computes."""
    return float(graph.cost(keep).sum() / (graph.macs_per_call * len(keep)))
