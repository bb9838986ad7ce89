"""What modules of a denoiser hand out, and how often a denoiser is called."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from explorer.masks.block_graph import BlockGraph


@contextmanager
def record_outputs(
    denoiser: torch.nn.Module, graph: BlockGraph, columns: list[int], record: Callable[[int, torch.Tensor], None]
) -> Iterator[None]:
    """Call `record(index, output)` inside whenever one of the units `columns` has run.

    Of two streams it is the latents', which comes last; of a down stage, which hands out skips too, the first.
    """

    def hook(index: int, place: int) -> Callable:
        return lambda _module, _inputs, output: record(index, tree_leaves(output)[place])

    handles = []
    for index, column in enumerate(columns):
        module, place = denoiser.get_submodule(graph.modules[column][-1]), max(0, len(graph.streams[column]) - 1)
        handles.append(module.register_forward_hook(hook(index, place)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def count_calls(denoiser: torch.nn.Module) -> Iterator[Callable[[], int]]:
    """Yield a function that says how often a denoiser was called since, with all copies that are made of it
    meanwhile."""
    made = [0]

    def count(*_: Any) -> None:
        made[0] += 1

    hook = denoiser.register_forward_pre_hook(count)
    try:
        yield lambda: made[0]
    finally:
        hook.remove()
