"""A device for tests: its tensors are in ordinary memory, but mix with those of the CPU as little as those of a GPU do.

What runs on `fake` without an error leaves no tensor on the wrong device on a GPU either. Registered once per process.
"""

from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "fake"
MIXING_OPS = ("copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_")  # as on a GPU


class Runtime:
    """The module that PyTorch needs of a kind of device: there is one device."""

    is_initialized = is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    manual_seed_all = staticmethod(lambda seed: None)
    _is_in_bad_fork = staticmethod(lambda: False)


class FakeTensor(torch.Tensor):
    """A tensor of the device; `value` is the tensor of the CPU that holds its values."""

    value: torch.Tensor

    @staticmethod
    def of(value: torch.Tensor) -> "FakeTensor":
        shape = {"strides": value.stride(), "storage_offset": value.storage_offset(), "dtype": value.dtype}
        found = torch.Tensor._make_wrapper_subclass(FakeTensor, value.size(), **shape, device=torch.device(NAME, 0))
        found.value = value
        return found

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return compute(op, *args, **kwargs or {})


def compute(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute an operation on tensors of the device. Raises RuntimeError where one of the CPU is among them."""
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    ours = [one for one in tensors if isinstance(one, FakeTensor)]
    name = op.overloadpacket.__name__
    for one in tensors:
        if ours and one.dim() and not isinstance(one, FakeTensor) and name not in MIXING_OPS:
            raise RuntimeError(f"{name}: a tensor {tuple(one.shape)} of the CPU is among those of the fake device")
    requested = kwargs.get("device")
    stays = requested is None or torch.device(requested).type == NAME
    kwargs |= {"device": torch.device("cpu")} if requested is not None else {}
    known = {id(one): one for one in tensors} | {id(one.value): one for one in ours}  # what is changed in place
    found = op(*to_values(args), **to_values(kwargs))
    return tree_map(
        lambda one: known.get(id(one), FakeTensor.of(one) if stays else one) if is_tensor(one) else one, found
    )


def is_tensor(one: Any) -> bool:
    return isinstance(one, torch.Tensor)


def to_values(values: Any) -> Any:
    return tree_map(lambda one: one.value if isinstance(one, FakeTensor) else one, values)


def register() -> None:
    """Register the device in this process."""
    global library  # registrations last as long as this object
    _setup_privateuseone_for_python_backend(NAME, Runtime())
    library = torch.library.Library("_", "IMPL")
    library.fallback(compute, "PrivateUse1")
