"""What some pictures say of the gates of a whole chain: their loss, and its gradient or what each gate is worth.

One piece of a step of DiP-GO. What goes in and comes out are plain values and arrays, so that any process that has the
model can do it; a step's pictures in fixed parts come to the same, whoever does them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from explorer import metrics, trajectory
from explorer.drawing import png
from explorer.graph import BlockGraph, Forecast
from explorer.mixture import Gates, Mixture
from explorer.pruners.configs import DipgoConfig
from explorer.supernet import NoiseEstimate
from explorer.work import memory_sufficing

LOSSES = {
    "latent": lambda latents, full: (latents - full).square().mean(dim=(1, 2, 3)),
    "l1": lambda pictures, full: (pictures - full).abs().mean(dim=(1, 2, 3)),
    "l2": lambda pictures, full: (pictures - full).square().mean(dim=(1, 2, 3)),
    "ssim": lambda pictures, full: 1 - metrics.ssim(pictures, full),
    "l1+ssim": lambda pictures, full: (pictures - full).abs().mean(dim=(1, 2, 3)) + 1 - metrics.ssim(pictures, full),
}
TINY = 1e-12


class Part(NamedTuple):
    """Pictures of one step: those from number `first` of its batch on."""

    step: int
    first: int
    prompts: Sequence[str]
    seeds: Sequence[int]


class Found(NamedTuple):
    """Means over the pictures of a part."""

    numbers: dict[str, float]  # the loss and its terms
    slope: np.ndarray  # float32 (T, U): the gradient of the scores, or the worth of each gate
    picture: bytes | None  # PNG: what the gates drew, of the batch's first picture


class Gradients:
    """`Gradients(model, config)(part, *gates)`: for a team, whose members each make their own."""

    def __init__(self, model: Any, config: DipgoConfig):
        self.model, self.config = model.twin(), config
        self.graph = model.graph(config.granularity, config.reuse)
        self.price = torch.from_numpy(prices(self.graph, config.cascade)).float()
        self.model.denoiser.requires_grad_(False)

    def __call__(self, part: Part, *gates: np.ndarray) -> Found:
        """Scores (T, U) where each gate decides for itself, else what is kept, bool (T, U), and which calls are looked
        at, bool (T,). Raises ValueError where the memory does not suffice."""
        with memory_sufficing(len(part.seeds)):
            return self._published(part, *gates) if self.config.decision == "argmax" else self._prefix(part, *gates)

    def _published(self, part: Part, score: np.ndarray) -> Found:
        """The terms of eq. 3 and its gradient. Call 0 is open, for it has nothing to reuse."""
        leaf = torch.from_numpy(score).requires_grad_()
        share = leaf.sigmoid()  # of two logits: the straight-through softmax, without noise
        hard = (share > 0.5).float()
        hard[0] = 1.0
        gates = Gates.of(hard + share - share.detach(), self.graph)
        ends, full, picture = self._drawn(part, gates)
        loss = LOSSES[self.config.loss](ends, full).mean()
        numbers = {"loss": loss.item(), "kept": kept_share(self.graph, gates.live.detach().numpy() > 0.5)}
        if numbers["kept"] >= self.config.tau:
            price = (gates.live * self.price).sum(dim=1).mean()
            numbers |= {"price": price.item()}
            loss = loss + self.config.alpha * price
        return Found(numbers, torch.autograd.grad(loss, leaf)[0].numpy(), picture)

    def _prefix(self, part: Part, keep: np.ndarray, looks: np.ndarray) -> Found:
        """A dead unit's own gate is open, so that its reader's says what both would bring."""
        hard = torch.from_numpy(keep | ~self.graph.demanded(keep)).float()
        own = hard[..., None].repeat(1, 1, len(part.seeds)).requires_grad_()
        ends, full, picture = self._drawn(part, Gates.of(own, self.graph, looks))
        loss, worth = self._worth(part, own, ends, full, keep)
        return Found({"loss": loss, "kept": kept_share(self.graph, keep)}, worth, picture)

    def _worth(
        self, part: Part, own: torch.Tensor, ends: torch.Tensor, full: torch.Tensor, keep: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Mean loss, and by what share of it each gate, (T, U), lowers it where it is kept or would be: Gauss-Newton.

        With r the distance that is left and v what a gate moves, |r - v|^2 is what closing it leaves. The gradient has
        2 r v alone, which near the full run is next to nothing; |v|^2 comes from the gradient of a random direction.
        """
        far, count = ends - full, ends[0].numel()
        losses = far.detach().square().mean(dim=(1, 2, 3)).clamp(min=TINY).to(own)
        drawn = np.random.default_rng((self.config.seed, part.step, 2))  # as for the whole batch
        drawn = drawn.standard_normal((part.first + len(ends), *ends.shape[1:]))[part.first :]
        direction = torch.from_numpy(drawn).to(ends) / count**0.5
        slope = torch.autograd.grad(ends, own, 2 * far.detach() / count, retain_graph=True)[0]
        moved = torch.autograd.grad(ends, own, direction)[0].square()
        closing = torch.where(torch.from_numpy(keep)[..., None], moved - slope, -moved - slope) / losses
        return losses.mean().item(), closing.mean(dim=2).numpy()

    def _drawn(self, part: Part, gates: Gates) -> tuple[torch.Tensor, torch.Tensor, bytes | None]:
        """What the pictures come to under the gates, and in the full run from the same noise: final latents
        (B, C, H, W), or pictures for the losses of pictures."""
        noise, _ = self.model.noise(part.seeds)
        encoded = self.model.encode(part.prompts, self.config.guidance)
        chain = (self.config.steps, noise, encoded, self.config.guidance)
        *_, last = trajectory.denoise(self.model, self._scheduler(), *chain, generators=None)
        scheduler = self._scheduler()
        net = Mixture(self.model.denoiser, self.graph, NoiseEstimate.of(scheduler), Forecast.of(self.config))
        ends = trajectory.rollout(self.model, scheduler, *chain, net.at, gates, self.config.memory)
        picture = None if part.first else png(self.model.decode(ends.detach()[:1])[0])
        if self.config.loss == "latent":
            return ends, last.latents, picture
        return self.model.pictures(ends), self.model.pictures(last.latents), picture

    def _scheduler(self) -> Any:
        return trajectory.sampler(self.config.sampler, self.model.scheduler_config)


def prices(graph: BlockGraph, cascade: bool = True) -> np.ndarray:
    """(U,): the share of a call's MACs that each gate decides on, gamma of eq. 3: its own, or with all that falls."""
    macs = graph.macs / graph.macs_per_call
    return graph.falls @ macs if cascade else macs


def kept_share(graph: BlockGraph, keep: np.ndarray) -> float:
    """Of the MACs of a whole run."""
    return float(graph.cost(keep).sum() / (graph.macs_per_call * len(keep)))
