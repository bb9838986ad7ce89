"""EcoDiff: which heads and neurons to remove, learned by gradients through all calls, one mask for all of them.

Zhang et al., "Learnable Sparsity for Vision Generative Models" (EcoDiff), arXiv 2412.02852. Every element has a logit;
at each step masks are sampled from it (hard concrete, Louizos et al. 2018), and the loss is the distance of what the
masked network generates to what the whole one does, plus a penalty on what is kept. Unlike in the released code, masks
are sampled once per step, so that the backward pass is that of the network of the forward pass; the penalty is on the
expected number of parameters; and weights do not decay. That is `algorithm=hard_concrete`; `gauss_newton`, ours,
measures elements one by one, see there. The channels of FLUX's AdaLN layers, which the released code takes as well, go
on request only (`prune_adaln`) and are counted apart.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from explorer.errors import oom_as_value_error
from explorer.masks.result import PruningResult
from explorer.models.model import Model
from explorer.models.prompts import split_names
from explorer.progress import Progress
from explorer.pruners.width_configs import EcodiffConfig
from explorer.pruners.width_ranking import make_width_result, select_dims


def ecodiff(
    model: Model, prompts: Sequence[str], config: EcodiffConfig, state: Mapping[str, Any] | None = None
) -> Generator[Progress, None, PruningResult]:
    """Learn masks on `prompts` (default: the model's search names), the denoiser frozen.

    Every yield has the state from which a later call with `state` continues exactly. Raises ValueError where the loss
    or a gradient is no longer finite, where there is not enough memory, and for a state of other settings.
    """
    # here, because the table of methods is read without torch
    from explorer.pruners.ecodiff_rollout import RolloutSet
    from explorer.pruners.gauss_newton import GaussNewtonScorer
    from explorer.pruners.hard_concrete import HardConcreteTrainer

    dims = select_dims(model, config)
    rollouts = RolloutSet(model, dims, list(prompts) or split_names(model, "search"), config)
    trainer = (HardConcreteTrainer if config.algorithm == "hard_concrete" else GaussNewtonScorer)(rollouts)
    if state is not None:
        trainer.restore(state)
    while trainer.done < config.last:
        with oom_as_value_error(config.batch):
            metrics = trainer.step()
        message = ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())
        yield Progress(trainer.done, config.last, message, metrics, trainer.state(), rollouts.picture)
    return make_width_result(model, dims, rollouts.by_dim(trainer.score()), "ecodiff", config)
