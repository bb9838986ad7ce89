"""EcoDiff's masks: a logit for each element, hard-concrete masks sampled from them, all calls under these masks."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from explorer.pruners.ecodiff_rollout import Batch, RolloutSet
from explorer.sampling.rollout import Denoises

TEMPERATURE, LOW, HIGH = 0.83, -0.1, 1.1  # alpha, gamma and zeta of the released code


def hard_concrete(logits: torch.Tensor, uniform: torch.Tensor, noise: float) -> torch.Tensor:
    """Turn `uniform` numbers in (0, 1) into masks in [0, 1]: Louizos et al. 2018, eq. 10 and 11, with bounded noise."""
    concrete = ((uniform + noise).log() - (1 - uniform + noise).log() + logits) / TEMPERATURE
    return (concrete.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)


def open_probability(logits: torch.Tensor) -> torch.Tensor:
    """Compute how probable it is that a mask is not 0: Louizos et al. 2018, eq. 12."""
    return (logits - TEMPERATURE * math.log(-LOW / HIGH)).sigmoid()


class HardConcreteTrainer:
    """The logits (N,) of a network's elements, and how far they have been learned (`done` steps)."""

    def __init__(self, rollouts: RolloutSet):
        self.rollouts, self.config, self.done = rollouts, rollouts.config, 0
        self.costs = torch.from_numpy(rollouts.params / rollouts.params.sum()).float()  # share of what can be removed
        sizes = rollouts.sizes
        self.mean_weights = torch.from_numpy(np.repeat([1 / size for size in sizes], sizes)).float()
        self.logits = torch.full((len(self.costs),), self.config.init, requires_grad=True)
        self.optimizer = torch.optim.AdamW([self.logits], lr=self.config.learning_rate, weight_decay=0)

    def score(self) -> np.ndarray:
        return self.logits.detach().numpy().copy()

    def step(self) -> dict[str, float]:
        """Move the logits once. Returns the loss, its terms and the kept share of what can be removed."""
        distance, gradient = self._distance(self.rollouts.batch(self.done))
        penalty = self._penalty()
        self.logits.grad = gradient + torch.autograd.grad(self.config.penalty_weight * penalty, self.logits)[0]
        if not (math.isfinite(distance) and bool(self.logits.grad.isfinite().all())):
            raise ValueError(
                f"the loss is no longer finite at step {self.done}; lower the learning rate or the guidance"
            )
        self.optimizer.step()
        self.done += 1
        kept = float(self.costs @ (self.logits.detach() > 0).float())
        return {"loss": distance + self.config.penalty_weight * penalty.item(), "distance": distance, "kept": kept}

    def _penalty(self) -> torch.Tensor:
        """Compute the expected share of parameters that stays; or the mean size of a layer's logits, as released."""
        if self.config.penalty == "l0":
            return self.costs @ open_probability(self.logits)
        return self.mean_weights @ self.logits.abs() / len(self.rollouts.sizes)

    def _masks(self) -> torch.Tensor:
        """Sample masks once per step, so that they are the same in the backward pass."""
        rng = np.random.default_rng((self.config.seed, self.done))
        uniform = rng.random(len(self.logits), dtype=np.float32)
        return hard_concrete(self.logits, torch.from_numpy(uniform), self.config.noise)

    def _distance(self, batch: Batch) -> tuple[float, torch.Tensor]:
        """Compute the mean squared distance to the full run, and its gradient by the logits."""
        if self.config.loss_on == "single_call":
            return self._distance_of_calls(batch)
        full = self.rollouts.full(batch)
        distance = (self.rollouts.run_gated(self._masks(), batch) - full).square().mean()
        return distance.item(), torch.autograd.grad(distance, self.logits)[0]

    def _distance_of_calls(self, batch: Batch) -> tuple[float, torch.Tensor]:
        """Compute the same of every call's output at the latents of the full run: no call sees earlier errors."""
        model = self.rollouts.model
        recorder = CallRecorder(model)
        for _ in self.rollouts.calls(recorder, batch):
            pass
        masks, total = self._masks(), 0.0
        leaf = masks.detach().requires_grad_()
        with self.rollouts.gates(leaf):
            for x, t, output in recorder.calls:
                gated = model.denoise(x, t, batch.encoded, self.config.guidance)
                distance = (gated - output).square().mean() / len(recorder.calls)
                distance.backward()
                total += distance.item()
        return total, torch.autograd.grad(masks, self.logits, leaf.grad)[0]

    def state(self) -> dict[str, np.ndarray]:
        """Return everything that the next step depends on, as named arrays."""
        entries = self.optimizer.state_dict()["state"].get(0, {})
        named = {f"optimizer/{name}": value.numpy().copy() for name, value in entries.items()}
        return named | {"logits": self.score(), "done": np.array(self.done)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a state. Raises ValueError where it is one of other settings."""
        if "logits" not in state or state["logits"].shape != self.logits.shape:
            raise ValueError("the state to resume from was learned with other settings; start again without it")
        with torch.no_grad():
            self.logits.copy_(torch.from_numpy(state["logits"]))
        entries = {n.removeprefix("optimizer/"): v for n, v in state.items() if n.startswith("optimizer/")}
        document = self.optimizer.state_dict()
        document["state"] = {0: {name: torch.as_tensor(value).clone() for name, value in entries.items()}}
        self.optimizer.load_state_dict(document)
        self.done = int(state["done"])


class CallRecorder:
    """A model that records its calls: input, timestep and output."""

    def __init__(self, model: Denoises):
        self.model = model
        self.calls: list[tuple[torch.Tensor, Any, torch.Tensor]] = []

    def denoise(self, x: torch.Tensor, t: Any, conditioning: dict[str, Any], guidance: float) -> torch.Tensor:
        output = self.model.denoise(x, t, conditioning, guidance)
        self.calls.append((x, t, output))
        return output
