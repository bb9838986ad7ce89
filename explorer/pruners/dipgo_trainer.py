"""One optimizer step of DiP-GO after another: draw gates, have a team run the chain and measure, move the gates."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from explorer.graph import BlockGraph
from explorer.prompts import cycled
from explorer.pruners.configs import DipgoConfig
from explorer.pruners.gradients import TINY, Gradients, Part, prices
from explorer.pruners.queries import Network, Table
from explorer.pruners.spacing import nested
from explorer.team import Crew, Team
from explorer.trials import schedule_losses

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
TRIED, PICTURES, TRIED_SEED = (0.5, 0.7, 0.8, 0.9), 8, 2**31  # where orders are tried: ratios, pictures, first noise
NEAR = 0.1  # of the MACs: how far from the cut the order is changed
GOLDEN = (math.sqrt(5) - 1) / 2
DECAY, CLIP = 1e-4, 1.0  # weight decay (section 4.1) and gradient norm (released code) of the published way


class Learner:
    """The gates of one model and trajectory, and how far they have been learned (`done` steps)."""

    def __init__(self, team: Team, graph: BlockGraph, calls: int, prompts: Sequence[str], config: DipgoConfig):
        if calls < 2:
            raise ValueError("a run of one call has nothing that could be left out; take more steps")
        self.team, self.graph, self.calls, self.config = team, graph, calls, config
        self.gradients = team.crew(Gradients, config)
        self.prompts, self.done = list(prompts), 0
        self.picture: bytes | None = None  # of the last step: what its gates drew
        self.best, self.tried = None, math.inf  # the scores that drew best where they were tried, and how well
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
        losses = list(self.tries([(self.graph.left(score, ratio),) for ratio in ratios]))
        loss = float(np.log(np.maximum(losses, TINY)).mean())
        if loss < self.tried:
            self.best, self.tried = score, loss
        return loss

    @cached_property
    def tries(self) -> Crew:
        prompts = cycled(self.prompts[::-1], PICTURES)
        return self.team.crew(schedule_losses, prompts, self.config, TRIED_SEED + self.config.seed)

    # -- one step

    def step(self) -> dict[str, float]:
        """Move the gates once. Returns the loss, its terms and the share of MACs kept."""
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
        numbers, direction = (self._looked if published else self._prefix)(score.detach().numpy())
        direction = torch.from_numpy(direction)
        if not bool(direction.isfinite().all()) or not np.isfinite(numbers["loss"]):
            raise ValueError(f"the loss is no longer finite at step {self.done}; lower the rate or the guidance")
        self.optimizer.zero_grad()
        score.backward(direction)
        if published:
            torch.nn.utils.clip_grad_norm_(self.gates.parameters(), CLIP)
        self.optimizer.step()
        return numbers

    def _looked(self, *gates: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
        """The numbers of a step and the slopes (T, U) under these gates: means over its pictures, part by part."""
        prompts, seeds = wanted_pictures(self.prompts, self.config, self.done)
        batch, share = self.config.batch, self.config.share or self.config.batch
        parts = [
            Part(self.done, first, prompts[first : first + share], seeds[first : first + share])
            for first in range(0, batch, share)
        ]
        found = list(self.gradients([(part, *gates) for part in parts]))
        self.picture = found[0].picture
        weights = np.array([len(part.seeds) / batch for part in parts], dtype=np.float32)
        numbers = {
            name: float(np.average([one.numbers[name] for one in found], weights=weights)) for name in found[0].numbers
        }
        return numbers, np.average([one.slope for one in found], axis=0, weights=weights)

    def _prefix(self, score: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
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
        rank = self.graph.removal_order(score)
        saved = self.graph.saved(rank)
        keep = rank >= int(np.abs(saved - ratio).argmin())
        looked = (rng.random(self.calls) < self.config.look) / self.config.look
        weight = np.where(keep.any(axis=1), 1.0, looked)
        weight[0] = 0
        if not weight.any():  # few calls, and none of them drawn: one has to be looked at
            weight[rng.integers(1, self.calls)] = 1 / self.config.look
        numbers, worth = self._looked(keep, keep.any(axis=1) | (weight > 0))
        density = np.take_along_axis(worth, self._leaders(keep), axis=1).clip(min=0) / self.price.numpy()
        last = marginal(density, self.graph.macs * weight[:, None], self.graph.macs * keep[1:])
        above = (density - last) / (density + last + TINY)
        near = np.exp(-(((saved[rank.clip(max=len(saved) - 1)] - ratio) / NEAR) ** 2) / 2)
        return numbers, (-above * near * weight[:, None]).astype(np.float32)

    def _leaders(self, keep: np.ndarray) -> np.ndarray:
        """int (T, U): of each dead unit the skipped one that it fell with, the nearest; of any other itself."""
        demanded, falls = self.graph.demanded(keep), self.graph.falls
        leaders = np.tile(np.arange(keep.shape[1]), (len(keep), 1))
        for column in np.argsort(-falls.sum(axis=1), kind="stable"):
            skipped = demanded[:, column] & ~keep[:, column]
            leaders[skipped[:, None] & falls[column] & ~demanded] = column
        return leaders

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
