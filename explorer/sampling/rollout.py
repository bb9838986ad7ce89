"""The denoising loop, the same for every model: noise in, one step after another out; and its differentiable form.

A model is anything with `denoise(x, t, conditioning, guidance) -> (B, C, H, W)`; see `models.model.Model`.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import torch

from explorer.execution.prediction import Prediction
from explorer.execution.soft_supernet import CacheState, ScheduleGates
from explorer.sampling.checkpointing import checkpoint
from explorer.sampling.schedulers import STOCHASTIC

Checkpointing = Literal["none", "per_call", "sqrt"]


class Denoises(Protocol):
    """What the loop needs of a model."""

    def denoise(self, x: torch.Tensor, t: Any, conditioning: dict[str, Any], guidance: float) -> torch.Tensor: ...


class Step(NamedTuple):
    """What the loop has after one call."""

    call: int  # counted from 0
    timestep: float
    latents: torch.Tensor  # (B, C, H, W)
    pred_original_sample: torch.Tensor  # (B, C, H, W), the estimate of x0: what a preview decodes


@torch.no_grad()
def denoise(
    model: Denoises,
    scheduler: Any,
    steps: int,
    noise: torch.Tensor,
    conditioning: dict[str, Any],
    guidance: float,
    generators: Any,
) -> Iterator[Step]:
    """Yield every step from `noise` (B, C, H, W; unit variance) on. Guidance of at most 1 is no guidance."""
    scheduler.set_timesteps(steps, device=noise.device)
    extra = {"generator": generators} if isinstance(scheduler, STOCHASTIC) else {}
    prediction = Prediction.of(scheduler)
    latents = noise * scheduler.init_noise_sigma
    for call, timestep in enumerate(scheduler.timesteps):
        x = scheduler.scale_model_input(latents, timestep)
        output = model.denoise(x, timestep, conditioning, guidance)
        latents = scheduler.step(output, timestep, latents, return_dict=False, **extra)[0]
        yield Step(call, float(timestep), latents, prediction.pred_original_sample(output, x, timestep))


class _LoopState(NamedTuple):
    """What one step hands on to the next: a tree of tensors and others."""

    latents: torch.Tensor  # (B, C, H, W)
    solver: Mapping[str, Any]  # the scheduler's attributes: its history and its index among them
    cached: CacheState


def rollout(
    model: Denoises,
    scheduler: Any,
    steps: int,
    noise: torch.Tensor,
    conditioning: dict[str, Any],
    guidance: float,
    at: Callable[[int, Any, CacheState], AbstractContextManager[CacheState]],
    gates: Any,
    checkpointing: Checkpointing = "per_call",
) -> torch.Tensor:
    """Compute the final latents (B, C, H, W) of all calls, differentiable in the tensors of `gates`, and in no others.

    `with at(call, gates, cached) as cached:` the denoiser runs under the gates, any tree of tensors; what it yields is
    cached for the next call. checkpointing: `none` keeps every activation; `per_call` keeps what is cached for
    the next call and computes the rest again in the backward pass; `sqrt` keeps that at every sqrt(T)-th call only, for
    one more forward pass. Raises ValueError for a sampler that draws noise of its own, and where the gates are for
    another number of calls.
    """
    if isinstance(scheduler, STOCHASTIC):
        raise ValueError(
            f"{type(scheduler).__name__} draws noise at each step; choose a deterministic sampler to learn"
        )
    scheduler.set_timesteps(steps, device=noise.device)
    timesteps = scheduler.timesteps
    if isinstance(gates, ScheduleGates) and len(timesteps) != len(gates.own):
        raise ValueError(f"the sampler makes {len(timesteps)} calls, but there are gates for {len(gates.own)}")

    def step(call: int, state: _LoopState, gates: Any) -> _LoopState:
        solver = copy.copy(scheduler)
        vars(solver).update(state.solver)
        x = solver.scale_model_input(state.latents, timesteps[call])
        with at(call, gates, state.cached) as cached:
            output = model.denoise(x, timesteps[call], conditioning, guidance)
        latents = solver.step(output, timesteps[call], state.latents, return_dict=False)[0]
        return _LoopState(latents, vars(solver), cached)

    def run_calls(calls: range, state: _LoopState, gates: Any) -> _LoopState:
        for call in calls:
            one = partial(step, call)
            state = one(state, gates) if checkpointing == "none" else checkpoint(one, state, gates)
        return state

    state, calls = _LoopState(noise * scheduler.init_noise_sigma, vars(scheduler), {}), range(len(timesteps))
    if checkpointing != "sqrt":
        return run_calls(calls, state, gates).latents
    length = math.isqrt(len(calls) - 1) + 1
    for first in calls[::length]:
        state = checkpoint(partial(run_calls, calls[first : first + length]), state, gates)
    return state.latents
