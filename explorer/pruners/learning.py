"""One optimizer step of DiP-GO after another: draw gates, run the chain, measure, move the gates."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from explorer import metrics, trajectory
from explorer.drawing import png
from explorer.graph import BlockGraph, Forecast
from explorer.mixture import Gates, Mixture
from explorer.prompts import cycled
from explorer.pruners.configs import DipgoConfig
from explorer.pruners.queries import Network, Table
from explorer.pruners.spacing import nested
from explorer.supernet import NoiseEstimate
from explorer.trials import Trials
from explorer.work import memory_sufficing

LOSSES = {
    "latent": lambda latents, full: (latents - full).square().mean(dim=(1, 2, 3)),
    "l1": lambda pictures, full: (pictures - full).abs().mean(dim=(1, 2, 3)),
    "l2": lambda pictures, full: (pictures - full).square().mean(dim=(1, 2, 3)),
    "ssim": lambda pictures, full: 1 - metrics.ssim(pictures, full),
    "l1+ssim": lambda pictures, full: (pictures - full).abs().mean(dim=(1, 2, 3)) + 1 - metrics.ssim(pictures, full),
}
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
TINY = 1e-12
TRIED, PICTURES, TRIED_SEED = (0.5, 0.7, 0.8, 0.9), 8, 2**31  # where orders are tried: ratios, pictures, first noise
NEAR = 0.1  # of the MACs: how far from the cut the order is changed
GOLDEN = (math.sqrt(5) - 1) / 2
DECAY, CLIP = 1e-4, 1.0  # weight decay (section 4.1) and gradient norm (released code) of the published way


class Learner:
    """The gates of one model and trajectory, and how far they have been learned (`done` steps)."""

    def __init__(self, model: Any, graph: BlockGraph, calls: int, prompts: Sequence[str], config: DipgoConfig):
        if calls < 2:
            raise ValueError("a run of one call has nothing that could be left out; take more steps")
        self.model, self.graph, self.calls, self.config = model.twin(), graph, calls, config
        self.prompts, self.done = list(prompts), 0
        self.picture: bytes | None = None  # of the last step: what its gates drew
        self.best, self.tried = None, math.inf  # the scores that drew best where they were tried, and how well
        self.model.denoiser.requires_grad_(False)
        self.price = torch.from_numpy(prices(graph, config.cascade)).float()
        start = torch.from_numpy(start_of(calls, len(graph.units), config.start)).float()
        torch.manual_seed(config.seed)
        if config.parametrisation == "table":
            self.gates = Table(start + 1 if config.decision == "argmax" else start)
        else:
            self.gates = Network(start, config.encoder)
        decay = DECAY if config.decision == "argmax" else 0
        self.optimizer = OPTIMIZERS[config.optimizer](self.gates.parameters(), lr=config.rate, weight_decay=decay)

    def score(self) -> np.ndarray:
        """(T, U): how much each gate is for keeping; of all that was tried, what drew best."""
        return self._score() if self.best is None else self.best

    def _score(self) -> np.ndarray:
        with torch.no_grad():
            return self.gates().double().numpy()

    def _try(self) -> float:
        """Mean log loss of the order on pictures that stay the same, over ratios; the best one is kept."""
        score, span = self._score(), (self.config.lowest, self.config.highest)
        ratios = [ratio for ratio in TRIED if span[0] <= ratio <= span[1]] or [sum(span) / 2]
        forecast, masks = Forecast.of(self.config), [self.graph.left(score, ratio) for ratio in ratios]
        losses = [self.trials.schedule_loss(self.graph, keep, forecast) for keep in masks]
        loss = float(np.log(np.maximum(losses, TINY)).mean())
        if loss < self.tried:
            self.best, self.tried = score, loss
        return loss

    @cached_property
    def trials(self) -> Trials:
        config, prompts = self.config, cycled(self.prompts[::-1], PICTURES)
        return Trials(self.model, prompts, config.sampler, config.steps, config.guidance, seed=TRIED_SEED + config.seed)

    # -- one step

    def step(self) -> dict[str, float]:
        """Move the gates once. Returns the loss, its terms and the share of MACs kept."""
        with memory_sufficing(self.config.batch):
            numbers = self._step()
        self.done += 1
        every = self.config.checks if self.config.decision == "prefix" else 0
        if every and (self.done % every == 0 or self.done == self.config.iterations):
            numbers |= {"tried": self._try()}
        return numbers

    def _step(self) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate * cosine(self.done, self.config.iterations)
        score = self.gates()
        published = self.config.decision == "argmax"
        numbers, direction = self._published(score.detach()) if published else self._prefix(score.detach())
        if not bool(direction.isfinite().all()) or not np.isfinite(numbers["loss"]):
            raise ValueError(f"the loss is no longer finite at step {self.done}; lower the rate or the guidance")
        self.optimizer.zero_grad()
        score.backward(direction)
        if published:
            torch.nn.utils.clip_grad_norm_(self.gates.parameters(), CLIP)
        self.optimizer.step()
        return numbers

    def _published(self, score: torch.Tensor) -> tuple[dict[str, float], torch.Tensor]:
        """The terms of eq. 3 and its gradient (T, U). Call 0 is open, for it has nothing to reuse."""
        leaf = score.requires_grad_()
        share = leaf.sigmoid()  # of two logits: the straight-through softmax, without noise
        hard = (share > 0.5).float()
        hard[0] = 1.0
        gates = Gates.of(hard + share - share.detach(), self.graph)
        ends, full = self._drawn(gates)
        loss = LOSSES[self.config.loss](ends, full).mean()
        numbers = {"loss": loss.item(), "kept": self._kept(gates.live)}
        if numbers["kept"] >= self.config.tau:
            price = (gates.live * self.price).sum(dim=1).mean()
            numbers |= {"price": price.item()}
            loss = loss + self.config.alpha * price
        return numbers, torch.autograd.grad(loss, leaf)[0]

    def _prefix(self, score: torch.Tensor) -> tuple[dict[str, float], torch.Tensor]:
        """The loss at a ratio drawn anew, and which way down each score (T, U) goes.

        Up goes a gate whose worth per MAC, what the loss would change by were it the other way, is above that of the
        last one that the ratio pays for; down, one whose is below. But only where the order is about to be cut: what
        is worth more far from there says nothing about it.

        A dead unit's own gate is open, so that its reader's says what both would bring, and both move together: else a
        call would come back with its last unit alone. A skipped call is looked at now and then only, and counts as
        much more.
        """
        rng = np.random.default_rng((self.config.seed, self.done, 1))
        place = (np.random.default_rng(self.config.seed).random() + self.done * GOLDEN) % 1  # evener than by lot
        ratio = self.config.lowest + place * (self.config.highest - self.config.lowest)
        rank = self.graph.removal_order(score.numpy())
        saved = self.graph.saved(rank)
        keep = rank >= int(np.abs(saved - ratio).argmin())
        looked = (rng.random(self.calls) < self.config.look) / self.config.look
        weight = np.where(keep.any(axis=1), 1.0, looked)
        weight[0] = 0
        if not weight.any():  # few calls, and none of them drawn: one has to be looked at
            weight[rng.integers(1, self.calls)] = 1 / self.config.look
        hard = torch.from_numpy(keep | ~self.graph.demanded(keep)).float()
        own = hard[..., None].repeat(1, 1, self.config.batch).requires_grad_()
        ends, full = self._drawn(Gates.of(own, self.graph, keep.any(axis=1) | (weight > 0)))
        loss, worth = self._worth(own, ends, full, keep)
        density = np.take_along_axis(worth, self._leaders(keep), axis=1).clip(min=0) / self.price.numpy()
        last = marginal(density, self.graph.macs * weight[:, None], self.graph.macs * keep[1:])
        above = (density - last) / (density + last + TINY)
        near = np.exp(-(((saved[rank.clip(max=len(saved) - 1)] - ratio) / NEAR) ** 2) / 2)
        numbers = {"loss": loss, "kept": self._kept(torch.from_numpy(keep))}
        return numbers, torch.from_numpy(-above * near * weight[:, None]).float()

    def _worth(
        self, own: torch.Tensor, ends: torch.Tensor, full: torch.Tensor, keep: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Mean loss, and by what share of it each gate, (T, U), lowers it where it is kept or would be: Gauss-Newton.

        With r the distance that is left and v what a gate moves, |r - v|^2 is what closing it leaves. The gradient has
        2 r v alone, which near the full run is next to nothing; |v|^2 comes from the gradient of a random direction.
        """
        far, count = ends - full, ends[0].numel()
        losses = far.detach().square().mean(dim=(1, 2, 3)).clamp(min=TINY)
        drawn = np.random.default_rng((self.config.seed, self.done, 2)).standard_normal(tuple(ends.shape))
        direction = torch.from_numpy(drawn).to(ends) / count**0.5
        slope = torch.autograd.grad(ends, own, 2 * far.detach() / count, retain_graph=True)[0]
        moved = torch.autograd.grad(ends, own, direction)[0].square()
        closing = torch.where(torch.from_numpy(keep)[..., None], moved - slope, -moved - slope) / losses
        return losses.mean().item(), closing.mean(dim=2).numpy()

    def _leaders(self, keep: np.ndarray) -> np.ndarray:
        """int (T, U): of each dead unit the skipped one that it fell with, the nearest; of any other itself."""
        demanded, falls = self.graph.demanded(keep), self.graph.falls
        leaders = np.tile(np.arange(keep.shape[1]), (len(keep), 1))
        for column in np.argsort(-falls.sum(axis=1), kind="stable"):
            skipped = demanded[:, column] & ~keep[:, column]
            leaders[skipped[:, None] & falls[column] & ~demanded] = column
        return leaders

    def _drawn(self, gates: Gates) -> tuple[torch.Tensor, torch.Tensor]:
        """What a batch of pictures comes to under the gates, and in the full run from the same noise: final latents
        (B, C, H, W), or pictures for the losses of pictures."""
        prompts, seeds = wanted_pictures(self.prompts, self.config, self.done)
        noise, _ = self.model.noise(seeds)
        encoded = self.model.encode(prompts, self.config.guidance)
        chain = (self.config.steps, noise, encoded, self.config.guidance)
        *_, last = trajectory.denoise(self.model, self._scheduler(), *chain, generators=None)
        scheduler = self._scheduler()
        net = Mixture(self.model.denoiser, self.graph, NoiseEstimate.of(scheduler), Forecast.of(self.config))
        ends = trajectory.rollout(self.model, scheduler, *chain, net.at, gates, self.config.memory)
        self.picture = png(self.model.decode(ends.detach()[:1])[0])
        return (
            (ends, last.latents)
            if self.config.loss == "latent"
            else tuple(map(self.model.pictures, (ends, last.latents)))
        )

    def _scheduler(self) -> Any:
        return trajectory.sampler(self.config.sampler, self.model.scheduler_config)

    def _kept(self, live: torch.Tensor) -> float:
        keep = live.detach().numpy() > 0.5
        return float(self.graph.cost(keep).sum() / (self.graph.macs_per_call * self.calls))

    # -- stopping and going on

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, as named arrays."""
        named = {f"gates/{name}": value for name, value in self.gates.state_dict().items()}
        for index, entries in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer/{index}/{name}": value for name, value in entries.items() if value is not None}
        arrays = {name: value.numpy().copy() for name, value in named.items()}
        best = {} if self.best is None else {"best": self.best, "tried": np.array(self.tried)}
        return arrays | best | {"done": np.array(self.done), "score": self.score()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state. Raises ValueError where it is one of other settings."""
        tensors = {name: torch.as_tensor(value).clone() for name, value in state.items()}
        gates = {name.removeprefix("gates/"): value for name, value in tensors.items() if name.startswith("gates/")}
        own = self.gates.state_dict()
        if {name: value.shape for name, value in gates.items()} != {name: value.shape for name, value in own.items()}:
            raise ValueError("the state to go on from was learned with other settings; start anew without it")
        self.gates.load_state_dict(gates)
        kept = self.optimizer.state_dict()
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, index, entry = name.split("/")
                kept["state"].setdefault(int(index), {})[entry] = value
        self.optimizer.load_state_dict(kept)
        self.done = int(state["done"])
        if "best" in state:
            self.best, self.tried = np.asarray(state["best"]), float(state["tried"])


def start_of(calls: int, units: int, start: str) -> np.ndarray:
    """(T, U): the scores that learning begins with: whole calls in the nested order of a spacing, or all kept."""
    if start == "keep":
        return np.zeros((calls, units))
    return np.repeat(nested(calls, start)[:, None] / calls, units, axis=1)


def prices(graph: BlockGraph, cascade: bool = True) -> np.ndarray:
    """(U,): the share of a call's MACs that each gate decides on, gamma of eq. 3: its own, or with all that falls."""
    macs = graph.macs / graph.macs_per_call
    return graph.falls @ macs if cascade else macs


def marginal(density: np.ndarray, macs: np.ndarray, kept: np.ndarray) -> float:
    """The worth per MAC of the last gate that is paid for, if the densest go first and all cost what is `kept` now."""
    order = np.argsort(-density, axis=None)
    paid = np.cumsum(macs.reshape(-1)[order])
    return float(density.reshape(-1)[order[min(int(np.searchsorted(paid, kept.sum())), len(order) - 1)]])


def wanted_pictures(prompts: Sequence[str], config: DipgoConfig, done: int) -> tuple[list[str], list[int]]:
    """Prompts and seeds of one step; the same for the same settings, whatever went before."""
    rng = np.random.default_rng((config.seed, done))
    order = np.random.default_rng(config.seed).permutation(len(prompts))
    first = done * config.batch
    shown = cycled([prompts[index] for index in order], first + config.batch)[first:]
    seeds = rng.integers(0, 2**32, config.batch) if config.fresh_noise else np.full(config.batch, config.seed)
    return shown, [int(seed) for seed in seeds]


def cosine(done: int, total: int) -> float:
    """The learning rate's share at a step, from 1 down to 0."""
    return 0.5 * (1 + math.cos(math.pi * done / total))
