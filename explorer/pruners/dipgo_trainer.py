"""The optimizer steps of DiP-GO: choose gates, have a worker pool run all calls and measure, move the gates."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from explorer.masks.block_graph import BlockGraph
from explorer.models.prompts import repeat_to
from explorer.pruners.dipgo_gradients import TINY, GradientTask, MicroBatch, macs_share
from explorer.pruners.gate_network import GateNetwork, GateTable
from explorer.pruners.objective import schedule_objective
from explorer.pruners.schedule_configs import DipgoConfig
from explorer.pruners.worker_pool import MapFn, WorkerPool

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
VALIDATION_RATIOS, VALIDATION_IMAGES, VALIDATION_SEED = (0.5, 0.7, 0.8, 0.9), 8, 2**31
CUT_WIDTH = 0.1  # of the MACs: how far from the cut the order is changed
GOLDEN = (math.sqrt(5) - 1) / 2
WEIGHT_DECAY, MAX_GRADIENT_NORM = 1e-4, 1.0  # of `argmax`: section 4.1, and the released code


class DipgoTrainer:
    """The gates of one model and trajectory, and how far they have been learned (`done` steps), from scores (T, U)."""

    def __init__(
        self, pool: WorkerPool, graph: BlockGraph, prompts: Sequence[str], config: DipgoConfig, initial: np.ndarray
    ):
        self.pool, self.graph, self.calls, self.config = pool, graph, len(initial), config
        self.gradients = pool.bind(GradientTask, config)
        self.prompts, self.done = list(prompts), 0
        self.picture: bytes | None = None  # of the last step: what its gates generate
        self.best: np.ndarray | None = None  # the scores with the lowest validation loss
        self.best_loss = math.inf
        self.gamma = torch.from_numpy(macs_share(graph, config.cascade)).float()
        init = torch.from_numpy(initial).float()
        torch.manual_seed(config.seed)
        self.gates: torch.nn.Module
        if config.parametrisation == "table":
            self.gates = GateTable(init + 1 if config.algorithm == "argmax" else init)
        else:
            self.gates = GateNetwork(init, config.encoder)
        decay = WEIGHT_DECAY if config.algorithm == "argmax" else 0
        parameters = self.gates.parameters()
        self.optimizer = OPTIMIZERS[config.optimizer](parameters, lr=config.learning_rate, weight_decay=decay)

    def score(self) -> np.ndarray:
        """Return how much each gate is for keeping, (T, U): the scores with the best validation, or the last ones."""
        return self._current_score() if self.best is None else self.best

    def _current_score(self) -> np.ndarray:
        with torch.no_grad():
            return self.gates().double().numpy()

    def _validate(self) -> float:
        """Compute the mean log loss of the order on pictures that stay the same, over ratios; the best order is
        kept."""
        score, span = self._current_score(), (self.config.min_ratio, self.config.max_ratio)
        ratios = [ratio for ratio in VALIDATION_RATIOS if span[0] <= ratio <= span[1]] or [sum(span) / 2]
        losses = list(self.validation_losses([(self.graph.keep_at_ratio(score, ratio),) for ratio in ratios]))
        loss = float(np.log(np.maximum(losses, TINY)).mean())
        if loss < self.best_loss:
            self.best, self.best_loss = score, loss
        return loss

    @cached_property
    def validation_losses(self) -> MapFn:
        prompts = repeat_to(self.prompts[::-1], VALIDATION_IMAGES)
        return self.pool.bind(schedule_objective, prompts, self.config, VALIDATION_SEED + self.config.seed)

    # -- one step

    def step(self) -> dict[str, float]:
        """Move the gates once. Returns the loss, its terms and the share of MACs kept."""
        metrics = self._step()
        self.done += 1
        interval = self.config.validate_every if self.config.algorithm == "nested" else 0
        if interval and (self.done % interval == 0 or self.done == self.config.iterations):
            metrics |= {"validation": self._validate()}
        return metrics

    def _step(self) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * cosine(self.done, self.config.iterations)
        score = self.gates()
        argmax = self.config.algorithm == "argmax"
        metrics, gradient = (self._evaluate if argmax else self._nested)(score.detach().numpy())
        direction = torch.from_numpy(gradient)
        if not bool(direction.isfinite().all()) or not np.isfinite(metrics["loss"]):
            raise ValueError(
                f"the loss is no longer finite at step {self.done}; lower the learning rate or the guidance"
            )
        self.optimizer.zero_grad()
        score.backward(direction)
        if argmax:
            torch.nn.utils.clip_grad_norm_(self.gates.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        return metrics

    def _evaluate(self, *gates: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
        """Compute metrics and gradients (T, U) of a step under these gates: means over its pictures."""
        prompts, seeds = pictures_of_step(self.prompts, self.config, self.done)
        batch, size = self.config.batch, self.config.micro_batch or self.config.batch
        parts = [
            MicroBatch(self.done, first, prompts[first : first + size], seeds[first : first + size])
            for first in range(0, batch, size)
        ]
        answers = list(self.gradients([(part, *gates) for part in parts]))
        self.picture = answers[0].picture
        weights = np.array([len(part.seeds) / batch for part in parts], dtype=np.float32)
        metrics = {
            name: float(np.average([answer.metrics[name] for answer in answers], weights=weights))
            for name in answers[0].metrics
        }
        return metrics, np.average([answer.gradient for answer in answers], axis=0, weights=weights)

    def _nested(self, score: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
        """Compute the loss at another ratio, and which way each score (T, U) moves.

        A gate moves up whose contribution per MAC, by which the loss would change were it the other way, is above that
        of the last one that the ratio pays for, and down if it is below. But only near where the order is cut: what is
        worth more far from there says nothing about it.

        A dead unit's own gate is open, so that its reader's tells what both would bring, and both move together: else a
        call would come back with its last unit alone. A skipped call is evaluated at some steps only, and then counts
        as much more.
        """
        rng = np.random.default_rng((self.config.seed, self.done, 1))
        position = (np.random.default_rng(self.config.seed).random() + self.done * GOLDEN) % 1  # more even than random
        ratio = self.config.min_ratio + position * (self.config.max_ratio - self.config.min_ratio)
        rank = self.graph.removal_order(score)
        saved_macs = self.graph.saved_macs(rank)
        keep = rank >= int(np.abs(saved_macs - ratio).argmin())
        probed = (rng.random(self.calls) < self.config.probe_fraction) / self.config.probe_fraction
        weight = np.where(keep.any(axis=1), 1.0, probed)
        weight[0] = 0
        if not weight.any():  # few calls, and none of them chosen: one has to be evaluated
            weight[rng.integers(1, self.calls)] = 1 / self.config.probe_fraction
        metrics, contribution = self._evaluate(keep, keep.any(axis=1) | (weight > 0))
        density = np.take_along_axis(contribution, self._leaders(keep), axis=1).clip(min=0) / self.gamma.numpy()
        last = marginal_density(density, self.graph.macs * weight[:, None], self.graph.macs * keep[1:])
        above = (density - last) / (density + last + TINY)
        near = np.exp(-(((saved_macs[rank.clip(max=len(saved_macs) - 1)] - ratio) / CUT_WIDTH) ** 2) / 2)
        return metrics, (-above * near * weight[:, None]).astype(np.float32)

    def _leaders(self, keep: np.ndarray) -> np.ndarray:
        """Find for each dead unit the nearest skipped one in whose cascade it is, for any other itself: int (T, U)."""
        needed, cascades = self.graph.needed(keep), self.graph.cascades
        leaders = np.tile(np.arange(keep.shape[1]), (len(keep), 1))
        for column in np.argsort(-cascades.sum(axis=1), kind="stable"):
            skipped = needed[:, column] & ~keep[:, column]
            leaders[skipped[:, None] & cascades[column] & ~needed] = column
        return leaders

    # -- stopping and resuming

    def state(self) -> dict[str, np.ndarray]:
        """Return everything that the next step depends on, as named arrays."""
        named = {f"gates/{name}": value for name, value in self.gates.state_dict().items()}
        for index, entries in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer/{index}/{name}": value for name, value in entries.items() if value is not None}
        arrays = {name: value.numpy().copy() for name, value in named.items()}
        best = {} if self.best is None else {"best": self.best, "best_loss": np.array(self.best_loss)}
        return arrays | best | {"done": np.array(self.done), "score": self.score()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a state. Raises ValueError where it is one of other settings."""
        tensors = {name: torch.as_tensor(value).clone() for name, value in state.items()}
        gates = {name.removeprefix("gates/"): value for name, value in tensors.items() if name.startswith("gates/")}
        own = self.gates.state_dict()
        if {name: value.shape for name, value in gates.items()} != {name: value.shape for name, value in own.items()}:
            raise ValueError("the state to resume from was learned with other settings; start again without it")
        self.gates.load_state_dict(gates)
        document = self.optimizer.state_dict()
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, index, entry = name.split("/")
                document["state"].setdefault(int(index), {})[entry] = value
        self.optimizer.load_state_dict(document)
        self.done = int(state["done"])
        if "best" in state:
            self.best, self.best_loss = np.asarray(state["best"]), float(state["best_loss"])


def marginal_density(density: np.ndarray, macs: np.ndarray, kept_macs: np.ndarray) -> float:
    """Find the contribution per MAC of the last gate that is paid for, if the densest ones go first and all together
    cost what is kept now."""
    order = np.argsort(-density, axis=None)
    paid = np.cumsum(macs.reshape(-1)[order])
    return float(density.reshape(-1)[order[min(int(np.searchsorted(paid, kept_macs.sum())), len(order) - 1)]])


def pictures_of_step(prompts: Sequence[str], config: DipgoConfig, done: int) -> tuple[list[str], list[int]]:
    """Choose prompts and seeds of one step; the same for the same settings, whatever went before."""
    rng = np.random.default_rng((config.seed, done))
    order = np.random.default_rng(config.seed).permutation(len(prompts))
    first = done * config.batch
    chosen = repeat_to([prompts[index] for index in order], first + config.batch)[first:]
    seeds = rng.integers(0, 2**32, config.batch) if config.fresh_noise else np.full(config.batch, config.seed)
    return chosen, [int(seed) for seed in seeds]


def cosine(done: int, total: int) -> float:
    """Compute the learning rate's share at a step, from 1 down to 0."""
    return 0.5 * (1 + math.cos(math.pi * done / total))
