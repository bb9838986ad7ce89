"""What the library does to a diffusers pipeline, or to a model that was loaded. Importing this loads no torch."""

import warnings
from contextlib import AbstractContextManager
from typing import Any

from explorer.masks.schedule import Schedule
from explorer.masks.width import Widths
from explorer.models import catalogue
from explorer.models.model import Model, run_under, run_with_widths
from explorer.models.pipelines import find_denoiser


def prune_widths(model: Model, widths: Widths) -> Model:
    """Build a smaller model, whose `pipe` holds the pruned denoiser; `model` stays whole.

    Raises ValueError for widths of another model, and for a model that is pruned already.
    """
    return model.prune_widths(widths)


def apply(pipe: Any, mask: Schedule | Widths, strict: bool = True) -> AbstractContextManager[None]:
    """`with apply(pipe, mask):` around ordinary calls of a diffusers pipeline. Raises ValueError if it does not fit.

    Any pipeline of a known denoiser will do: image to image, inpainting, ControlNet, a class of your own. Under a
    schedule it must make as many calls as the schedule has rows, and its denoiser have the schedule's units; with
    widths, it holds a smaller denoiser inside. strict: refuse a mask of another model or sampler; else only warn, as is
    right for a fine-tune of the model.
    """
    _, denoiser = find_denoiser(pipe)
    if foreign := _made_for_another(pipe, mask):
        if strict:
            raise ValueError(f"{foreign}; if it is meant for this one as well, pass strict=False")
        warnings.warn(foreign, stacklevel=2)
    if mask.prunes == "schedule":
        return run_under(denoiser, mask, pipe.scheduler, pipe)
    return run_with_widths(pipe, mask)


def _made_for_another(pipe: Any, mask: Schedule | Widths) -> str:
    """Say in which model or sampler a pipeline differs from those that a mask was made for; empty: in none."""
    from explorer.sampling.schedulers import scheduler_class

    made_for, model_id = mask.header.model.id, catalogue.id_of_pipeline(pipe)
    if model_id not in (made_for, None):
        return f"the mask was made for the model {made_for}, not {model_id}"
    sampler = mask.header.sampler if mask.prunes == "schedule" else None
    ours = scheduler_class(sampler, pipe.scheduler.config) if sampler else None
    if ours and type(pipe.scheduler) not in ours.__mro__:
        return f"the mask was made for the sampler {sampler}, and the pipeline has a {type(pipe.scheduler).__name__}"
    return ""
