"""Runs the tasks of one search: in this process alone, or in several that each have the model. Loads no torch.

    losses = pool.bind(schedule_objective, prompts, config)   # each worker makes schedule_objective(model, ...) once
    list(losses([(keep,), (other,)]))                         # its answer to each item, in the order of the items

Neither the items nor the answers depend on the number of workers, so a search ends the same with any number of them.
`jobs.executors.pools` has the pools of several processes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from explorer.models.model import Model

# factory(model, *given)(*item) -> answer; a function or class of a module, as it is sent to other processes by name
TaskFactory = Callable[..., Callable[..., Any]]
MapFn = Callable[[Sequence[tuple[Any, ...]]], Iterator[Any]]  # items -> their answers, in order, as they come


class WorkerPool(Protocol):
    """What a search needs of its workers. `given`, items and answers are plain values and arrays."""

    size: int

    def bind(self, factory: TaskFactory, *given: Any) -> MapFn: ...


class SerialPool:
    """This process, one item after another."""

    size = 1

    def __init__(self, model: Model):
        self.model = model

    def bind(self, factory: TaskFactory, *given: Any) -> MapFn:
        answer = factory(self.model, *given)
        return lambda items: (answer(*item) for item in items)
