"""The settings of each method: defaults, ranges and one line of help a field. Needs no torch.

Command-line flags, page controls and the provenance in a file are all generated from these.
"""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

SAMPLERS = ("ddim", "dpm++", "unipc", "deis", "pndm", "euler", "lcm")


class ScheduleConfig(BaseModel):
    """What every schedule is made for."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    RUNS_MODEL: ClassVar[bool] = False  # whether the method looks at pictures first: minutes instead of milliseconds

    steps: int = Field(25, ge=1, le=1000, description="denoising steps of the full run")
    sampler: str = Field("ddim", max_length=20, description="sampler of the full run")
    guidance: float = Field(7.5, ge=0, le=100, description="classifier-free guidance; at most 1 switches it off")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed of whatever the method draws")
    ratio: float | None = Field(None, ge=0, le=1, description="share of MACs to remove; empty: an order for all ratios")
    granularity: Literal["stage", "layer", "module"] = Field("layer", description="how small the skipped pieces are")
    reuse: Literal["output", "residual"] = Field(
        "output", description="what a skipped piece hands back: its last output, or its input plus its last change"
    )
    order: int = Field(
        0, ge=0, le=2, description="0 reuses the last value, 1 and 2 extrapolate through the last two or three"
    )


class UniformConfig(ScheduleConfig):
    """Whole calls at even distances, or at distances that shrink towards the end (Song et al. 2021, DDIM, D.3)."""

    spacing: Literal["even", "quadratic"] = Field(
        "even", description="quadratic: more calls where little noise is left"
    )

    every: int | None = Field(None, ge=1, le=1000, description="compute every k-th call; empty: as the ratio asks")


class RandomConfig(ScheduleConfig):
    """Units drawn at random."""


class DeepCacheConfig(ScheduleConfig):
    """Ma et al., DeepCache, CVPR 2024: between full calls only the outermost layers run."""

    granularity: Literal["layer"] = Field("layer", description="DeepCache is about layers")
    interval: int | None = Field(None, ge=1, le=1000, description="a full call every N calls; empty: as the ratio asks")
    branch: int = Field(2, ge=0, le=12, description="how many of the last up layers run in every call, less one")


class SimilarityConfig(ScheduleConfig):
    """Units rest where their outputs change least, measured on pictures drawn with the full model."""

    RUNS_MODEL: ClassVar[bool] = True

    pictures: int = Field(16, ge=1, le=1000, description="how many pictures to look at")


class SearchConfig(ScheduleConfig):
    """The best set of whole calls that a random search of a stated budget finds."""

    RUNS_MODEL: ClassVar[bool] = True

    ratio: float = Field(0.8, ge=0, le=1, description="share of MACs to remove")
    pictures: int = Field(8, ge=1, le=1000, description="how many pictures each candidate draws")
    budget: int = Field(50, ge=1, le=100_000, description="how many candidates are tried")


CONFIGS: dict[str, type[ScheduleConfig]] = {
    "uniform": UniformConfig,
    "random": RandomConfig,
    "deepcache": DeepCacheConfig,
    "similarity": SimilarityConfig,
    "search": SearchConfig,
}
AT_ONCE = tuple(method for method, config in CONFIGS.items() if not config.RUNS_MODEL)
