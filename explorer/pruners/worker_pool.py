"""Who does the pieces of one search: this process alone, or several that each have the model.

    tries = team.crew(schedule_losses, prompts, config)    # each member makes its own schedule_losses(model, ...), once
    losses = list(tries([(keep,), (other,)]))              # what it answers to each item, in the order of the items

What is asked does not depend on who is there, nor do answers: so a search ends the same for any number of workers.
`jobs.processes.Processes` is the team of several. Loads no torch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

Make = Callable[..., Callable[..., Any]]  # make(model, *given)(*item) -> answer; of a module, for it goes by name
Crew = Callable[[Sequence[tuple[Any, ...]]], Iterator[Any]]  # items -> their answers, in order, as they come


class Team(Protocol):
    """What a search needs of whoever does its pieces. `given`, items and answers are plain values and arrays."""

    size: int

    def crew(self, make: Make, *given: Any) -> Crew: ...


class Alone:
    """This process, one item after another."""

    size = 1

    def __init__(self, model: Any):
        self.model = model

    def crew(self, make: Make, *given: Any) -> Crew:
        answer = make(self.model, *given)
        return lambda items: (answer(*item) for item in items)
