"""One small training loop for every embedded model: bounded by the clock, resumable, logged, the same for a seed.

Step k draws everything random from a generator seeded with (seed, k), so a checkpoint needs no random state and a
resumed run continues as if it had never stopped.
"""

import json
import math
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from explorer.masks.file_format import replace_atomically
from explorer.settings import settings
from explorer.training.options import TrainingOptions

CHECKPOINT_INTERVAL_S = 180.0
LOG_INTERVAL = 20  # steps
MAX_GRADIENT_NORM = 1.0

Loss = Callable[[torch.Generator, int], tuple[torch.Tensor, dict[str, float]]]  # (generator, step) -> scalar, metrics


def runs_folder(name: str) -> Path:
    """Return where a run keeps its checkpoint, log and sample grids: EXPLORER_RUNS or ./runs, then the model's name."""
    return settings().runs / name


def pick_device(device: str) -> torch.device:
    """Turn `cpu` or `cuda` into a device. Raises ValueError for anything else and for a GPU that is not there."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but PyTorch finds no GPU")
    return torch.device(device)


def print_progress(text: str) -> None:
    """Print one line on standard error."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train.

    With `steps` the learning rate follows the step number, so two runs of one seed agree bit for bit; without, it
    follows the clock, so that it has come down when `minutes` are over. `minutes` bounds both.
    """

    minutes: float
    learning_rate: float
    steps: int | None = None
    warmup: int = 100  # steps
    ema: float = 0.0  # decay of the average of the weights; 0: no average
    weight_decay: float = 0.01
    device: str = "cpu"
    seed: int = 0
    resume: bool = False
    sample_minutes: float = 8.0  # between two sample grids
    bfloat16: bool = False  # on a CPU as well: convolutions gain by it, narrow transformers do not
    # processes, each with its own part of the batch: on a busy machine faster than threads in each operation
    workers: int = 1

    @classmethod
    def of(cls, options: TrainingOptions, learning_rate: float, **more: Any) -> "TrainingPlan":
        """Make the plan of a trainer's options."""
        shared: dict[str, Any] = dict(device=options.device, seed=options.seed, resume=options.resume)
        return cls(options.minutes, learning_rate, **shared, **more)


@dataclass
class TrainingState:
    """The progress of a run; `before` are the seconds of earlier runs that it continues."""

    step: int = 0
    before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started


class TrainingLoop:
    """Trains `model` by `loss(generator, step) -> (scalar, metrics to log)`.

    Every few minutes `sample(model, path)` writes a sample grid. With several workers, each process calls `loss` for
    its part. After `run()`, `model` holds the averaged weights if the plan has an average.
    """

    CHECKPOINT = "checkpoint.safetensors"

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        loss: Loss,
        plan: TrainingPlan,
        sample: Callable[[nn.Module, Path], None] | None = None,
    ):
        self.folder, self.model, self.loss, self.plan, self.sample = folder, model, loss, plan, sample
        self.state = TrainingState()
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        matrices = [p for p in self.trained.values() if p.ndim > 1]
        vectors = [p for p in self.trained.values() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=plan.weight_decay, fused=True
        )
        self.average = {n: p.detach().clone() for n, p in self.trained.items()} if plan.ema else {}
        self.workers: list[_Worker] = []  # besides this process
        folder.mkdir(parents=True, exist_ok=True)
        if plan.resume and self.checkpoint.exists():
            self._restore()

    @property
    def checkpoint(self) -> Path:
        return self.folder / self.CHECKPOINT

    def run(self) -> TrainingState:
        """Train until the plan's bound, write a last checkpoint, leave the averaged weights in the model."""
        plan, state = self.plan, self.state
        state.started = time.monotonic()
        self._start_workers()
        last_save = last_sample = time.monotonic()
        while not self._is_done():
            metrics = self._step()
            now = time.monotonic()
            if state.step % LOG_INTERVAL == 0:
                self._log(metrics)
            if now - last_save > CHECKPOINT_INTERVAL_S:
                self.save()
                last_save = now
            if self.sample and now - last_sample > plan.sample_minutes * 60:
                self.write_samples()
                last_sample = time.monotonic()
        for worker in self.workers:
            worker.stop()
        self.save()
        self.swap_average()
        return state

    def _start_workers(self) -> None:
        """Fork the other workers; they see the weights that this process updates."""
        if self.plan.workers > 1:
            self.model.share_memory()
        self.workers = [_Worker(self, number) for number in range(1, self.plan.workers)]

    def _is_done(self) -> bool:
        is_over = time.monotonic() - self.state.started >= self.plan.minutes * 60
        return is_over or (self.plan.steps is not None and self.state.step >= self.plan.steps)

    def learning_rate(self) -> float:
        """Compute the learning rate of the coming step: linear warm-up, then a half cosine down to 2 %."""
        plan, state = self.plan, self.state
        total = plan.steps or state.before + plan.minutes * 60
        done = (state.step if plan.steps else state.seconds) / total
        cosine = 0.51 + 0.49 * math.cos(math.pi * min(1.0, done))
        return plan.learning_rate * cosine * min(1.0, (state.step + 1) / plan.warmup)

    def _step(self) -> dict[str, float]:
        plan, state = self.plan, self.state
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        for worker in self.workers:
            worker.request(state.step)
        total, metrics = self.gradients(0, state.step)
        for worker in self.workers:
            gradients, more = worker.receive()
            torch._foreach_add_(total, gradients)
            metrics = {name: metrics[name] + more[name] for name in metrics}
        if self.workers:
            torch._foreach_mul_(total, 1 / plan.workers)
            metrics = {name: value / plan.workers for name, value in metrics.items()}
        for p, gradient in zip(self.trained.values(), total, strict=True):
            p.grad = gradient
        nn.utils.clip_grad_norm_(self.trained.values(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        decay = min(plan.ema, (1 + state.step) / (10 + state.step))
        with torch.no_grad():
            if self.average:
                torch._foreach_lerp_(list(self.average.values()), list(self.trained.values()), 1 - decay)
        return metrics

    def gradients(self, worker: int, step: int) -> tuple[list[torch.Tensor], dict[str, float]]:
        """Compute one worker's gradients, in the order of `trained`, and its metrics."""
        plan = self.plan
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step * plan.workers + worker)
        with torch.autocast(plan.device, torch.bfloat16, enabled=plan.device == "cuda" or plan.bfloat16):
            loss, metrics = self.loss(generator, step)
        gradients = torch.autograd.grad(loss, list(self.trained.values()))
        return list(gradients), {"loss": loss.item(), **metrics}

    def _log(self, metrics: dict[str, float]) -> None:
        row = {"step": self.state.step, "seconds": round(self.state.seconds, 1), "rate": self.learning_rate()}
        row |= {name: round(value, 5) for name, value in metrics.items()}
        if not math.isfinite(row["loss"]):
            raise ValueError(f"the loss of step {self.state.step} is not finite; the last checkpoint is untouched")
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print_progress(" ".join(f"{name} {value:.5g}" for name, value in row.items()))

    def swap_average(self) -> None:
        """Exchange the trained weights and their average (nothing without an average)."""
        with torch.no_grad():
            for name, mean in self.average.items():
                own = self.trained[name]
                copy = own.detach().clone()
                own.copy_(mean)
                mean.copy_(copy)

    def write_samples(self) -> None:
        """Write a sample grid of the averaged weights."""
        if self.sample is None:
            return
        self.swap_average()
        try:
            self.sample(self.model, self.folder / f"sample-{self.state.step:06d}.png")
        finally:
            self.swap_average()

    def save(self) -> None:
        """Write weights, average, optimizer state and counters, all tensors, in one file, whole or not at all."""
        tensors: dict[str, torch.Tensor] = {f"model.{n}": p for n, p in self.trained.items()}
        tensors |= {f"average.{n}": p for n, p in self.average.items()}
        for name, p in self.trained.items():
            for key, value in self.optimizer.state.get(p, {}).items():
                tensors[f"{key}.{name}"] = value
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        document = {"step": self.state.step, "seconds": self.state.seconds, "seed": self.plan.seed}
        with replace_atomically(self.checkpoint) as temporary:
            save_file(tensors, temporary, {"state": json.dumps(document)})

    def _restore(self) -> None:
        with safe_open(self.checkpoint, framework="pt") as file:
            document = json.loads(file.metadata()["state"])
            if document["seed"] != self.plan.seed:
                raise ValueError(f"{self.checkpoint} was trained with seed {document['seed']}, not {self.plan.seed}")
            self.state = TrainingState(step=document["step"], before=document["seconds"])
            keys = set(file.keys())
            with torch.no_grad():
                for name, p in self.trained.items():
                    p.copy_(file.get_tensor(f"model.{name}"))
                    if self.average:
                        self.average[name].copy_(file.get_tensor(f"average.{name}"))
                    self.optimizer.state[p] = {
                        key: self._place(file.get_tensor(f"{key}.{name}"), key, p)
                        for key in ("step", "exp_avg", "exp_avg_sq")
                        if f"{key}.{name}" in keys
                    }

    @staticmethod
    def _place(value: torch.Tensor, key: str, like: torch.Tensor) -> torch.Tensor:
        # the moments keep the weights' memory format: otherwise a resumed run is not the same to the last bit
        return value.to(like.device) if key == "step" else torch.empty_like(like).copy_(value)


class _Worker:
    """Another process, which computes the gradients of its part of each batch and ends with the one that forked it."""

    def __init__(self, loop: TrainingLoop, number: int):
        self.gradients = [torch.empty_like(p).share_memory_() for p in loop.trained.values()]
        self.connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")  # the loss is a closure over the data; nothing is copied
        self.process = context.Process(target=self._serve, args=(loop, number, theirs), daemon=True)
        self.process.start()

    def _serve(self, loop: TrainingLoop, number: int, connection: Any) -> None:
        torch.set_num_threads(1)
        for step in iter(connection.recv, None):
            gradients, metrics = loop.gradients(number, step)
            for shared, gradient in zip(self.gradients, gradients, strict=True):
                shared.copy_(gradient)
            connection.send(metrics)

    def request(self, step: int) -> None:
        """Have it compute the gradients of a step."""
        self.connection.send(step)

    def receive(self) -> tuple[list[torch.Tensor], dict[str, float]]:
        """Wait for its gradients and metrics."""
        return self.gradients, self.connection.recv()

    def stop(self) -> None:
        self.connection.send(None)
        self.process.join()
