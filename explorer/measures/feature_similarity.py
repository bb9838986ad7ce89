"""Measures how similar the features of different calls are: why reuse works, and where it does not.

    work = measure(model, prompts, steps=50, units=("up_blocks.2",))   # yields progress, returns a Similarity

Every unit's output is compared with itself at every other call of the same picture, as in Zhu et al., DiP-GO, NeurIPS
2024, figure 7, and summed over pictures: memory does not grow with their number. The conditional half of a guided
batch is what is compared.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from explorer.execution.recording import record_outputs
from explorer.masks.block_graph import BlockGraph, Granularity
from explorer.measures.similarity_file import Similarity, SimilarityHeader
from explorer.models.model import Model
from explorer.progress import Progress
from explorer.sampling.rollout import denoise
from explorer.sampling.schedulers import make_scheduler, num_function_evals

BATCH = 4


class RunningStatistics:
    """Mean and standard deviation of arrays that are added one after another (Welford 1962), in float64."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(()), np.zeros(())

    def add(self, value: np.ndarray) -> None:
        self.count += 1
        difference = value - self.mean
        self.mean = self.mean + difference / self.count
        self.squares = self.squares + difference * (value - self.mean)

    @property
    def std(self) -> np.ndarray:
        """The sample's standard deviation; 0 for a single value."""
        return np.sqrt(self.squares / max(1, self.count - 1))


def flatten(features: torch.Tensor) -> torch.Tensor:
    """Flatten each output to one vector, for the cosine: (T, ...) -> (T, D)."""
    return features.flatten(1)


def gram_matrices(features: torch.Tensor) -> torch.Tensor:
    """Compute centred Gram matrices over positions: (T, C, H, W) or (T, N, C) -> (T, N N).

    The cosine of two of them is linear CKA (Kornblith et al. 2019, eq. 3), with the positions of a picture as examples.
    """
    positions = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features
    centred = positions - positions.mean(1, keepdim=True)
    return (centred @ centred.transpose(1, 2)).flatten(1)


MEASURES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"cosine": flatten, "cka": gram_matrices}


def pairwise_similarity(features: torch.Tensor, view: Callable[[torch.Tensor], torch.Tensor] = flatten) -> np.ndarray:
    """Compute the similarity of the outputs (T, ...) of one unit at all pairs of calls, (T, T).

    Outputs that are zero, or without any variation for CKA, are similar to themselves only.
    """
    vectors = F.normalize(view(features.float()), dim=1)
    cosine = (vectors @ vectors.T).clamp(-1, 1).fill_diagonal_(1.0)
    return cosine.double().numpy()


def relative_change(features: torch.Tensor) -> np.ndarray:
    """Compute the relative change of the outputs (T, ...) since the call before, (T,); 0 at call 0."""
    vectors = flatten(features.float())
    moved = (vectors[1:] - vectors[:-1]).norm(dim=1)
    before = vectors[:-1].norm(dim=1)
    relative = torch.where(moved == 0, 0.0, moved / before.clamp(min=1e-12))
    return F.pad(relative, (1, 0)).double().numpy()


def preset(model: Model, name: str) -> dict[str, Any]:
    """Return settings for `measure` as in DiP-GO's figure 7: the penultimate up stage under DDIM 50 or DPM-Solver++ 25.

    The paper took 200 prompts. Raises ValueError for an unknown preset and for a model without up stages.
    """
    steps = {"figure7-ddim": 50, "figure7-dpm++": 25}
    if name not in steps:
        raise ValueError(f"preset {name!r} is unknown; choose one of {', '.join(steps)}")
    stages = [stage for stage in model.graph("stage").names if stage.startswith("up_blocks.")]
    if len(stages) < 2:
        raise ValueError(f"{model.id} has no penultimate up stage")
    sampler = name.removeprefix("figure7-")
    return {"sampler": sampler, "steps": steps[name], "granularity": "stage", "units": (stages[-2],)}


def measure(
    model: Model,
    prompts: Sequence[str],
    seed: int = 0,
    sampler: str = "ddim",
    steps: int = 50,
    guidance: float = 7.5,
    granularity: Granularity = "layer",
    units: Sequence[str] = (),
    kind: Literal["cosine", "cka"] = "cosine",
    batch: int = BATCH,
) -> Generator[Progress, None, Similarity]:
    """Generate every prompt once (noise of seed, seed + 1, ..) and compare the outputs of `units` (all if empty).

    Yields progress after each batch. Raises ValueError for no prompts, an unknown unit or measure, and for outputs that
    are not finite.
    """
    graph = model.graph(granularity)
    names = tuple(units) or graph.names
    if not prompts:
        raise ValueError("similarity needs at least one prompt")
    if kind not in MEASURES:
        raise ValueError(f"measure {kind!r} is unknown; choose one of {', '.join(MEASURES)}")
    if unknown := [name for name in names if name not in graph.names]:
        raise ValueError(f"unit {unknown[0]!r} is unknown; this model's are {', '.join(graph.names)}")
    calls = num_function_evals(sampler, model.scheduler_config, steps)
    columns = [graph.names.index(name) for name in names]
    similarities, changes = ([RunningStatistics() for _ in names] for _ in range(2))
    model = model.with_shared_weights()
    for start in range(0, len(prompts), batch):
        batch_prompts = list(prompts[start : start + batch])
        seeds = range(seed + start, seed + start + len(batch_prompts))
        recorded = _record_features(model, graph, columns, batch_prompts, seeds, sampler, steps, guidance)
        for index, features in enumerate(recorded):
            for picture in features.unbind(1):
                similarities[index].add(pairwise_similarity(picture, MEASURES[kind]))
                changes[index].add(relative_change(picture))
        yield Progress(start + len(batch_prompts), len(prompts), "pictures compared")
    header = SimilarityHeader(
        model=model.record,
        measure=kind,
        sampler=sampler,
        steps=steps,
        calls=calls,
        guidance=guidance,
        granularity=granularity,
        units=names,
        pictures=len(prompts),
        seed=seed,
    )
    tables = [np.stack([r.mean for r in similarities]), np.stack([r.std for r in similarities])]
    tables += [np.stack([r.mean for r in changes]), np.stack([r.std for r in changes])]
    return Similarity(header, *(table.astype(np.float32) for table in tables))


def _record_features(
    model: Model,
    graph: BlockGraph,
    columns: list[int],
    prompts: list[str],
    seeds: Any,
    sampler: str,
    steps: int,
    guidance: float,
) -> list[torch.Tensor]:
    """Record the outputs of some units for one batch: per unit (T, B, ...), on the CPU."""
    scheduler = make_scheduler(sampler, model.scheduler_config)
    conditioning = model.encode(prompts, guidance)
    noise, generators = model.initial_latents(seeds)
    recorded: list[list[torch.Tensor]] = [[] for _ in columns]

    def record(index: int, output: torch.Tensor) -> None:
        recorded[index].append(model.conditional_half(output.detach(), len(prompts)).to("cpu", copy=True))

    with record_outputs(model.denoiser, graph, columns, record):
        for _ in denoise(model, scheduler, steps, noise, conditioning, guidance, generators):
            pass
    features = [torch.stack(outputs) for outputs in recorded]
    broken = np.array([[not bool(call.isfinite().all()) for call in unit] for unit in features])  # (U, T)
    if broken.any():
        call = int(broken.any(axis=0).argmax())
        unit = graph.names[columns[int(broken[:, call].argmax())]]
        raise ValueError(f"the output of {unit} is not finite at call {call}; lower the guidance")
    return features
