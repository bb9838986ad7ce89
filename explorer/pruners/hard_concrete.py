"""EcoDiff's masks: a logit for each unit, hard-concrete masks drawn from them, the chain under these masks."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from explorer.pruners.chain import Batch, Chain
from explorer.structure import Gates

TEMPERATURE, LOW, HIGH = 0.83, -0.1, 1.1  # alpha, gamma and zeta of the released code


def hard_concrete(logits: torch.Tensor, lots: torch.Tensor, noise: float) -> torch.Tensor:
    """Masks in [0, 1] of `lots`, uniform in (0, 1): Louizos et al. 2018, eq. 10 and 11, the logistic noise bounded."""
    drawn = ((lots + noise).log() - (1 - lots + noise).log() + logits) / TEMPERATURE
    return (drawn.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)


def open_share(logits: torch.Tensor) -> torch.Tensor:
    """How probable it is that a mask is not 0: Louizos et al. 2018, eq. 12."""
    return (logits - TEMPERATURE * math.log(-LOW / HIGH)).sigmoid()


class Concrete:
    """The logits (N,) of a network's units, and how far they have been learned (`done` steps)."""

    def __init__(self, chain: Chain):
        self.chain, self.config, self.done = chain, chain.config, 0
        self.costs = torch.from_numpy(chain.params / chain.params.sum()).float()  # share of what can go
        self.layers = torch.from_numpy(np.repeat([1 / size for size in chain.sizes], chain.sizes)).float()
        self.logits = torch.full((len(self.costs),), self.config.start, requires_grad=True)
        self.optimizer = torch.optim.AdamW([self.logits], lr=self.config.rate, weight_decay=0)

    def score(self) -> np.ndarray:
        return self.logits.detach().numpy().copy()

    def step(self) -> dict[str, float]:
        """Move the logits once. Returns the loss, its terms and the share of what can go that is kept."""
        distance, slope = self._distance(self.chain.batch(self.done))
        price = self._price()
        self.logits.grad = slope + torch.autograd.grad(self.config.weight * price, self.logits)[0]
        if not (math.isfinite(distance) and bool(self.logits.grad.isfinite().all())):
            raise ValueError(f"the loss is no longer finite at step {self.done}; lower the rate or the guidance")
        self.optimizer.step()
        self.done += 1
        kept = float(self.costs @ (self.logits.detach() > 0).float())
        return {"loss": distance + self.config.weight * price.item(), "distance": distance, "kept": kept}

    def _price(self) -> torch.Tensor:
        """The expected share of parameters that stays; or the mean size of a layer's logits, as released."""
        if self.config.price == "l0":
            return self.costs @ open_share(self.logits)
        return self.layers @ self.logits.abs() / len(self.chain.sizes)

    def _masks(self) -> torch.Tensor:
        """One draw a step, which holds on the way back as well."""
        lots = np.random.default_rng((self.config.seed, self.done)).random(len(self.logits), dtype=np.float32)
        return hard_concrete(self.logits, torch.from_numpy(lots), self.config.noise)

    def _distance(self, batch: Batch) -> tuple[float, torch.Tensor]:
        """Mean squared distance to the full run, and its gradient by the logits."""
        if self.config.distance == "call":
            return self._of_calls(batch)
        full = self.chain.full(batch)
        distance = (self.chain.gated(self._masks(), batch) - full).square().mean()
        slope = torch.autograd.grad(distance, self.logits)[0]
        return distance.item(), slope

    def _of_calls(self, batch: Batch) -> tuple[float, torch.Tensor]:
        """The same, of every call's output at the latents of the full run: no call sees what earlier ones broke."""
        model = self.chain.model
        record = Recorder(model)
        for _ in self.chain.calls(record, batch):
            pass
        masks, total = self._masks(), 0.0
        leaf = masks.detach().requires_grad_()
        with Gates(model.denoiser, self.chain.by_site(leaf)):
            for x, t, output in record.calls:
                found = model.denoise(x, t, batch.encoded, self.config.guidance)
                distance = (found - output).square().mean() / len(record.calls)
                distance.backward()
                total += distance.item()
        return total, torch.autograd.grad(masks, self.logits, leaf.grad)[0]

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, as named arrays."""
        entries = self.optimizer.state_dict()["state"].get(0, {})
        named = {f"optimizer/{name}": value.numpy().copy() for name, value in entries.items()}
        return named | {"logits": self.score(), "done": np.array(self.done)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state. Raises ValueError where it is one of other settings."""
        if "logits" not in state or state["logits"].shape != self.logits.shape:
            raise ValueError("the state to go on from was learned with other settings; start anew without it")
        with torch.no_grad():
            self.logits.copy_(torch.from_numpy(state["logits"]))
        entries = {n.removeprefix("optimizer/"): v for n, v in state.items() if n.startswith("optimizer/")}
        kept = self.optimizer.state_dict()
        kept["state"] = {0: {name: torch.as_tensor(value).clone() for name, value in entries.items()}}
        self.optimizer.load_state_dict(kept)
        self.done = int(state["done"])


class Recorder:
    """A model that remembers its calls: what came in, when, and what went out."""

    def __init__(self, model: Any):
        self.model = model
        self.calls: list[tuple[torch.Tensor, Any, torch.Tensor]] = []

    def denoise(self, x: torch.Tensor, t: Any, conditioning: dict, guidance: float) -> torch.Tensor:
        output = self.model.denoise(x, t, conditioning, guidance)
        self.calls.append((x, t, output))
        return output
