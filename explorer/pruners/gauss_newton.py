"""By how much each head and neuron changes the final picture, per parameter: our algorithm in EcoDiff.

Near the whole network the distance to it is flat, and its gradient says nothing; what counts there is the second order,
|v|^2 with v what an element changes in the final latents (Gauss-Newton, as in Optimal Brain Damage, LeCun et al. 1989).
After the warm-up the order's own masks are used, each time at another ratio, where what is removed already counts.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch

from explorer.pruners.ecodiff_rollout import RolloutSet

GOLDEN = (math.sqrt(5) - 1) / 2
CUT_WIDTH = 0.1  # of what can be removed: how far from the cut a step counts
MIN_CURVATURE_SHARE = 0.25  # of the second order, as the least score: the first order is noisy, and of either sign
TINY = 1e-12


class GaussNewtonScorer:
    """The mean score (N,) of elements over all steps, and how many steps were made (`done`)."""

    def __init__(self, rollouts: RolloutSet):
        self.rollouts, self.config, self.done = rollouts, rollouts.config, 0
        self.curvature, self.gradient, self.weight_sum = np.zeros((3, len(rollouts.params)))  # sums over steps

    def score(self) -> np.ndarray:
        """Return by how much the mean squared distance grows per parameter of a removed element, float32 (N,)."""
        growth = np.maximum(self.curvature - self.gradient, MIN_CURVATURE_SHARE * self.curvature)
        return (growth / self.rollouts.params / np.maximum(self.weight_sum, TINY)).astype(np.float32)

    def step(self) -> dict[str, float]:
        """Measure once. Returns the distance to the full run, and the kept share of what can be removed."""
        keep, weight = self._choose_mask()
        batch = self.rollouts.batch(self.done)
        full = self.rollouts.full(batch)
        gates = torch.from_numpy(keep).float().repeat(len(full), 1).requires_grad_()
        normal = np.random.default_rng((self.config.seed, self.done)).standard_normal(tuple(full.shape))
        direction = torch.from_numpy(normal).to(full) / full[0].numel() ** 0.5
        ends = self.rollouts.run_gated(gates, batch)
        difference = ends.detach() - full
        slope = torch.zeros_like(gates)
        if not keep.all():
            slope = torch.autograd.grad(ends, gates, 2 * difference / full[0].numel(), retain_graph=True)[0]
        squared = torch.autograd.grad(ends, gates, direction)[0].square()
        curvature, gradient = (term.mean(dim=0).double().numpy() for term in (squared, slope))
        distance = difference.square().mean().item()
        if not (math.isfinite(distance) and np.isfinite(curvature - gradient).all()):
            raise ValueError(f"the distance is no longer finite at step {self.done}; lower the guidance")
        # closing an open gate leaves |difference - v|^2, opening a closed one |difference + v|^2
        self.curvature += weight * curvature
        self.gradient += weight * (gradient + np.where(keep, 0, 2 * curvature))
        self.weight_sum += weight
        self.done += 1
        kept = float(keep @ self.rollouts.params / self.rollouts.params.sum())
        return {"distance": distance, "kept": kept}

    def _choose_mask(self) -> tuple[np.ndarray, np.ndarray]:
        """Choose the mask of a step, bool (N,), and how much the step counts for each element, (N,)."""
        config, params = self.config, self.rollouts.params
        if self.done < config.warmup_steps:
            return np.ones(len(params), dtype=bool), np.ones(len(params))
        position = (np.random.default_rng(config.seed).random() + self.done * GOLDEN) % 1  # more even than random
        ratio = config.min_ratio + position * (config.max_ratio - config.min_ratio)
        order = np.argsort(self.score(), kind="stable")
        saved = np.empty(len(params))
        saved[order] = np.cumsum(params[order]) / params.sum()
        return saved > ratio, np.exp(-(((saved - ratio) / CUT_WIDTH) ** 2) / 2)

    def state(self) -> dict[str, np.ndarray]:
        """Return everything that the next step depends on, as named arrays."""
        sums = {name: getattr(self, name).copy() for name in ("curvature", "gradient", "weight_sum")}
        return sums | {"done": np.array(self.done)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a state. Raises ValueError where it is one of other settings."""
        if "curvature" not in state or state["curvature"].shape != self.curvature.shape:
            raise ValueError("the state to resume from was learned with other settings; start again without it")
        names = ("curvature", "gradient", "weight_sum")
        self.curvature, self.gradient, self.weight_sum = (state[name].copy() for name in names)
        self.done = int(state["done"])
