"""A device for tests: its tensors lie in ordinary memory, but mix with those of the CPU as little as those of a GPU do.

What computes on `far` without a complaint leaves no tensor on the wrong side on a GPU either. Settled once a process.
"""

from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "far"
ACROSS = ("copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_")  # as on a GPU


class Runtime:
    """What PyTorch asks of a kind of device: there is one."""

    is_initialized = is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    manual_seed_all = staticmethod(lambda seed: None)
    _is_in_bad_fork = staticmethod(lambda: False)


class Far(torch.Tensor):
    """A tensor of the device; `near` is the one that has its values."""

    near: torch.Tensor

    @staticmethod
    def of(near: torch.Tensor) -> "Far":
        shape = {"strides": near.stride(), "storage_offset": near.storage_offset(), "dtype": near.dtype}
        found = torch.Tensor._make_wrapper_subclass(Far, near.size(), **shape, device=torch.device(NAME, 0))
        found.near = near
        return found

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return computed(op, *args, **kwargs or {})


def computed(op: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation on tensors of the device. Raises RuntimeError where one of the CPU is among them."""
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    ours = [one for one in tensors if isinstance(one, Far)]
    name = op.overloadpacket.__name__
    for one in tensors:
        if ours and one.dim() and not isinstance(one, Far) and name not in ACROSS:
            raise RuntimeError(f"{name}: a tensor {tuple(one.shape)} of the CPU is among those of the device")
    asked = kwargs.get("device")
    stays = asked is None or torch.device(asked).type == NAME
    kwargs |= {"device": torch.device("cpu")} if asked is not None else {}
    known = {id(one): one for one in tensors} | {id(one.near): one for one in ours}  # what is changed in place
    found = op(*near(args), **near(kwargs))
    return tree_map(lambda one: known.get(id(one), Far.of(one) if stays else one) if is_tensor(one) else one, found)


def is_tensor(one: Any) -> bool:
    return isinstance(one, torch.Tensor)


def near(values: Any) -> Any:
    return tree_map(lambda one: one.near if isinstance(one, Far) else one, values)


def settle() -> None:
    """Make the device known to this process."""
    global library  # it holds as long as this does
    _setup_privateuseone_for_python_backend(NAME, Runtime())
    library = torch.library.Library("_", "IMPL")
    library.fallback(computed, "PrivateUse1")
