"""The settings of the methods for widths: default, range and one line of help per field. Loads no torch."""

from typing import Literal

from pydantic import Field

from explorer.pruners.schedule_configs import CHECKPOINTING, LearningConfig, MethodConfig, SamplerName


class WidthConfig(MethodConfig):
    """Settings of every method that removes heads, neurons or channels, for all calls."""

    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed of the method's random numbers")
    ratio: float | None = Field(
        None, ge=0, le=1, description="share of parameters to remove; empty: an importance for all ratios"
    )
    axis: Literal["heads and neurons", "channels"] = Field(
        "heads and neurons",
        description="what is removed: attention heads and feed-forward neurons, or a U-Net's channels",
    )
    prune_adaln: bool = Field(
        False,
        title="Prune AdaLN channels",
        description="also the channels of FLUX's AdaLN layers: a quarter of its parameters, next to none of its MACs",
    )
    ranking: Literal["global", "local", "blocks"] = Field(
        "global", description="heads and neurons: one order by score, the same share of every layer, or whole blocks"
    )
    round_to: int = Field(1, ge=1, le=1024, description="neurons stay in multiples of this, which fast kernels need")
    rule: Literal["paper", "torch-pruning"] = Field(
        "paper", description="channels: as many of each group of a norm, or the same positions in all groups"
    )


class MagnitudeConfig(WidthConfig):
    """Elements with small weights are removed first."""

    norm: Literal[1, 2] = Field(2, description="1: sum of the absolute weights; 2: of their squares")


class TaylorConfig(WidthConfig):
    """By how much the loss would change at timesteps of little noise (Fang et al., Diff-Pruning, NeurIPS 2023)."""

    axis: Literal["heads and neurons", "channels"] = Field("channels", description="what is removed")
    num_images: int = Field(32, ge=1, le=10_000, description="how many pictures are noised, the same at every timestep")
    steps: int = Field(25, ge=1, le=1000, description="denoising steps by which the model generates these pictures")
    sampler: SamplerName = Field("ddim", description="sampler by which the model generates them")
    guidance: float = Field(7.5, ge=0, le=100, description="guidance by which the model generates them")
    threshold: float = Field(0.05, ge=0, lt=1, description="stop where the loss is below this share of the largest")
    stop: Literal["before", "after"] = Field(
        "before", description="whether the timestep that falls below still counts; before: as the paper says"
    )
    stride: int = Field(5, ge=1, le=1000, description="distance between two timesteps; the paper uses every one")
    accumulate: Literal["signed", "absolute", "squared"] = Field(
        "signed", description="gradients over timesteps: their sum, as published, sum of sizes, or of squares (Fisher)"
    )


class EcodiffConfig(LearningConfig, WidthConfig):
    """Masks on heads and neurons, learned through all calls (Zhang et al., EcoDiff, 2024)."""

    axis: Literal["heads and neurons"] = Field("heads and neurons", description="EcoDiff prunes these")
    steps: int = Field(10, ge=1, le=1000, description="denoising steps of the full run")
    sampler: SamplerName = Field("ddim", description="sampler of the full run")
    guidance: float = Field(7.5, ge=0, le=100, description="classifier-free guidance; at most 1 switches it off")
    algorithm: Literal["gauss_newton", "hard_concrete"] = Field(
        "gauss_newton",
        description="gauss_newton: by how much each element changes the final picture, in the whole network and at "
        "other ratios; hard_concrete: masks sampled from learned logits, with a penalty on what is kept, as published",
    )
    loss_on: Literal["rollout", "single_call"] = Field(
        "rollout",
        description="hard_concrete: distance to the full run of the final latents, or of each call's output alone",
    )
    num_images: int = Field(64, ge=1, le=100_000, description="pictures that are used, again and again")
    batch: int = Field(4, ge=1, le=256, description="pictures per step")
    warmup_steps: int = Field(16, ge=1, le=100_000, description="gauss_newton: first steps, on the whole network")
    min_ratio: float = Field(0.05, ge=0, le=1, description="gauss_newton: the smallest share removed in training")
    max_ratio: float = Field(0.8, ge=0, le=1, description="gauss_newton: the largest share removed in training")
    learning_rate: float = Field(0.15, gt=0, le=100, description="hard_concrete: of AdamW, without weight decay")
    penalty: Literal["l0", "l1"] = Field(
        "l0", description="hard_concrete: expected share of parameters kept, or the released code's mean absolute logit"
    )
    penalty_weight: float = Field(0.02, ge=0, le=1000, description="hard_concrete: weight of the penalty in the loss")
    init: float = Field(3.0, ge=-100, le=100, description="hard_concrete: logit that every mask starts with")
    noise: float = Field(0.5, ge=0, le=100, description="hard_concrete: bounds the noise of masks; 0: not at all")
    checkpointing: Literal["per_call", "sqrt", "none"] = Field("per_call", description=CHECKPOINTING)


class EcodiffCheckpointConfig(WidthConfig):
    """The logits that EcoDiff's authors published for SDXL, at the shares that their code keeps."""

    axis: Literal["heads and neurons"] = Field("heads and neurons", description="EcoDiff prunes these")
    prune_adaln: Literal[False] = Field(False, description="SDXL has no AdaLN layers")
    ratio: None = Field(None, description="the shares of heads and neurons decide it")
    attention: str = Field(max_length=500, description="file with the logits of heads, attn.pt")
    feedforward: str = Field(max_length=500, description="file with the logits of neurons, ff.pt")
    heads: float = Field(0.68, ge=0, le=1, description="share of all heads that stays")
    neurons: float = Field(0.88, ge=0, le=1, description="share of all neurons that stays")
