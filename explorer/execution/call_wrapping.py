"""Runs a function around the calls of one module, whatever others do to its `forward` meanwhile.

accelerate, diffusers' hooks, peft and torch.compile replace a module's `forward`, or what `__call__` passes on to, and
take that back in an order of their own. The `__call__` of a subclass is outside all of them: nothing of theirs has to
be put back, and where the module is not entered, no weights are moved for it and no hooks run.
"""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch

Wrapper = Callable[..., Any]  # (original call, *args, **kwargs) -> what the call returns

_WRAPPERS: WeakKeyDictionary[torch.nn.Module, Wrapper] = WeakKeyDictionary()


class _WrappedCalls:
    """Mixed into a module's class. A copy of the module, or one that was unwrapped, is called as usual."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        original = super().__call__  # type: ignore[misc]
        wrapper = _WRAPPERS.get(self)  # type: ignore[call-overload]
        return original(*args, **kwargs) if wrapper is None else wrapper(original, *args, **kwargs)


@lru_cache
def _wrapped_class(kind: Any) -> type:
    """Derive the class, which has the same name: configurations are saved, and compiled code is found again, by it."""
    return type(kind.__name__, (_WrappedCalls, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def is_wrapped(module: torch.nn.Module) -> bool:
    """Say whether calls of the module pass through a wrapper at present."""
    return module in _WRAPPERS


class CallWrapping:
    """Has `wrapper(original, *args, **kwargs)` make the calls of `module`, until `undo`.

    Others may change the class in between, as token merging does, and before or after that take their change back: a
    class that is not ours any more stays, and one of ours without a wrapper does nothing.
    """

    def __init__(self, module: torch.nn.Module, wrapper: Wrapper):
        self.module = module
        _WRAPPERS[module] = wrapper
        self._attach()

    def _attach(self) -> None:
        self._before: Any = type(self.module)
        self._wrapped = self._before if issubclass(self._before, _WrappedCalls) else _wrapped_class(self._before)  # type: ignore[arg-type]
        _set_class(self.module, self._wrapped)

    @property
    def is_displaced(self) -> bool:
        """Whether others have put back a class that they replaced before us, so that calls are not wrapped."""
        return not issubclass(type(self.module), _WrappedCalls)

    def reattach(self) -> None:
        """Wrap the calls again where that has happened."""
        if self.is_displaced:
            self._attach()

    def undo(self) -> None:
        _WRAPPERS.pop(self.module, None)
        if type(self.module) is self._wrapped:
            _set_class(self.module, self._before)


def _set_class(module: torch.nn.Module, kind: type) -> None:
    # not by `setattr`, which a compiled module passes on to the module that it compiles
    object.__setattr__(module, "__class__", kind)


def run_uncompiled(module: torch.nn.Module, _original: Wrapper, *args: Any, **kwargs: Any) -> Any:
    """Call a module as if nobody had compiled it, because what runs inside changes from call to call: a wrapper, once
    the module is given."""
    return module._call_impl(*args, **kwargs)


def override_method(owner: Any, name: str, replacement: Callable) -> Callable[[], None]:
    """Put a method of the instance in front of its class's. Returns what undoes it: an instance attribute that was
    there before comes back."""
    before = vars(owner).get(name)
    owner.__dict__[name] = replacement

    def undo() -> None:
        if before is None:
            del owner.__dict__[name]
        else:
            owner.__dict__[name] = before

    return undo


def argument_reader(module: torch.nn.Module, name: str = "") -> Callable[[tuple, dict], Any]:
    """Make a function that reads an argument of a call of `module`, passed by position or by name; default: the first.

    The class says which arguments there are: `forward` of the instance may be somebody's replacement. Raises ValueError
    where there is no such argument.
    """
    parameters = list(inspect.signature(type(module).forward).parameters)[1:]
    name = name or parameters[0]
    position = parameters.index(name)
    return lambda args, kwargs: kwargs[name] if name in kwargs else args[position]
