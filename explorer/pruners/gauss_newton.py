"""What each head and neuron is worth per parameter, measured through the whole chain: our way of deciding in EcoDiff.

Near the whole network the distance to it is flat, and its gradient says nothing; what a unit is worth there is the
second order, |v|^2 with v what it moves in the final latents (Gauss-Newton, as in Optimal Brain Damage, LeCun et al.
1989). Later the order's own masks are looked at, at a ratio drawn anew each time, where what went already counts.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch

from explorer.pruners.chain import Chain

GOLDEN = (math.sqrt(5) - 1) / 2
NEAR = 0.1  # of what can go: how far from the cut a look counts
LEAST = 0.25  # of the second order: what a unit is worth at least, for the first is noisy, and of either sign
TINY = 1e-12


class Worth:
    """The mean worth (N,) of units over all looks at them, and how many steps were made (`done`)."""

    def __init__(self, chain: Chain):
        self.chain, self.config, self.done = chain, chain.config, 0
        self.moved, self.slope, self.looks = np.zeros((3, len(chain.params)))  # sums over looks, and their number

    def score(self) -> np.ndarray:
        """float32 (N,): by how much the mean squared distance grows for each of a unit's parameters that go."""
        worth = np.maximum(self.moved - self.slope, LEAST * self.moved) / self.chain.params
        return (worth / np.maximum(self.looks, TINY)).astype(np.float32)

    def step(self) -> dict[str, float]:
        """Look once. Returns the distance to the full run, and the share of what can go that was kept."""
        keep, near = self._keep()
        batch = self.chain.batch(self.done)
        full = self.chain.full(batch)
        gates = torch.from_numpy(keep).float().repeat(len(full), 1).requires_grad_()
        drawn = np.random.default_rng((self.config.seed, self.done)).standard_normal(tuple(full.shape))
        direction = torch.from_numpy(drawn).to(full) / full[0].numel() ** 0.5
        ends = self.chain.gated(gates, batch)
        far = ends.detach() - full
        slope = torch.zeros_like(gates)
        if not keep.all():
            slope = torch.autograd.grad(ends, gates, 2 * far / full[0].numel(), retain_graph=True)[0]
        moved = torch.autograd.grad(ends, gates, direction)[0].square()
        moved, slope = (term.mean(dim=0).double().numpy() for term in (moved, slope))
        distance = far.square().mean().item()
        if not (math.isfinite(distance) and np.isfinite(moved - slope).all()):
            raise ValueError(f"the distance is no longer finite at step {self.done}; lower the guidance")
        # closing an open gate leaves |far - v|^2, opening a closed one |far + v|^2
        self.moved += near * moved
        self.slope += near * (slope + np.where(keep, 0, 2 * moved))
        self.looks += near
        self.done += 1
        return {"distance": distance, "kept": float(keep @ self.chain.params / self.chain.params.sum())}

    def _keep(self) -> tuple[np.ndarray, np.ndarray]:
        """bool (N,): the mask to look at, and (N,) how much the look counts for each unit."""
        config, params = self.config, self.chain.params
        if self.done < config.first:
            return np.ones(len(params), dtype=bool), np.ones(len(params))
        place = (np.random.default_rng(config.seed).random() + self.done * GOLDEN) % 1  # evener than by lot
        ratio = config.lowest + place * (config.highest - config.lowest)
        order = np.argsort(self.score(), kind="stable")
        saved = np.empty(len(params))
        saved[order] = np.cumsum(params[order]) / params.sum()
        return saved > ratio, np.exp(-(((saved - ratio) / NEAR) ** 2) / 2)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, as named arrays."""
        sums = {name: getattr(self, name).copy() for name in ("moved", "slope", "looks")}
        return sums | {"done": np.array(self.done)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state. Raises ValueError where it is one of other settings."""
        if "moved" not in state or state["moved"].shape != self.moved.shape:
            raise ValueError("the state to go on from was learned with other settings; start anew without it")
        self.moved, self.slope, self.looks = (state[name].copy() for name in ("moved", "slope", "looks"))
        self.done = int(state["done"])
