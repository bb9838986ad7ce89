"""The settings of each method: defaults, ranges and one line of help a field. Needs no torch.

Command-line flags, page controls and the provenance in a file are all generated from these.
"""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ORDER = "0 reuses the last value, 1 and 2 extrapolate through the last two or three"
REACH = "how many calls ahead orders 1 and 2 extrapolate at most; empty: any"
RULES = ("paper", "torch-pruning")  # how many channels of a layer go at a ratio; see `channels.chosen`
SAMPLERS = ("ddim", "dpm++", "unipc", "deis", "pndm", "euler", "lcm")


class ScheduleConfig(BaseModel):
    """What every schedule is made for."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    RUNS_MODEL: ClassVar[bool] = False  # whether the method looks at pictures first: minutes instead of milliseconds
    LEARNS: ClassVar[bool] = False  # whether it hands out states from which it can go on
    CHOICE: ClassVar[tuple[str, ...] | None] = None  # settings by which one of its shipped files is chosen
    pieces: ClassVar[int] = 1  # of work that there are at a time, for as many workers

    steps: int = Field(25, ge=1, le=1000, description="denoising steps of the full run")
    sampler: str = Field("ddim", max_length=20, description="sampler of the full run")
    guidance: float = Field(7.5, ge=0, le=100, description="classifier-free guidance; at most 1 switches it off")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed of whatever the method draws")
    ratio: float | None = Field(None, ge=0, le=1, description="share of MACs to remove; empty: an order for all ratios")
    granularity: Literal["stage", "layer", "module"] = Field("layer", description="how small the skipped pieces are")
    reuse: Literal["output", "residual"] = Field(
        "output", description="what a skipped piece hands back: its last output, or its input plus its last change"
    )
    order: int = Field(0, ge=0, le=2, description=ORDER)
    reach: int | None = Field(None, ge=1, le=1000, description=REACH)


SPACINGS = ("even", "quadratic", "ends")


class UniformConfig(ScheduleConfig):
    """Whole calls at even distances, or at shorter ones towards the end (Song et al. 2021, DDIM, D.3) or both ends."""

    spacing: Literal["even", "quadratic", "ends"] = Field(
        "even", description="quadratic: more calls where little noise is left; ends: there, and where all is noise"
    )
    every: int | None = Field(None, ge=1, le=1000, description="compute every k-th call; empty: as the ratio asks")


class RandomConfig(ScheduleConfig):
    """Units drawn at random."""


class DeepCacheConfig(ScheduleConfig):
    """Ma et al., DeepCache, CVPR 2024: between full calls only the outermost layers run."""

    granularity: Literal["layer"] = Field("layer", description="DeepCache is about layers")
    interval: int | None = Field(None, ge=1, le=1000, description="a full call every N calls; empty: as the ratio asks")
    branch: int = Field(2, ge=0, le=30, description="how many of the last up layers run in every call, less one")


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
    brood: int = Field(1, ge=1, le=1000, description="candidates that come from the same best ones, side by side")

    @property
    def pieces(self) -> int:
        return self.brood


class GeneticConfig(SearchConfig):
    """Schedules of any units, bred from even, quadratic and random ones (the paper's rival of DiP-GO, table 6)."""

    granularity: Literal["stage", "layer", "module"] = Field("stage", description="how small the skipped pieces are")
    budget: int = Field(200, ge=1, le=100_000, description="how many candidates are tried, the first ones included")
    population: int = Field(24, ge=4, le=100_000, description="candidates kept; as many as the budget: random search")


class LearningConfig(BaseModel):
    """Optimizer steps, which can be stopped between two of them."""

    LEARNS: ClassVar[bool] = True

    iterations: int = Field(50, ge=1, le=100_000, description="optimizer steps")
    end: int | None = Field(None, ge=1, le=100_000, description="take what so many of these steps find; empty: all")

    @property
    def last(self) -> int:
        """Steps that are made."""
        return min(self.end or self.iterations, self.iterations)


class DipgoConfig(LearningConfig, ScheduleConfig):
    """Gates learned through the whole chain (Zhu et al., DiP-GO, NeurIPS 2024); PUBLISHED are the paper's settings."""

    RUNS_MODEL: ClassVar[bool] = True
    CHOICE: ClassVar[tuple[str, ...] | None] = ("decision",)

    granularity: Literal["stage", "layer", "module"] = Field("layer", description="how small the gated pieces are")
    order: int = Field(1, ge=0, le=2, description=ORDER)
    reach: int | None = Field(1, ge=1, le=1000, description=REACH)
    decision: Literal["prefix", "argmax"] = Field(
        "prefix",
        description="prefix: at each step the removal order's own mask at a ratio drawn anew; "
        "argmax: each gate for itself, against a price for what it computes, as published",
    )
    parametrisation: Literal["table", "network"] = Field(
        "table", description="a free number a gate, or queries, an encoder and a head a gate, as published"
    )
    encoder: Literal["attention", "linear", "none"] = Field("attention", description="what the queries pass through")
    start: Literal["ends", "even", "quadratic", "keep"] = Field("ends", description="what the gates say at first")
    loss: Literal["latent", "l2", "l1", "ssim", "l1+ssim"] = Field(
        "latent", description="distance to the full run: of the final latents, or of the pictures"
    )
    iterations: int = Field(72, ge=1, le=100_000, description="optimizer steps")
    batch: int = Field(4, ge=1, le=256, description="pictures a step")
    share: int | None = Field(None, ge=1, le=256, description="pictures that one worker takes at once; empty: all")
    rate: float = Field(0.03, gt=0, le=1000, description="learning rate; falls to 0 along a cosine")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="of the gates")
    lowest: float = Field(0.4, ge=0, lt=1, description="prefix: the smallest ratio that is drawn")
    highest: float = Field(0.95, gt=0, le=1, description="prefix: the largest ratio that is drawn")
    look: float = Field(0.3, gt=0, le=1, description="prefix: share of the skipped calls tried out at each step")
    checks: int = Field(
        8, ge=0, le=100_000, description="prefix: steps between two trials of the order; the best is taken; 0: the last"
    )
    alpha: float = Field(1.0, ge=0, le=1000, description="argmax: weight of the price")
    tau: float = Field(0.2, ge=0, le=1, description="argmax: share of MACs kept below which the price is dropped")
    cascade: bool = Field(True, description="count with each gate what falls with it")
    fresh_noise: bool = Field(True, description="a noise for each picture; off: one for all, as the released code has")
    memory: Literal["step", "nested", "plain"] = Field(
        "step", description="what is kept for the way back: every call's ends, every sqrt(T)-th call's, or everything"
    )
    selection: Literal["order", "sweep"] = Field(
        "order", description="order: one nested order for all ratios; sweep: the released code's, for one ratio"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "DipgoConfig":
        if self.lowest > self.highest:
            raise ValueError(f"the smallest ratio drawn, {self.lowest}, is above the largest, {self.highest}")
        if self.decision == "prefix" and self.loss not in ("latent", "l2"):
            raise ValueError(f"a prefix weighs what gates move, by a squared loss: latent or l2, not {self.loss}")
        if self.decision == "prefix" and self.start == "keep":
            raise ValueError("a prefix needs an order to begin with; start=ends, start=even or start=quadratic")
        if self.selection == "sweep" and self.ratio is None:
            raise ValueError("the sweep makes one mask for one ratio; say which")
        return self

    @property
    def pieces(self) -> int:
        return -(-self.batch // (self.share or self.batch))


class WidthConfig(BaseModel):
    """Which heads, neurons, rows or channels go, for all calls."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    RUNS_MODEL: ClassVar[bool] = True  # it needs the weights
    LEARNS: ClassVar[bool] = False
    pieces: ClassVar[int] = 1

    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed of whatever the method draws")
    ratio: float | None = Field(None, ge=0, le=1, description="share of parameters to remove; empty: for all ratios")
    axis: Literal["heads and neurons", "channels"] = Field(
        "heads and neurons", description="what goes: attention heads and feed-forward neurons, or a U-Net's channels"
    )
    rows: bool = Field(
        False,
        description="also FLUX's AdaLN rows, counted apart: a quarter of its parameters, next to none of its MACs",
    )
    ranking: Literal["global", "local", "blocks"] = Field(
        "global", description="heads and neurons: one order by score, every place in equal shares, or whole blocks"
    )
    round_to: int = Field(1, ge=1, le=1024, description="neurons stay in multiples of this, as fast kernels like it")
    rule: Literal["paper", "torch-pruning"] = Field(
        "paper", description="channels: as many of each block of a norm, or the same places in all blocks"
    )


class MagnitudeConfig(WidthConfig):
    """Units whose weights are small go first."""

    norm: Literal[1, 2] = Field(2, description="1: sum of the absolute weights; 2: of their squares")


class TaylorConfig(WidthConfig):
    """What the loss would change by at timesteps of little noise (Fang et al., Diff-Pruning, NeurIPS 2023)."""

    axis: Literal["heads and neurons", "channels"] = Field("channels", description="what goes")
    pictures: int = Field(32, ge=1, le=10_000, description="how many pictures are noised, the same at every timestep")
    steps: int = Field(25, ge=1, le=1000, description="denoising steps, where the model draws these pictures itself")
    sampler: str = Field("ddim", max_length=20, description="sampler, where the model draws them itself")
    guidance: float = Field(7.5, ge=0, le=100, description="guidance, where the model draws them itself")
    threshold: float = Field(0.05, ge=0, lt=1, description="stop where the loss is below this share of the largest")
    stop: Literal["before", "after"] = Field(
        "before", description="whether the timestep that falls below still counts; before: as the paper says"
    )
    stride: int = Field(5, ge=1, le=1000, description="every so many timesteps; the paper takes each")
    accumulate: Literal["signed", "absolute", "squared"] = Field(
        "signed", description="gradients over timesteps: their sum, as published, sum of sizes, or of squares (Fisher)"
    )


class EcodiffConfig(LearningConfig, WidthConfig):
    """Masks on heads, neurons and on request rows learned through the whole chain (Zhang et al., EcoDiff, 2024)."""

    axis: Literal["heads and neurons"] = Field("heads and neurons", description="EcoDiff is about those")
    steps: int = Field(10, ge=1, le=1000, description="denoising steps of the full run")
    sampler: str = Field("ddim", max_length=20, description="sampler of the full run")
    guidance: float = Field(7.5, ge=0, le=100, description="classifier-free guidance; at most 1 switches it off")
    decision: Literal["worth", "concrete"] = Field(
        "worth",
        description="worth: what each unit moves in the final picture, in the whole network and at ratios drawn anew; "
        "concrete: masks drawn from learned logits, against a price for what is kept, as published",
    )
    distance: Literal["chain", "call"] = Field(
        "chain",
        description="concrete: to the full run, of the final latents, or of each call's output (the per-step rival)",
    )
    pictures: int = Field(64, ge=1, le=100_000, description="pictures that are looked at, again and again")
    batch: int = Field(4, ge=1, le=256, description="pictures a step")
    first: int = Field(16, ge=1, le=100_000, description="worth: steps that look at the whole network, to begin with")
    lowest: float = Field(0.05, ge=0, le=1, description="worth: the smallest share of what can go that is drawn")
    highest: float = Field(0.8, ge=0, le=1, description="worth: the largest share of what can go that is drawn")
    rate: float = Field(0.15, gt=0, le=100, description="concrete: learning rate of AdamW, without weight decay")
    price: Literal["l0", "l1"] = Field(
        "l0", description="concrete: expected share of parameters kept, or the released code's mean of the logits' size"
    )
    weight: float = Field(0.02, ge=0, le=1000, description="concrete: of the price, beside the distance")
    start: float = Field(3.0, ge=-100, le=100, description="concrete: logit of every mask at first")
    noise: float = Field(0.5, ge=0, le=100, description="concrete: bounds the noise of masks; 0: not at all")
    memory: Literal["step", "nested", "plain"] = Field(
        "step", description="what is kept for the way back: every call's ends, every sqrt(T)-th call's, or everything"
    )


class ReleasedConfig(WidthConfig):
    """The logits that EcoDiff's authors released for SDXL, at the shares of units that their code keeps."""

    RUNS_MODEL: ClassVar[bool] = False

    axis: Literal["heads and neurons"] = Field("heads and neurons", description="EcoDiff is about those")
    rows: Literal[False] = Field(False, description="SDXL has none")
    ratio: None = Field(None, description="the shares say it")
    attention: str = Field(max_length=500, description="file with the logits of heads, attn.pt")
    feedforward: str = Field(max_length=500, description="file with the logits of neurons, ff.pt")
    heads: float = Field(0.68, ge=0, le=1, description="share of all heads that stays")
    neurons: float = Field(0.88, ge=0, le=1, description="share of all neurons that stays")


# section 4.1 and appendix D of the paper; alpha, tau and the initialisation are its text's
PUBLISHED = {
    "granularity": "stage",
    "order": 0,
    "reach": None,
    "decision": "argmax",
    "parametrisation": "network",
    "encoder": "attention",
    "start": "keep",
    "loss": "ssim",
    "iterations": 1000,
    "batch": 1,
    "rate": 0.1,
    "optimizer": "sgd",
}

CONFIGS: dict[str, type[ScheduleConfig]] = {
    "uniform": UniformConfig,
    "random": RandomConfig,
    "deepcache": DeepCacheConfig,
    "similarity": SimilarityConfig,
    "search": SearchConfig,
    "genetic": GeneticConfig,
    "dipgo": DipgoConfig,
}
WIDTHS: dict[str, type[WidthConfig]] = {
    "magnitude": MagnitudeConfig,
    "random-widths": WidthConfig,
    "taylor": TaylorConfig,
    "ecodiff": EcodiffConfig,
    "ecodiff-released": ReleasedConfig,
}
AT_ONCE = tuple(method for method, config in CONFIGS.items() if not config.RUNS_MODEL)
