"""What the gallery of each embedded model shows: scenes, ratios of the slider and methods, one row per model."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from explorer.evaluation.baselines import BASELINES
from explorer.evaluation.candidates import ReferenceRun, Sample
from explorer.masks.block_graph import Extrapolation
from explorer.models.catalogue import ASSETS, own_run
from explorer.studies.baseline_suite import EXTRAPOLATIONS


class GalleryMethod(NamedTuple):
    """One method of a gallery: its title, and the pruner with its settings or the name of a few-step sampler."""

    title: str
    method: str
    settings: Mapping[str, Any] = MappingProxyType({})
    nested: bool = True  # one order serves all ratios; else each has a schedule of its own
    # of which each ratio takes what ends nearest to the full run, on pictures for tuning
    tried: tuple[Mapping[str, Any], ...] = ()
    branch_results: Path | None = None  # from which each ratio takes DeepCache's branch instead

    @property
    def has_importance(self) -> bool:
        return self.nested and self.method not in BASELINES


class Gallery(NamedTuple):
    """What is rendered of a model. The page lists scenes and methods in this order."""

    samples: tuple[Sample, ...]
    ratios: tuple[float, ...]
    methods: Mapping[str, GalleryMethod]
    reference: ReferenceRun = ReferenceRun("ddim", 50)


def _ends(*extrapolations: Extrapolation) -> GalleryMethod:
    """Make whole calls at both ends, with one extrapolation, or with the best of several at each ratio."""
    settings = [MappingProxyType({"spacing": "ends", **how._asdict()}) for how in extrapolations]
    tried = tuple(settings) if len(settings) > 1 else ()
    return GalleryMethod(
        "Skip whole steps (closer together at both ends)", "uniform", settings[0], nested=False, tried=tried
    )


_DIPGO = GalleryMethod("DiP-GO", "dipgo", MappingProxyType({"algorithm": "nested"}))
_UNTUNED = {
    "similarity": GalleryMethod("Similarity", "similarity"),
    "random": GalleryMethod("Random units", "random"),
}
_FEWER_STEPS = {
    "ddim-steps": GalleryMethod("DDIM, fewer steps", "ddim-steps"),
    "dpm++-steps": GalleryMethod("DPM-Solver++, fewer steps", "dpm++-steps"),
    "unipc-steps": GalleryMethod("UniPC, fewer steps", "unipc-steps"),
}
_TEN_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_UNET_PROMPTS = (
    *("red apple", "penguin", "unicorn", "rocket", "pizza", "octopus", "alien", "bicycle", "sunflower", "castle"),
    *("face with tears of joy", "christmas tree"),
)
_UNET_RESULTS = ASSETS / "results" / "emoji-unet-ddim-50-deepcache.parquet"
# names that nothing was tuned on
_DIT_PROMPTS = ("octopus", "penguin", "sunflower", "rocket", "hamburger", "t-rex", "rainbow", "bicycle")
_FLOW_STEPS = {
    "euler-steps": GalleryMethod("Euler, fewer steps", "euler-steps"),
    **{name: _FEWER_STEPS[name] for name in ("dpm++-steps", "unipc-steps")},
}
_DDPM_SEEDS = (104, 121, 110, 106, 118, 134, 146, 103)  # neither those of tuning nor those of similarity

GALLERIES: Mapping[str, Gallery] = MappingProxyType(
    {
        "emoji-unet": Gallery(
            tuple(Sample(prompt, seed) for prompt in _UNET_PROMPTS for seed in (0, 1)),
            tuple(round(0.05 * number, 2) for number in range(1, 20)),
            {
                "dipgo": _DIPGO,
                "dipgo-published": GalleryMethod("DiP-GO as published", "dipgo", {"algorithm": "argmax"}),
                "uniform": _ends(Extrapolation(1, 1)),
                "deepcache": GalleryMethod(
                    "DeepCache, best branch", "deepcache", nested=False, branch_results=_UNET_RESULTS
                ),
                **_UNTUNED,
                **_FEWER_STEPS,
            },
        ),
        "emoji-dit": Gallery(
            tuple(Sample(prompt, 0) for prompt in _DIT_PROMPTS),
            _TEN_RATIOS,
            {"dipgo": _DIPGO, "uniform": _ends(*EXTRAPOLATIONS), **_UNTUNED, **_FEWER_STEPS},
        ),
        # It is unconditional: a scene is a seed, and its prompt is empty.
        "emoji-ddpm": Gallery(
            tuple(Sample("", seed) for seed in _DDPM_SEEDS),
            _TEN_RATIOS,
            {
                "uniform": _ends(*EXTRAPOLATIONS),
                "deepcache": GalleryMethod(
                    "DeepCache, best branch",
                    "deepcache",
                    nested=False,
                    tried=tuple(MappingProxyType({"branch": branch}) for branch in range(8)),
                ),
                **_UNTUNED,
                **_FEWER_STEPS,
            },
        ),
        "emoji-flux": Gallery(
            tuple(Sample(prompt, 0) for prompt in _DIT_PROMPTS),
            _TEN_RATIOS,
            {"dipgo": _DIPGO, "uniform": _ends(*EXTRAPOLATIONS), **_UNTUNED, **_FLOW_STEPS},
            ReferenceRun(**own_run("emoji-flux")),
        ),
    }
)
