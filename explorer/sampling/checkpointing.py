"""Gradient checkpointing that keeps one node of the graph per call.

PyTorch's own checkpoint keeps the graph of the whole function, without its activations: megabytes for each call.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten


def checkpoint(function: Callable, *state: Any) -> Any:
    """Compute `function(*state)`, from trees of tensors and others to such a tree, as one node of the graph: it keeps
    its inputs, and computes the rest again in the backward pass.

    Gradients reach the tensors of `state` and no others.
    """
    leaves, form = tree_flatten(state)
    flows = [isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves]
    inputs = [leaf for leaf, flow in zip(leaves, flows, strict=True) if flow]
    others = [None if flow else leaf for leaf, flow in zip(leaves, flows, strict=True)]

    def compute(given: Any) -> tuple[Any, dict[int, torch.Tensor]]:
        """Return the output for other inputs, and by its id each tensor of it that is no input."""
        flowing = iter(given)
        before = [next(flowing) if flow else leaf for leaf, flow in zip(others, flows, strict=True)]
        after = function(*tree_unflatten(before, form))
        known = {id(leaf) for leaf in before}
        tensors = (leaf for leaf in tree_leaves(after) if isinstance(leaf, torch.Tensor))
        return after, {id(tensor): tensor for tensor in tensors if id(tensor) not in known}

    with torch.no_grad():
        after, made = compute(inputs)
    joined = dict(zip(made, _Checkpoint.apply(compute, tuple(made.values()), *inputs), strict=True))
    return tree_map(lambda leaf: joined.get(id(leaf), leaf), after)


class _Checkpoint(torch.autograd.Function):
    """Joins tensors that were made without a graph to the inputs that `compute` makes them from."""

    @staticmethod
    def forward(ctx: Any, compute: Callable, made: tuple[torch.Tensor, ...], *inputs: torch.Tensor) -> Any:
        ctx.compute = compute
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        inputs = [value.detach().requires_grad_() for value in ctx.saved_tensors]
        with torch.enable_grad():
            _, made = ctx.compute(inputs)
        pairs = [
            (value, gradient)
            for value, gradient in zip(made.values(), gradients, strict=True)
            if gradient is not None and value.requires_grad
        ]
        values, gradients = zip(*pairs, strict=True) if pairs else ((), ())
        return None, None, *torch.autograd.grad(values, inputs, gradients, allow_unused=True)
