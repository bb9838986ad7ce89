"""What needs a GPU: the device tests, and speed and memory at the sizes of Stable Diffusion, with random weights.

Each part ends after about its number of seconds. The results go to a JSON file, part by part. Without a GPU, the same
parts run shrunk on the CPU. Run by hand: python tests/bench/gpu.py [results.json] [part ...]
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import explorer
from explorer import experiment
from explorer.experiment import ExperimentRequest, mask_at
from explorer.pruners import method_config
from tests.bench.random_models import RUNS, RandomModel, random_distillation, random_model

ON_GPU = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.float16) if ON_GPU else ("cpu", torch.float32)
CALLS, ROUNDS = (50, 5) if ON_GPU else (12, 1)
SCHEDULES = {
    "whole calls": ("uniform", {}),
    "whole calls, order 1": ("uniform", {"order": 1}),
    "DeepCache, branch 0": ("deepcache", {"branch": 0}),
    "random layers": ("random", {}),
    "random layers, order 1": ("random", {"order": 1}),
}
ONE_STEP = {"iterations": 1, "batch": 1}
LEARNING = {
    "dipgo, argmax": ONE_STEP | {"algorithm": "argmax", "init": "keep"},
    "dipgo, nested": ONE_STEP | {"validate_every": 0},
    "ecodiff": ONE_STEP | {"num_images": 1},
}


def draw(model: RandomModel, batch: int, applied: AbstractContextManager) -> tuple[float, torch.Tensor]:
    """Generate a batch inside a context; returns seconds and final latents."""
    synchronize()
    started = time.perf_counter()
    latents = model.draw(batch, CALLS, applied)
    synchronize()
    return time.perf_counter() - started, latents


def make(model_id: str, dtype: torch.dtype = DTYPE) -> RandomModel:
    """Build a random model here: bfloat16 for FLUX, as it is published, and all the rest in DTYPE if not told."""
    if model_id == "flux-dev":
        dtype = torch.bfloat16
    return random_model(model_id, DEVICE, dtype if ON_GPU else DTYPE, shrunk=not ON_GPU)


def synchronize() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Compute the relative distance of two tensors."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


# -- the parts: each yields rows


def run_device_tests(seconds: float) -> Iterator[dict[str, Any]]:
    """Run the tests of the suite that compare devices."""
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:tests.page_fixtures", "--tb=short")  # no browser is needed
    command = [sys.executable, "-m", "pytest", *options, "tests/test_devices.py"]
    done = subprocess.run(command, cwd=sys.path[0], capture_output=True, text=True, timeout=seconds)
    yield {"summary": done.stdout.splitlines()[-1], "output": done.stdout[-9000:] if done.returncode else ""}


def time_schedules(seconds: float, model_id: str, batch: int, compiled: str = "") -> Iterator[dict[str, Any]]:
    """Time the loop under schedules that remove 50 and 80 % of the MACs, in turn with the plain loop.

    `compiled`: nothing, the `blocks` that repeat, or the `whole` network as one graph, which whole calls need only;
    `replayed`: by CUDA graphs.
    """
    until, model = time.monotonic() + seconds, make(model_id)
    masks: dict[str, Any] = {"plain": None}
    left_out = {"deepcache"} if "transformer" in model.pipe.components else set()  # its branches are a U-Net's
    left_out |= {"deepcache", "random"} if compiled in ("whole", "replayed") else set()
    for ratio in (0.5, 0.8):
        for name, (method, settings) in SCHEDULES.items():
            if method in left_out:
                continue
            run = RUNS.get(model_id, {})
            request = ExperimentRequest(method=method, settings=settings, steps=CALLS, ratio=ratio, **run)
            masks[f"{name}, {ratio:.0%}"] = mask_at(model, request)

    def draw_all() -> dict[str, tuple[float, torch.Tensor]]:
        contexts = {name: explorer.apply(model.pipe, mask) if mask else nullcontext() for name, mask in masks.items()}
        return {name: draw(model, batch, context) for name, context in contexts.items()}

    eager = draw_all()  # warms up
    if compiled:
        compile_denoiser(model, compiled)
    first, rounds = draw_all(), [draw_all()]
    while len(rounds) < ROUNDS and time.monotonic() < until:
        rounds.append(draw_all())
    for name, mask in masks.items():
        kept, speedups = mask.macs_fraction if mask else 1, [one["plain"][0] / one[name][0] for one in rounds]
        row = {"schedule": name, "kept": kept, "seconds": [one[name][0] for one in rounds]}
        row |= {"speedup": median(speedups), "of_ideal": median(speedups) * kept}
        yield row | ({"distance": distance(first[name][1], eager[name][1])} if compiled else {})


def compile_denoiser(model: RandomModel, what: str) -> None:
    """Compile the blocks that repeat, or the whole network as one graph, which CUDA graphs replay."""
    backend: dict[str, Any] = {"fullgraph": True, "backend": "inductor" if ON_GPU else "aot_eager"}
    if what == "replayed" and ON_GPU:
        backend["mode"] = "reduce-overhead"
    model.denoiser.to(memory_format=torch.channels_last)
    if what == "blocks":
        model.denoiser.compile_repeated_blocks(**backend)
    else:
        model.pipe.unet = torch.compile(model.denoiser, **backend)


@contextmanager
def deepcache_package(pipe: Any, interval: int) -> Iterator[None]:
    """Run a pipeline under the package of DeepCache's authors (pip install DeepCache)."""
    from DeepCache import DeepCacheSDHelper

    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    try:
        yield
    finally:
        helper.disable()


def time_deepcache(seconds: float, compiled: str = "") -> Iterator[dict[str, Any]]:
    """Time our DeepCache and that of its authors in turn, at the same intervals, and compare their latents."""
    until, model = time.monotonic() + seconds, make("sd15")
    if compiled:
        compile_denoiser(model, compiled)
    for interval in (2, 5):
        settings = {"branch": 0, "interval": interval}
        mask = mask_at(model, ExperimentRequest(method="deepcache", settings=settings, steps=CALLS))
        taken: dict[str, list[float]] = {"plain": [], "ours": [], "package": []}
        while len(taken["plain"]) <= ROUNDS and (len(taken["plain"]) < 2 or time.monotonic() < until):
            contexts = (nullcontext(), explorer.apply(model.pipe, mask), deepcache_package(model.pipe, interval))
            runs = [draw(model, 1, context) for context in contexts]
            for name, (spent, _) in zip(taken, runs, strict=True):
                taken[name].append(spent)
        row = {"interval": interval, "kept": mask.macs_fraction, "distance": distance(runs[1][1], runs[2][1])}
        rounds = list(zip(*taken.values(), strict=True))[1:]  # the first warms up
        row |= {name: median(one[0] / one[1 + at] for one in rounds) for at, name in enumerate(("ours", "package"))}
        yield row | {"seconds": taken}


def measure_learning(seconds: float) -> Iterator[dict[str, Any]]:
    """Measure seconds and memory of one step of each learning method, by what is kept for the backward pass."""
    until, model = time.monotonic() + seconds, make("sd15", torch.bfloat16)
    draw(model, 1, nullcontext())  # warms up
    for name, settings in LEARNING.items():
        for checkpointing in ("per_call", "sqrt"):
            if time.monotonic() > until:
                return
            method = name.split(",")[0]
            config = method_config(method, settings | {"steps": CALLS, "checkpointing": checkpointing})
            idle, started = peak_memory_mb(reset=True), time.perf_counter()
            next(experiment.prune(model, method, config, ["dog"]))
            synchronize()
            row = {"method": name, "checkpointing": checkpointing, "idle_mb": idle, "peak_mb": peak_memory_mb()}
            yield row | {"seconds": time.perf_counter() - started}


def time_training(seconds: float) -> Iterator[dict[str, Any]]:
    """Time steps that distil guidance into emoji-flux, at pictures of 64 x 64 and 128 x 128."""
    from explorer.training.flux import make_guidance_loss

    until = time.monotonic() + seconds
    for size, batch in ((16, 32), (32, 32), (32, 256)) if ON_GPU else ((16, 4),):
        student, *others = random_distillation(DEVICE, size, batch)
        loss, taken = make_guidance_loss(student, *others), []
        optimizer, generator = torch.optim.AdamW(student.parameters()), torch.Generator().manual_seed(0)
        while len(taken) < 3 or (time.monotonic() < until and len(taken) < 50):
            synchronize()
            started = time.perf_counter()
            loss(generator, 0)[0].backward()
            optimizer.step()
            optimizer.zero_grad()
            synchronize()
            taken.append(time.perf_counter() - started)
        step = median(taken[1:])
        yield {"size": 4 * size, "batch": batch, "seconds": taken, "pictures_per_second": batch / step}


def peak_memory_mb(reset: bool = False) -> float | None:
    """Return the most GPU memory that was allocated; after a reset, what is allocated now."""
    if not ON_GPU:
        return None
    if reset:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated() / 2**20


PARTS = {  # name -> seconds, what yields its rows, with which arguments; the most valuable first
    "device tests": (90, run_device_tests),
    "sd15, batch 1": (50, time_schedules, "sd15", 1),
    "sd15, batch 8": (60, time_schedules, "sd15", 8),
    "flux-dev, a third of the blocks": (50, time_schedules, "flux-dev", 1),
    "learning": (50, measure_learning),
    "DeepCache package": (30, time_deepcache),
    "sdxl, batch 1": (50, time_schedules, "sdxl", 1),
    "training": (15, time_training),
    "sd15, batch 1, compiled": (35, time_schedules, "sd15", 1, "blocks"),
    "sd15, batch 1, one graph": (35, time_schedules, "sd15", 1, "whole"),
    "DeepCache package, compiled": (30, time_deepcache, "blocks"),
    "sd15, batch 1, CUDA graphs": (25, time_schedules, "sd15", 1, "replayed"),
}


def main(out: str = "gpu.json", *names: str) -> None:
    machine = torch.cuda.get_device_name() if ON_GPU else f"CPU, {torch.get_num_threads()} threads"
    about = {"machine": machine, "torch": torch.__version__, "dtype": str(DTYPE), "calls": CALLS}
    results: list[dict[str, Any]] = []
    for name in names or PARTS:
        seconds, part, *arguments = PARTS[name]
        started, result = time.monotonic(), {"part": name, "rows": []} | about
        try:
            for row in part(seconds, *arguments):
                result["rows"].append(row)
                print(name, row, flush=True)
        except Exception as error:  # noqa: BLE001 catches everything: the parts that follow run all the same
            result["failure"] = f"{type(error).__name__}: {error}"
            print(name, result["failure"], flush=True)
        results.append(result | {"took_seconds": time.monotonic() - started})
        Path(out).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
