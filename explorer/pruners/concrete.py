"""One optimizer step of EcoDiff after another: draw masks, run the chain under them, measure, move their logits."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from explorer import trajectory
from explorer.drawing import png
from explorer.pruners.configs import EcodiffConfig
from explorer.structure import Gates, Site

TEMPERATURE, LOW, HIGH = 0.83, -0.1, 1.1  # alpha, gamma and zeta of the released code
PICTURES_SEED = 2**30  # first noise of the pictures that are learned from


def hard_concrete(logits: torch.Tensor, lots: torch.Tensor, noise: float) -> torch.Tensor:
    """Masks in [0, 1] of `lots`, uniform in (0, 1): Louizos et al. 2018, eq. 10 and 11, the logistic noise bounded."""
    drawn = ((lots + noise).log() - (1 - lots + noise).log() + logits) / TEMPERATURE
    return (drawn.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)


def open_share(logits: torch.Tensor) -> torch.Tensor:
    """How probable it is that a mask is not 0: Louizos et al. 2018, eq. 12."""
    return (logits - TEMPERATURE * math.log(-LOW / HIGH)).sigmoid()


class Learner:
    """The logits of one network's heads and neurons, and how far they have been learned (`done` steps)."""

    def __init__(self, model: Any, sites: Mapping[str, Site], prompts: Sequence[str], config: EcodiffConfig):
        self.model, self.sites, self.config, self.prompts = model.twin(), sites, config, list(prompts)
        self.model.denoiser.requires_grad_(False)
        self.sizes = [site.size for site in sites.values()]
        each = torch.tensor([site.params for site in sites.values()], dtype=torch.float64)
        costs = each.repeat_interleave(torch.tensor(self.sizes))
        self.costs = (costs / costs.sum()).float()  # share of what can go that goes with each unit
        self.layers = torch.tensor([1 / size for size in self.sizes]).repeat_interleave(torch.tensor(self.sizes))
        self.logits = torch.full((sum(self.sizes),), config.start, requires_grad=True)
        self.optimizer = torch.optim.AdamW([self.logits], lr=config.rate, weight_decay=0)
        self.done, self.targets = 0, {}
        self.picture: bytes | None = None  # of the last step: what its masks drew

    def scores(self) -> dict[str, np.ndarray]:
        return {name: part.numpy().copy() for name, part in self._by_site(self.logits.detach()).items()}

    def _by_site(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(zip(self.sites, flat.split(self.sizes), strict=True))

    # -- one step

    def step(self) -> dict[str, float]:
        """Move the logits once. Returns the loss, its terms and the share of what can go that is kept."""
        try:
            distance, slope = self._distance()
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if "memory" not in f"{error}":
                raise
            raise ValueError(
                f"the memory does not suffice for {self.config.batch} pictures at once; "
                "take a smaller batch, or memory=nested"
            ) from error
        price = self._price()
        slope = slope + torch.autograd.grad(self.config.weight * price, self.logits)[0]
        if not (math.isfinite(distance) and bool(slope.isfinite().all())):
            raise ValueError(f"the loss is no longer finite at step {self.done}; lower the rate or the guidance")
        self.logits.grad = slope
        self.optimizer.step()
        self.done += 1
        kept = float(self.costs @ (self.logits.detach() > 0).float())
        return {"loss": distance + self.config.weight * price.item(), "distance": distance, "kept": kept}

    def _price(self) -> torch.Tensor:
        """The expected share of parameters that stays; or the mean size of a layer's logits, as released."""
        if self.config.price == "l0":
            return self.costs @ open_share(self.logits)
        return self.layers @ self.logits.abs() / len(self.sizes)

    def _masks(self) -> dict[str, torch.Tensor]:
        """One draw a step, which holds on the way back as well."""
        lots = np.random.default_rng((self.config.seed, self.done)).random(len(self.logits), dtype=np.float32)
        return self._by_site(hard_concrete(self.logits, torch.from_numpy(lots), self.config.noise))

    def _distance(self) -> tuple[float, torch.Tensor]:
        """Mean squared distance to the full run, and its gradient by the logits."""
        first = self.done * self.config.batch
        wanted = [(first + index) % self.config.pictures for index in range(self.config.batch)]
        prompts = [self.prompts[number % len(self.prompts)] for number in wanted]
        noise, _ = self.model.noise([PICTURES_SEED + self.config.seed + number for number in wanted])
        chain = (self.config.steps, noise, self.model.encode(prompts, self.config.guidance), self.config.guidance)
        if self.config.distance == "call":
            return self._of_calls(chain)
        targets = self._targets(wanted, chain)
        with Gates(self.model.denoiser, self._masks()):
            ends = trajectory.rollout(self.model, self._scheduler(), *chain, memory=self.config.memory)
            distance = (ends - targets).square().mean()
            slope = torch.autograd.grad(distance, self.logits)[0]
        self.picture = png(self.model.decode(ends.detach()[:1])[0])
        return distance.item(), slope

    def _targets(self, wanted: Sequence[int], chain: tuple) -> torch.Tensor:
        """What the whole network draws, (B, C, H, W); each picture once."""
        if any(number not in self.targets for number in wanted):
            *_, last = trajectory.denoise(self.model, self._scheduler(), *chain, generators=None)
            self.targets |= dict(zip(wanted, last.latents, strict=True))
        return torch.stack([self.targets[number] for number in wanted])

    def _of_calls(self, chain: tuple) -> tuple[float, torch.Tensor]:
        """The same, of every call's output at the latents of the full run: no call sees what earlier ones broke."""
        record = Recorder(self.model)
        for _ in trajectory.denoise(record, self._scheduler(), *chain, generators=None):
            pass
        masks, total = self._masks(), 0.0
        leaves = {name: mask.detach().requires_grad_() for name, mask in masks.items()}
        with Gates(self.model.denoiser, leaves):
            for x, t, output in record.calls:
                found = self.model.denoise(x, t, *chain[2:])
                distance = (found - output).square().mean() / len(record.calls)
                distance.backward()
                total += distance.item()
        return total, torch.autograd.grad(list(masks.values()), self.logits, [leaf.grad for leaf in leaves.values()])[0]

    def _scheduler(self) -> Any:
        return trajectory.sampler(self.config.sampler, self.model.scheduler_config)

    # -- stopping and going on

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, as named arrays."""
        entries = self.optimizer.state_dict()["state"].get(0, {})
        named = {f"optimizer/{name}": value.numpy().copy() for name, value in entries.items()}
        return named | {"logits": self.logits.detach().numpy().copy(), "done": np.array(self.done)}

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
