"""One small training loop for every embedded model: bounded by the clock, resumable, logged, the same for a seed.

Step k draws everything random from a generator seeded with (seed, k), so a checkpoint needs no random state and a
resumed run continues as if it had never stopped.
"""

import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

CHECKPOINT_SECONDS = 180.0
LOG_EVERY = 20
CLIP_NORM = 1.0


def runs_folder(name: str) -> Path:
    """Where a run keeps its checkpoint, log and sample grids: EXPLORER_RUNS or ./runs, then the model's name."""
    return Path(os.environ.get("EXPLORER_RUNS") or "runs") / name


def pick_device(device: str) -> torch.device:
    """`cpu` or `cuda`. Raises ValueError for anything else and for a GPU that is not there."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but PyTorch finds no GPU")
    return torch.device(device)


def say(text: str) -> None:
    """One line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    With `steps` the learning rate follows the step number, so two runs of one seed agree bit for bit; without, it
    follows the clock, so that it has come down when `minutes` are over. `minutes` bounds both.
    """

    minutes: float
    rate: float
    steps: int | None = None
    warmup: int = 100
    ema: float = 0.0  # 0: none
    weight_decay: float = 0.01
    device: str = "cpu"
    seed: int = 0
    resume: bool = False
    sample_minutes: float = 8.0
    bfloat16: bool = False  # on a CPU as well: convolutions gain by it, narrow transformers do not
    workers: int = (
        1  # threads, each with its own part of the batch: on a busy machine faster than threads in each operation
    )


@dataclass
class State:
    """Where a run stands; `before` are the seconds of earlier runs it continues."""

    step: int = 0
    before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started


class Loop:
    """Trains `model` by `loss(generator, step) -> (scalar, numbers to log)`.

    Now and then `sample(model, path)` draws a grid. With several workers, `loss` is called in as many threads at once.
    After `run()`, `model` holds the averaged weights if the plan asks for an average.
    """

    CHECKPOINT = "checkpoint.safetensors"

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        loss: Callable[[torch.Generator, int], tuple[torch.Tensor, dict[str, float]]],
        plan: Plan,
        sample: Callable[[nn.Module, Path], None] | None = None,
    ):
        self.folder, self.model, self.loss, self.plan, self.sample = folder, model, loss, plan, sample
        self.state = State()
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        decayed = [p for p in self.trained.values() if p.ndim > 1]
        plain = [p for p in self.trained.values() if p.ndim <= 1]
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=plan.rate, betas=(0.9, 0.99), weight_decay=plan.weight_decay, fused=True
        )
        self.average = {n: p.detach().clone() for n, p in self.trained.items()} if plan.ema else {}
        self.others: list[_Worker] = []
        folder.mkdir(parents=True, exist_ok=True)
        if plan.resume and self.checkpoint.exists():
            self._restore()

    @property
    def checkpoint(self) -> Path:
        return self.folder / self.CHECKPOINT

    def run(self) -> State:
        """Train until the plan's bound, write a last checkpoint, leave the averaged weights in the model."""
        plan, state = self.plan, self.state
        state.started = time.monotonic()
        self._hire()
        saved = sampled = time.monotonic()
        while not self._done():
            numbers = self._step()
            now = time.monotonic()
            if state.step % LOG_EVERY == 0:
                self._log(numbers)
            if now - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = now
            if self.sample and now - sampled > plan.sample_minutes * 60:
                self.draw()
                sampled = time.monotonic()
        for worker in self.others:
            worker.dismiss()
        self.save()
        self.swap()
        return state

    def _hire(self) -> None:
        """Fork the other workers; they see the weights that this process updates."""
        if self.plan.workers > 1:
            self.model.share_memory()
        self.others = [_Worker(self, number) for number in range(1, self.plan.workers)]

    def _done(self) -> bool:
        over = time.monotonic() - self.state.started >= self.plan.minutes * 60
        return over or (self.plan.steps is not None and self.state.step >= self.plan.steps)

    def rate(self) -> float:
        """Learning rate of the coming step: linear warm-up, then a half cosine down to 2 %."""
        plan, state = self.plan, self.state
        whole = plan.steps or state.before + plan.minutes * 60
        done = (state.step if plan.steps else state.seconds) / whole
        cosine = 0.51 + 0.49 * math.cos(math.pi * min(1.0, done))
        return plan.rate * cosine * min(1.0, (state.step + 1) / plan.warmup)

    def _step(self) -> dict[str, float]:
        plan, state = self.plan, self.state
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        for worker in self.others:
            worker.ask(state.step)
        total, numbers = self.gradients(0, state.step)
        for worker in self.others:
            gradients, more = worker.answer()
            torch._foreach_add_(total, gradients)
            numbers = {key: numbers[key] + more[key] for key in numbers}
        if self.others:
            torch._foreach_mul_(total, 1 / plan.workers)
            numbers = {key: value / plan.workers for key, value in numbers.items()}
        for p, gradient in zip(self.trained.values(), total, strict=True):
            p.grad = gradient
        nn.utils.clip_grad_norm_(self.trained.values(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        decay = min(plan.ema, (1 + state.step) / (10 + state.step))
        with torch.no_grad():
            if self.average:
                torch._foreach_lerp_(list(self.average.values()), list(self.trained.values()), 1 - decay)
        return numbers

    def gradients(self, worker: int, step: int) -> tuple[list[torch.Tensor], dict[str, float]]:
        """One worker's gradients, in the order of `trained`, and its numbers."""
        plan = self.plan
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step * plan.workers + worker)
        with torch.autocast(plan.device, torch.bfloat16, enabled=plan.device == "cuda" or plan.bfloat16):
            loss, numbers = self.loss(generator, step)
        gradients = torch.autograd.grad(loss, list(self.trained.values()))
        return list(gradients), {"loss": loss.item(), **numbers}

    def _log(self, numbers: dict[str, float]) -> None:
        row = {"step": self.state.step, "seconds": round(self.state.seconds, 1), "rate": self.rate()}
        row |= {key: round(value, 5) for key, value in numbers.items()}
        if not math.isfinite(row["loss"]):
            raise ValueError(f"the loss of step {self.state.step} is not finite; the last checkpoint is untouched")
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        say(" ".join(f"{k} {v:.5g}" for k, v in row.items()))

    def swap(self) -> None:
        """Exchange the trained weights and their average (nothing without an average)."""
        with torch.no_grad():
            for name, mean in self.average.items():
                own = self.trained[name]
                kept = own.detach().clone()
                own.copy_(mean)
                mean.copy_(kept)

    def draw(self) -> None:
        """A sample grid from the averaged weights."""
        self.swap()
        try:
            self.sample(self.model, self.folder / f"sample-{self.state.step:06d}.png")
        finally:
            self.swap()

    def save(self) -> None:
        """Write weights, average, optimizer state and counters, all tensors, in one file that appears at once."""
        tensors = {f"model.{n}": p for n, p in self.trained.items()}
        tensors |= {f"average.{n}": p for n, p in self.average.items()}
        for name, p in self.trained.items():
            for key, value in self.optimizer.state.get(p, {}).items():
                tensors[f"{key}.{name}"] = value
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        part = self.checkpoint.with_suffix(".part")
        meta = {"step": self.state.step, "seconds": self.state.seconds, "seed": self.plan.seed}
        save_file(tensors, part, {"state": json.dumps(meta)})
        part.rename(self.checkpoint)

    def _restore(self) -> None:
        with safe_open(self.checkpoint, framework="pt") as file:
            meta = json.loads(file.metadata()["state"])
            if meta["seed"] != self.plan.seed:
                raise ValueError(f"{self.checkpoint} was trained with seed {meta['seed']}, not {self.plan.seed}")
            self.state = State(step=meta["step"], before=meta["seconds"])
            keys = set(file.keys())
            with torch.no_grad():
                for name, p in self.trained.items():
                    p.copy_(file.get_tensor(f"model.{name}"))
                    if self.average:
                        self.average[name].copy_(file.get_tensor(f"average.{name}"))
                    self.optimizer.state[p] = {
                        key: self._placed(file.get_tensor(f"{key}.{name}"), key, p)
                        for key in ("step", "exp_avg", "exp_avg_sq")
                        if f"{key}.{name}" in keys
                    }

    @staticmethod
    def _placed(value: torch.Tensor, key: str, like: torch.Tensor) -> torch.Tensor:
        # the moments keep the weights' memory format: otherwise a resumed run is not the same to the last bit
        return value.to(like.device) if key == "step" else torch.empty_like(like).copy_(value)


class _Worker:
    """Another process, which computes the gradients of its part of each batch and ends with the one that forked it."""

    def __init__(self, loop: Loop, number: int):
        self.gradients = [torch.empty_like(p).share_memory_() for p in loop.trained.values()]
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")  # the loss is a closure over the data; nothing is copied
        self.process = context.Process(target=self._serve, args=(loop, number, theirs), daemon=True)
        self.process.start()

    def _serve(self, loop: Loop, number: int, pipe) -> None:
        torch.set_num_threads(1)
        for step in iter(pipe.recv, None):
            gradients, numbers = loop.gradients(number, step)
            for place, gradient in zip(self.gradients, gradients, strict=True):
                place.copy_(gradient)
            pipe.send(numbers)

    def ask(self, step: int) -> None:
        self.pipe.send(step)

    def answer(self) -> tuple[list[torch.Tensor], dict[str, float]]:
        return self.gradients, self.pipe.recv()

    def dismiss(self) -> None:
        self.pipe.send(None)
        self.process.join()
