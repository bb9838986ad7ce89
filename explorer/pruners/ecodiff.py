"""EcoDiff: which heads and neurons go, learned by gradients through the whole chain of calls, one mask for all of them.

Zhang et al., "Learnable Sparsity for Vision Generative Models" (EcoDiff), arXiv 2412.02852. Every unit has a logit; at
each step masks are drawn from it (hard concrete, Louizos et al. 2018), and the loss is the distance of what the masked
network draws to what the whole one draws, plus a price on what is kept. Unlike in the released code, masks are drawn
once a step, so that the way back goes through the network that went forth; the price is the expected number of
parameters; and weights do not decay. That is `decision=concrete`; `worth`, ours, measures units one by one, see there.
Rows of FLUX's AdaLN layers, which the released code takes as well, go on request only (`rows`) and are counted apart.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from explorer.prompts import chosen
from explorer.pruners.configs import EcodiffConfig
from explorer.pruners.orders import answer, places
from explorer.widths import WidthImportance, Widths
from explorer.work import Progress, memory_sufficing


def ecodiff(
    model: Any, prompts: Sequence[str], config: EcodiffConfig, state: Mapping[str, Any] | None = None
) -> Generator[Progress, None, Widths | WidthImportance]:
    """Learn masks on `prompts` (default: the model's search names), the denoiser frozen.

    Every yield hands out the state from which a later call with `state` goes on exactly. Raises ValueError where the
    loss or a gradient is no longer finite, where the memory does not suffice, and for a state of other settings.
    """
    from explorer.pruners.chain import Chain  # here, because the table of pruners is read without torch
    from explorer.pruners.concrete import Concrete
    from explorer.pruners.worth import Worth

    there = places(model, config)
    chain = Chain(model, there, list(prompts) or chosen(model, "search"), config)
    learner = (Concrete if config.decision == "concrete" else Worth)(chain)
    if state is not None:
        learner.restore(state)
    while learner.done < config.last:
        with memory_sufficing(config.batch):
            numbers = learner.step()
        said = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())
        yield Progress(learner.done, config.last, said, numbers, learner.state(), chain.picture)
    return answer(model, there, chain.by_site(learner.score()), "ecodiff", config)
