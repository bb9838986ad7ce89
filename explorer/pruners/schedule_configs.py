"""The settings of the methods for schedules: default, range and one line of help per field. Loads no torch.

Command-line flags, page controls and the provenance in a file are all generated from these.
"""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from explorer.masks.learned_coefficients import MAX_VALUES

ORDER = "0 reuses the last value, 1 and 2 extrapolate through the last two or three"
MAX_EXTRAPOLATION = "how many calls ahead orders 1 and 2 extrapolate at most; empty: any number"
SamplerName = Literal["ddim", "dpm++", "unipc", "deis", "pndm", "euler", "lcm"]
SAMPLER_NAMES: tuple[str, ...] = get_args(SamplerName)
SAMPLER_TITLES = dict(
    zip(SAMPLER_NAMES, ("DDIM", "DPM-Solver++", "UniPC", "DEIS", "PNDM", "Euler", "LCM"), strict=True)
)
CHECKPOINTING = (
    "what is kept for the backward pass: what goes from one call to the next, the same at every sqrt(T)-th call only, "
    "or every activation"
)


class MethodConfig(BaseModel):
    """What the settings of all methods have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    def num_tasks(self) -> int:
        """How many tasks can be done at the same time, by as many workers."""
        return 1


class ScheduleConfig(MethodConfig):
    """What every schedule is made for. `steps` and `sampler` are called as in the file's header and on the command
    line."""

    steps: int = Field(25, ge=1, le=1000, description="denoising steps of the full run")
    sampler: SamplerName = Field("ddim", description="sampler of the full run")
    guidance: float = Field(7.5, ge=0, le=100, description="classifier-free guidance; at most 1 switches it off")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed of the method's random numbers")
    ratio: float | None = Field(
        None, ge=0, le=1, description="share of MACs to remove; empty: an importance for all ratios"
    )
    granularity: Literal["stage", "layer", "module"] = Field("layer", description="how small the skipped pieces are")
    reuse: Literal["output", "residual"] = Field(
        "output", description="what a skipped piece hands back: its last output, or its input plus its last change"
    )
    order: int = Field(0, ge=0, le=2, description=ORDER)
    max_extrapolation: int | None = Field(None, ge=1, le=1000, description=MAX_EXTRAPOLATION)


class UniformConfig(ScheduleConfig):
    """Whole calls at even distances, or denser towards the end (Song et al. 2021, DDIM, D.3) or towards both ends."""

    spacing: Literal["even", "quadratic", "ends"] = Field(
        "even", description="quadratic: more calls where little noise is left; ends: there, and where all is noise"
    )
    interval: int | None = Field(None, ge=1, le=1000, description="compute every k-th call; empty: as the ratio asks")


class RandomConfig(ScheduleConfig):
    """Random units."""


class DeepCacheConfig(ScheduleConfig):
    """Ma et al., DeepCache, CVPR 2024: between full calls only the outermost layers run."""

    granularity: Literal["layer"] = Field("layer", description="DeepCache skips layers")
    interval: int | None = Field(None, ge=1, le=1000, description="a full call every N calls; empty: as the ratio asks")
    branch: int = Field(2, ge=0, le=30, description="how many of the last up layers run in every call, minus one")


class SimilarityConfig(ScheduleConfig):
    """Units are skipped where their outputs change least, measured on pictures of the full model."""

    num_images: int = Field(16, ge=1, le=1000, description="how many pictures to measure on")


class ExtrapolationConfig(MethodConfig):
    """Coefficients of a schedule's skipped units, by least squares on its own run."""

    num_images: int = Field(8, ge=1, le=64, description="pictures that are generated, in one batch")
    values: int = Field(3, ge=1, le=MAX_VALUES, description="how many of the last computed values are combined")
    ridge: float = Field(
        1e-3, ge=0, le=1e30, description="how strongly coefficients are drawn to those of the polynomial"
    )
    distance: float = Field(
        0.05, ge=0.01, le=1, description="of an importance: from one ratio that is fitted at to the next"
    )
    seed: int = Field(2**30, ge=0, le=2**32 - 1, description="seed of the first picture's noise")


class PlannedConfig(ScheduleConfig):
    """The whole calls between which extrapolation errs least in a full run, by dynamic programming (as DPCache and
    LeMiCa plan)."""

    order: int = Field(1, ge=0, le=2, description=ORDER)
    max_extrapolation: int | None = Field(1, ge=1, le=1000, description=MAX_EXTRAPOLATION)
    num_images: int = Field(8, ge=1, le=1000, description="how many pictures of the full run are planned on")
    gain: Literal["spread", "step", "open", "closed"] = Field(
        "closed",
        description="what an error of a call counts: by how much the latents' spread grows after it, its own step "
        "alone, what the sampler makes of it, or what sampler and network make of it (gradients)",
    )
    error: Literal["squares", "landing"] = Field(
        "landing", description="sum of a gap's squared errors, or where all of them together lead"
    )


class SearchConfig(ScheduleConfig):
    """The best set of whole calls that a local search of a stated budget finds."""

    ratio: float = Field(0.8, ge=0, le=1, description="share of MACs to remove")
    num_images: int = Field(8, ge=1, le=1000, description="how many pictures each candidate generates")
    budget: int = Field(50, ge=1, le=100_000, description="how many candidates are tried")
    candidates_per_round: int = Field(
        1, ge=1, le=1000, description="candidates that come from the same best ones and are tried at the same time"
    )

    @property
    def num_tasks(self) -> int:
        return self.candidates_per_round


class GeneticConfig(SearchConfig):
    """Genetic search over schedules of any units, from even, quadratic and random ones (DiP-GO's baseline, table 6)."""

    granularity: Literal["stage", "layer", "module"] = Field("stage", description="how small the skipped pieces are")
    budget: int = Field(200, ge=1, le=100_000, description="how many candidates are tried, the first ones included")
    population: int = Field(
        24, ge=4, le=100_000, description="candidates kept; with as many as the budget it is a random search"
    )


class LearningConfig(BaseModel):
    """Optimizer steps, which can be stopped between two of them."""

    iterations: int = Field(50, ge=1, le=100_000, description="optimizer steps")
    stop_after: int | None = Field(
        None, ge=1, le=100_000, description="take the result of so many of these steps; empty: of all"
    )

    @property
    def last(self) -> int:
        """Steps that are made."""
        return min(self.stop_after or self.iterations, self.iterations)


class DipgoConfig(LearningConfig, ScheduleConfig):
    """Gates learned through all calls (Zhu et al., DiP-GO, NeurIPS 2024); PUBLISHED are the paper's settings."""

    granularity: Literal["stage", "layer", "module"] = Field("layer", description="how small the gated pieces are")
    order: int = Field(1, ge=0, le=2, description=ORDER)
    max_extrapolation: int | None = Field(1, ge=1, le=1000, description=MAX_EXTRAPOLATION)
    algorithm: Literal["nested", "argmax"] = Field(
        "nested",
        description="nested: at each step the removal order's own mask at another ratio; "
        "argmax: each gate for itself, with a penalty on what it computes, as published",
    )
    parametrisation: Literal["table", "network"] = Field(
        "table", description="a free number per gate, or queries, an encoder and a head per gate, as published"
    )
    encoder: Literal["attention", "linear", "none"] = Field("attention", description="what the queries pass through")
    init: Literal["ends", "even", "quadratic", "planned", "keep"] = Field(
        "ends", description="what the gates are initialised to"
    )
    loss: Literal["latent", "l2", "l1", "ssim", "l1+ssim"] = Field(
        "latent", description="distance to the full run: of the final latents, or of the pictures"
    )
    iterations: int = Field(72, ge=1, le=100_000, description="optimizer steps")
    batch: int = Field(4, ge=1, le=256, description="pictures per step")
    micro_batch: int | None = Field(None, ge=1, le=256, description="pictures per worker at a time; empty: the batch")
    learning_rate: float = Field(0.03, gt=0, le=1000, description="learning rate; falls to 0 along a cosine")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="optimizer of the gates")
    min_ratio: float = Field(0.4, ge=0, lt=1, description="nested: the smallest ratio that is trained on")
    max_ratio: float = Field(0.95, gt=0, le=1, description="nested: the largest ratio that is trained on")
    probe_fraction: float = Field(
        0.3, gt=0, le=1, description="nested: share of the skipped calls whose gradients are computed at each step"
    )
    validate_every: int = Field(
        8, ge=0, le=100_000, description="nested: steps between two validations; the best order is taken; 0: the last"
    )
    alpha: float = Field(1.0, ge=0, le=1000, description="argmax: weight of the penalty on MACs")
    tau: float = Field(0.2, ge=0, le=1, description="argmax: share of MACs kept below which the penalty is dropped")
    cascade: bool = Field(True, description="count the MACs of a gate's whole cascade as its own")
    fresh_noise: bool = Field(
        True, description="another noise for each picture; off: one for all, as the released code has"
    )
    checkpointing: Literal["per_call", "sqrt", "none"] = Field("per_call", description=CHECKPOINTING)
    selection: Literal["rank", "sweep"] = Field(
        "rank", description="rank: one removal order for all ratios; sweep: the released code's, for one ratio"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "DipgoConfig":
        if self.min_ratio > self.max_ratio:
            raise ValueError(f"min_ratio, {self.min_ratio}, is above max_ratio, {self.max_ratio}")
        if self.algorithm == "nested" and self.loss not in ("latent", "l2"):
            raise ValueError(f"algorithm=nested needs a squared loss: latent or l2, not {self.loss}")
        if self.algorithm == "nested" and self.init == "keep":
            raise ValueError("algorithm=nested needs an order to begin with; init=planned, ends, even or quadratic")
        if self.selection == "sweep" and self.ratio is None:
            raise ValueError("selection=sweep makes one mask for one ratio; set ratio")
        return self

    @property
    def num_tasks(self) -> int:
        return -(-self.batch // (self.micro_batch or self.batch))


# Section 4.1 and appendix D of the paper; alpha, tau and the initialisation are from its text.
PUBLISHED = {
    "granularity": "stage",
    "order": 0,
    "max_extrapolation": None,
    "algorithm": "argmax",
    "parametrisation": "network",
    "encoder": "attention",
    "init": "keep",
    "loss": "ssim",
    "iterations": 1000,
    "batch": 1,
    "learning_rate": 0.1,
    "optimizer": "sgd",
}
