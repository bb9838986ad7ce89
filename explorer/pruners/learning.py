"""One optimizer step of DiP-GO after another: draw gates, run the chain, measure, move the gates."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from explorer import metrics, trajectory
from explorer.drawing import png
from explorer.graph import BlockGraph
from explorer.mixture import Gates, Mixture
from explorer.prompts import cycled
from explorer.pruners.configs import DipgoConfig
from explorer.pruners.queries import Network, Table
from explorer.pruners.spacing import nested
from explorer.supernet import NoiseEstimate

PICTURE_LOSSES = {
    "l1": lambda pictures, full: (pictures - full).abs().mean(dim=(1, 2, 3)),
    "l2": lambda pictures, full: (pictures - full).square().mean(dim=(1, 2, 3)),
    "ssim": lambda pictures, full: 1 - metrics.ssim(pictures, full),
    "l1+ssim": lambda pictures, full: (pictures - full).abs().mean(dim=(1, 2, 3)) + 1 - metrics.ssim(pictures, full),
}
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
TINY = 1e-12
GOLDEN = (math.sqrt(5) - 1) / 2
MOST = 5.0  # times the mean, that one gate's step may be
DECAY, CLIP = 1e-4, 1.0  # weight decay (section 4.1) and gradient norm (released code) of the published way


class Learner:
    """The gates of one model and trajectory, and how far they have been learned (`done` steps)."""

    def __init__(self, model: Any, graph: BlockGraph, calls: int, prompts: Sequence[str], config: DipgoConfig):
        self.model, self.graph, self.calls, self.config = model.twin(), graph, calls, config
        self.prompts, self.done = list(prompts), 0
        self.picture: bytes | None = None  # of the last step: what its gates drew
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
        """(T, U): how much each gate is for keeping."""
        with torch.no_grad():
            return self.gates().double().numpy()

    # -- one step

    def step(self) -> dict[str, float]:
        """Move the gates once. Returns the loss, its terms and the share of MACs kept."""
        try:
            numbers = self._step()
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if "memory" not in f"{error}":
                raise
            raise ValueError(
                f"the memory does not suffice for {self.config.batch} pictures at once; "
                "take a smaller batch, or memory=nested"
            ) from error
        self.done += 1
        return numbers

    def _step(self) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate * cosine(self.done, self.config.iterations)
        score = self.gates()
        leaf = score.detach().requires_grad_()
        own, weight = self._decided(leaf)
        gates = Gates.of(own, self.graph, weight > 0)
        loss = self._distance(gates)
        kept = self._kept(gates)
        numbers = {"loss": loss.item(), "kept": kept}
        if self.config.decision == "argmax" and kept >= self.config.tau:
            price = (gates.live * self.price).sum(dim=1).mean()
            numbers |= {"price": price.item()}
            loss = loss + self.config.alpha * price
        self.optimizer.zero_grad()
        if loss.requires_grad:  # else nothing but call 0 ran, and nobody looked elsewhere
            loss.backward()
        slope = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        if not bool(slope.isfinite().all()) or not np.isfinite(numbers["loss"]):
            raise ValueError(f"the loss is no longer finite at step {self.done}; lower the rate or the guidance")
        score.backward(self._direction(slope, weight))
        if self.config.decision == "argmax":
            torch.nn.utils.clip_grad_norm_(self.gates.parameters(), CLIP)
        self.optimizer.step()
        return numbers

    def _decided(self, score: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        """Own gates (T, U), 0 or 1 in value with the gradient of the score, and what each call's gradient counts, (T,).

        Call 0 has nothing to reuse; a dead unit's own gate is open, so that its reader's says what both would bring. A
        skipped call is looked at now and then only, and counts as much more.
        """
        if self.config.decision == "argmax":  # straight-through softmax, without noise
            share = score.sigmoid()
            hard = (share > 0.5).float()
            hard[0] = 1.0
            return hard + share - share.detach(), np.ones(self.calls)
        rng = np.random.default_rng((self.config.seed, self.done, 1))
        place = (np.random.default_rng(self.config.seed).random() + self.done * GOLDEN) % 1  # evener than by lot
        ratio = self.config.lowest + place * (self.config.highest - self.config.lowest)
        keep = self.graph.left(score.detach().numpy(), ratio)
        hard = torch.from_numpy(keep | ~self.graph.demanded(keep)).float()
        looked = (rng.random(self.calls) < self.config.look) / self.config.look
        return hard + score - score.detach(), np.where(keep.any(axis=1), 1.0, looked)

    def _distance(self, gates: Gates) -> torch.Tensor:
        """Mean loss of a batch of pictures under the gates, to the full run from the same noise."""
        prompts, seeds = wanted_pictures(self.prompts, self.config, self.done)
        noise, _ = self.model.noise(seeds)
        encoded = self.model.encode(prompts, self.config.guidance)
        chain = (self.config.steps, noise, encoded, self.config.guidance)
        *_, last = trajectory.denoise(self.model, self._scheduler(), *chain, generators=None)
        scheduler = self._scheduler()
        net = Mixture(self.model.denoiser, self.graph, NoiseEstimate.of(scheduler), self.config.order)
        ends = trajectory.rollout(self.model, scheduler, *chain, net, gates, self.config.memory)
        self.picture = png(self.model.decode(ends.detach()[:1])[0])
        if self.config.loss == "latent":
            losses = (ends - last.latents).square().mean(dim=(1, 2, 3))
        else:
            pictures, full = (self.model.pictures(latents) for latents in (ends, last.latents))
            losses = PICTURE_LOSSES[self.config.loss](pictures, full)
        # over ratios the loss ranges over decades, and each shall count
        return losses.clamp(min=TINY).log().mean() if self.config.decision == "prefix" else losses.mean()

    def _scheduler(self) -> Any:
        return trajectory.sampler(self.config.sampler, self.model.scheduler_config)

    def _kept(self, gates: Gates) -> float:
        keep = gates.live.detach().numpy() > 0.5
        return float(self.graph.cost(keep).sum() / (self.graph.macs_per_call * self.calls))

    def _direction(self, slope: torch.Tensor, weight: np.ndarray) -> torch.Tensor:
        """Where the scores go: down the slope as it is, or per MAC, in units of the mean over gates."""
        if self.config.decision == "argmax":
            return slope
        slope = slope * torch.from_numpy(weight).float()[:, None] / self.price
        return (slope / slope[1:].abs().mean().clamp(min=TINY)).clamp(-MOST, MOST)

    # -- stopping and going on

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, as named arrays."""
        named = {f"gates/{name}": value for name, value in self.gates.state_dict().items()}
        for index, entries in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer/{index}/{name}": value for name, value in entries.items() if value is not None}
        arrays = {name: value.numpy().copy() for name, value in named.items()}
        return arrays | {"done": np.array(self.done), "score": self.score()}

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


def start_of(calls: int, units: int, start: str) -> np.ndarray:
    """(T, U): the scores that learning begins with: whole calls in the nested order of a spacing, or all kept."""
    if start == "keep":
        return np.zeros((calls, units))
    return np.repeat(nested(calls, start)[:, None] / calls, units, axis=1)


def prices(graph: BlockGraph, cascade: bool = True) -> np.ndarray:
    """(U,): the share of a call's MACs that each gate decides on, gamma of eq. 3: its own, or with all that falls."""
    macs, whole = graph.macs / graph.macs_per_call, np.ones(len(graph.units), dtype=bool)
    return np.array([macs[graph.falling(whole, column)].sum() for column in range(len(macs))]) if cascade else macs


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
