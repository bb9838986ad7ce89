"""What needs a GPU: the device tests, and speed and memory at the sizes of Stable Diffusion, with random weights.

Each part ends after about its number of seconds. The results go to a JSON file, part by part. Without a GPU, the same
parts run shrunk on the CPU. Run by hand: python tests/bench/gpu.py [results.json] [part ...]
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import diffusers
import torch

from explorer import experiment
from explorer.experiment import ExperimentRequest, mask_at
from explorer.models import catalogue
from explorer.models.model import Model
from explorer.pruners import method_config

ON_GPU = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.float16) if ON_GPU else ("cpu", torch.float32)
CALLS, ROUNDS = (50, 5) if ON_GPU else (12, 1)
LATENT_SIZES = {"sd15": 64, "sdxl": 128} if ON_GPU else {"sd15": 8, "sdxl": 8}
SHRUNK = {
    "sd15": {"block_out_channels": [32, 64, 128, 128], "cross_attention_dim": 32},
    "sdxl": {"block_out_channels": [32, 64, 64], "attention_head_dim": 4, "transformer_layers_per_block": 1},
}
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


class RandomModel(Model):
    """A model of the catalogue with random weights and random text embeddings."""

    def encode(self, prompts: Any, guidance: float) -> dict[str, Any]:
        rows = len(prompts) * (2 if guidance > 1 else 1)
        inputs = self.example_inputs(self.denoiser)
        return {name: random_rows(value, rows) for name, value in inputs.items() if name not in ("sample", "timestep")}


def random_rows(example: Any, rows: int) -> Any:
    """Make `rows` random rows in the shape of an example, or of a dictionary of examples."""
    if isinstance(example, Mapping):
        return {name: random_rows(value, rows) for name, value in example.items()}
    generator = torch.Generator("cpu").manual_seed(rows)
    return torch.randn(rows, *example.shape[1:], generator=generator).to(example.device, example.dtype)


def random_model(model_id: str, dtype: torch.dtype) -> RandomModel:
    """Build a model of the catalogue with random weights, shrunk where there is no GPU."""
    found = catalogue.load(model_id, weights=False)
    config = dict(found.denoiser.config) | ({} if ON_GPU else SHRUNK[model_id])
    torch.manual_seed(0)
    with torch.device(DEVICE):
        denoiser = type(found.denoiser).from_config(config | {"sample_size": LATENT_SIZES[model_id]}).to(dtype)
        vae = diffusers.AutoencoderKL(
            block_out_channels=(32,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
        ).to(dtype)
    scheduler = diffusers.DDIMScheduler.from_config(found.scheduler_config)
    pipe = make_pipeline(found.pipeline, unet=denoiser.eval().requires_grad_(False), vae=vae, scheduler=scheduler)
    return RandomModel(model_id, found.pipeline, denoiser, found.scheduler_config, found.text_length, pipe)


def make_pipeline(name: str, **parts: Any) -> Any:
    """Make a pipeline of these parts alone: it is given embeddings and returns latents."""
    pipeline = getattr(diffusers, name)
    expected, options = pipeline._get_signature_keys(pipeline)
    switched_off = dict.fromkeys({"requires_safety_checker", "add_watermarker"} & set(options), False)
    pipe = pipeline(**dict.fromkeys(set(expected) - {"self"}) | parts | switched_off)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(model: Model, batch: int, applied: AbstractContextManager) -> tuple[float, torch.Tensor]:
    """Generate a batch by the diffusers pipeline inside a context; returns seconds and final latents."""
    embeddings = model.encode(["dog"] * batch, 1)
    texts = {"prompt_embeds": embeddings["encoder_hidden_states"]}
    if pooled := embeddings.get("added_cond_kwargs"):
        texts["pooled_prompt_embeds"] = pooled["text_embeds"]
    texts |= {f"negative_{name}": -value for name, value in texts.items()}
    noise = random_rows(model.example_inputs(model.denoiser)["sample"], batch)
    size = 8 * model.latent_size[0]
    run = dict(num_inference_steps=CALLS, guidance_scale=7.5, height=size, width=size, output_type="latent")
    with applied:
        synchronize()
        started = time.perf_counter()
        latents = model.pipe(latents=noise, **texts, **run)[0]
        synchronize()
    return time.perf_counter() - started, latents


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


def time_schedules(seconds: float, model_id: str, batch: int, compiled: bool = False) -> Iterator[dict[str, Any]]:
    """Time the loop under schedules that remove 50 and 80 % of the MACs, in turn with the plain loop."""
    until, model = time.monotonic() + seconds, random_model(model_id, DTYPE)
    masks: dict[str, Any] = {"plain": None}
    for ratio in (0.5, 0.8):
        for name, (method, settings) in SCHEDULES.items():
            request = ExperimentRequest(method=method, settings=settings, steps=CALLS, ratio=ratio)
            masks[f"{name}, {ratio:.0%}"] = mask_at(model, request)

    def draw_all() -> dict[str, tuple[float, torch.Tensor]]:
        contexts = {name: experiment.apply(model.pipe, mask) if mask else nullcontext() for name, mask in masks.items()}
        return {name: draw(model, batch, context) for name, context in contexts.items()}

    eager = draw_all()  # warms up
    if compiled:
        model.denoiser.to(memory_format=torch.channels_last)
        model.denoiser.compile_repeated_blocks(fullgraph=True)
    first, rounds = draw_all(), [draw_all()]
    while len(rounds) < ROUNDS and time.monotonic() < until:
        rounds.append(draw_all())
    for name, mask in masks.items():
        kept, speedups = mask.macs_fraction if mask else 1, [one["plain"][0] / one[name][0] for one in rounds]
        row = {"schedule": name, "kept": kept, "seconds": [one[name][0] for one in rounds]}
        row |= {"speedup": median(speedups), "of_ideal": median(speedups) * kept}
        yield row | ({"distance": distance(first[name][1], eager[name][1])} if compiled else {})


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


def time_deepcache(seconds: float) -> Iterator[dict[str, Any]]:
    """Time our DeepCache and that of its authors in turn, at the same intervals, and compare their latents."""
    until, model = time.monotonic() + seconds, random_model("sd15", DTYPE)
    for interval in (2, 5):
        settings = {"branch": 0, "interval": interval}
        mask = mask_at(model, ExperimentRequest(method="deepcache", settings=settings, steps=CALLS))
        taken: dict[str, list[float]] = {"plain": [], "ours": [], "package": []}
        while len(taken["plain"]) <= ROUNDS and (len(taken["plain"]) < 2 or time.monotonic() < until):
            contexts = (nullcontext(), experiment.apply(model.pipe, mask), deepcache_package(model.pipe, interval))
            runs = [draw(model, 1, context) for context in contexts]
            for name, (spent, _) in zip(taken, runs, strict=True):
                taken[name].append(spent)
        row = {"interval": interval, "kept": mask.macs_fraction, "distance": distance(runs[1][1], runs[2][1])}
        rounds = list(zip(*taken.values(), strict=True))[1:]  # the first warms up
        row |= {name: median(one[0] / one[1 + at] for one in rounds) for at, name in enumerate(("ours", "package"))}
        yield row | {"seconds": taken}


def measure_learning(seconds: float) -> Iterator[dict[str, Any]]:
    """Measure seconds and memory of one step of each learning method, by what is kept for the backward pass."""
    until, model = time.monotonic() + seconds, random_model("sd15", torch.bfloat16 if ON_GPU else DTYPE)
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


def peak_memory_mb(reset: bool = False) -> float | None:
    """Return the most GPU memory that was allocated; after a reset, what is allocated now."""
    if not ON_GPU:
        return None
    if reset:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated() / 2**20


PARTS = {  # name -> seconds, what yields its rows, with which arguments; the most valuable first
    "device tests": (120, run_device_tests),
    "sd15, batch 1": (60, time_schedules, "sd15", 1),
    "sd15, batch 8": (80, time_schedules, "sd15", 8),
    "learning": (90, measure_learning),
    "DeepCache package": (50, time_deepcache),
    "sdxl, batch 1": (60, time_schedules, "sdxl", 1),
    "sd15, batch 1, compiled": (60, time_schedules, "sd15", 1, True),
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
