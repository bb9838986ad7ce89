"""Trains a denoiser: starts or resumes it, divides the work, and publishes what is learned every few minutes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from explorer.models import catalogue
from explorer.training import autoencoder, provenance
from explorer.training.loop import Loss, TrainingLoop, TrainingPlan, pick_device, print_progress, runs_folder
from explorer.training.options import TrainingOptions
from explorer.training.provenance import TrainingRun

WORKERS = 2  # processes on a CPU, each with its part of the batch


@dataclass(frozen=True)
class TrainerConfig:
    """What differs between denoisers. `folder` is the denoiser's in the pipeline, `part` its name in the record."""

    name: str
    folder: str
    part: str
    batch: int
    learning_rate: float
    bfloat16: bool = False


class DenoiserTrainer:
    """One training run of a denoiser: its start, and the folder of its weights."""

    def __init__(self, config: TrainerConfig, options: TrainingOptions):
        self.config, self.resume, self.seed, device = config, options.resume, options.seed, options.device
        self.run_folder, self.out = runs_folder(config.name), options.out or catalogue.ASSETS / config.name
        self.device = pick_device(device)
        workers = WORKERS if device == "cpu" else 1
        if workers > 1:
            torch.set_num_threads(1)
        self.micro_batch = config.batch // workers  # pictures in each worker's part of a batch
        shared: dict[str, Any] = dict(workers=workers, bfloat16=config.bfloat16)
        self.plan = TrainingPlan.of(options, config.learning_rate, warmup=200, ema=0.999, **shared)
        torch.manual_seed(options.seed)

    def prepare(self, model: Any) -> Any:
        """Put a fresh model on the device, with the published weights where training is resumed.

        A checkpoint of the run replaces these later.
        """
        weights = self.out / self.config.folder
        if self.resume and (weights / "config.json").exists():
            model.load_state_dict(type(model).from_pretrained(weights).state_dict())
        return model.to(self.device, memory_format=torch.channels_last)

    def run(
        self,
        model: nn.Module,
        loss: Loss,
        publish: Callable[[Any, list[TrainingRun]], None],
        generate_grid: Callable[[], np.ndarray],
    ) -> None:
        """Train; every few minutes `publish` the averaged model with its record, and save a grid of its pictures.

        `generate_grid` makes them, uint8 (N, H, W, 3), with what was published.
        """
        earlier = earlier_runs(self.run_folder, self.out, self.config.part) if self.resume else []

        def publish_with_record(trained: nn.Module) -> None:
            facts = loop.state.seconds, loop.state.step, self.config.batch, self.device.type, self.seed
            runs = [*earlier, provenance.training_run(self.config.part, *facts)]
            provenance.write(self.run_folder, runs)
            publish(trained, runs)

        def sample(trained: nn.Module, path: Path) -> None:
            publish_with_record(trained)
            autoencoder.save_grid(generate_grid(), path)

        loop = TrainingLoop(self.run_folder, model, loss, self.plan, sample)
        loop.run()
        publish_with_record(model)
        name = self.config.name
        command = f"python -m explorer.training.evaluate --model {name}"
        print_progress(f"{name}: {loop.state.step} steps; measure it now: {command}")


def earlier_runs(run_folder: Path, out: Path, part: str) -> list[TrainingRun]:
    """List the runs that a resumed one continues: those before its checkpoint, else all published ones."""
    if (run_folder / TrainingLoop.CHECKPOINT).exists():
        return provenance.read(run_folder)[:-1]
    return [run for run in provenance.read(out) if run["part"] == part]
