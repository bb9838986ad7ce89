"""Training a denoiser, beside its recipe: going on, dividing the work, publishing what there is again and again."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from explorer import catalogue
from explorer.training import autoencoder, record
from explorer.training.loop import Loop, Plan, pick_device, runs_folder, say

WORKERS = 2  # processes on a CPU, each with its part of the batch


@dataclass(frozen=True)
class Recipe:
    """What differs between denoisers. `folder` is the denoiser's in the pipeline, `part` how the record names it."""

    name: str
    folder: str
    part: str
    batch: int
    rate: float
    bfloat16: bool = False


class Fitting:
    """One stretch of training: from where it starts, and what becomes of it."""

    def __init__(self, recipe: Recipe, out: Path | None, minutes: float, resume: bool, device: str, seed: int):
        self.recipe, self.resume, self.device, self.seed = recipe, resume, device, seed
        self.home, self.out = runs_folder(recipe.name), out or catalogue.ASSETS / recipe.name
        self.target = pick_device(device)
        workers = WORKERS if device == "cpu" else 1
        if workers > 1:
            torch.set_num_threads(1)
        self.share = recipe.batch // workers  # pictures in each worker's part of a batch
        plan = dict(device=device, seed=seed, resume=resume, workers=workers, bfloat16=recipe.bfloat16)
        self.plan = Plan(minutes, recipe.rate, warmup=200, ema=0.999, **plan)
        torch.manual_seed(seed)

    def begin(self, model: nn.Module) -> nn.Module:
        """The fresh model, with the published weights if it is to go on; a checkpoint overrules them later."""
        weights = self.out / self.recipe.folder
        if self.resume and (weights / "config.json").exists():
            model.load_state_dict(type(model).from_pretrained(weights).state_dict())
        return model.to(self.target, memory_format=torch.channels_last)

    def run(
        self,
        model: nn.Module,
        loss: Callable,
        publish: Callable[[nn.Module, list[dict]], None],
        grid: Callable[[], np.ndarray],
    ) -> None:
        """Train; now and then `publish` the averaged model with its record, and keep the `grid` that it draws."""
        earlier = earlier_stretches(self.home, self.out, self.recipe.part) if self.resume else []

        def finish(trained: nn.Module) -> None:
            facts = loop.state.seconds, loop.state.step, self.recipe.batch, self.device, self.seed
            stretches = [*earlier, record.stretch(self.recipe.part, *facts)]
            record.write(self.home, stretches)
            publish(trained, stretches)

        def sample(trained: nn.Module, path: Path) -> None:
            finish(trained)
            autoencoder.save_grid(grid(), path)

        loop = Loop(self.home, model, loss, self.plan, sample)
        loop.run()
        finish(model)
        name = self.recipe.name
        say(f"{name}: {loop.state.step} steps; measure it now: python -m explorer.training.evaluate --model {name}")


def earlier_stretches(home: Path, out: Path, part: str) -> list[dict]:
    """What the weights went through that a run goes on from: those before its checkpoint, else all published ones."""
    if (home / Loop.CHECKPOINT).exists():
        return record.read(home)[:-1]
    return [stretch for stretch in record.read(out) if stretch["part"] == part]
