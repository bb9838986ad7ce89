"""What a denoiser's output means, so that an output of one call can be used at another.

A noise prediction that is reused as it is makes a skipped call exactly a step of a coarser DDIM. A v-prediction or a
prediction of the sample has to be expressed anew for the timestep and the input of the current call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Prediction:
    """What a denoiser's output means: x = alpha x0 + sigma epsilon, and the output is one of `KINDS` of it.

    Raises ValueError for a kind that is not known.
    """

    kind: str
    sigma_of_t: Callable[[float], float] = lambda _: 0.0  # timestep -> sigma / alpha; a flow needs none
    sign: int = 1  # of the output
    x0_scale: float = 1.0  # what x0 is divided by in the equation

    KINDS = ("epsilon", "v_prediction", "sample", "flow_prediction")

    @classmethod
    def of(cls, scheduler: Any) -> "Prediction":
        """Read it from a diffusers scheduler. Raises ValueError for a prediction type that is not known, and for a
        scheduler whose noise levels are not."""
        if type(scheduler).__name__.startswith("FlowMatch"):
            return cls("flow_prediction")
        kind = scheduler.config.get("prediction_type", "epsilon")
        if kind not in cls.KINDS:
            raise ValueError(f"prediction type {kind!r} is unknown; known are {', '.join(cls.KINDS)}")
        if "sigma_data" in scheduler.config:
            return cls._of_edm(kind, scheduler.config.sigma_data)
        alphas = getattr(scheduler, "alphas_cumprod", None)
        if alphas is None:
            raise ValueError(
                f"the noise levels of a {type(scheduler).__name__} are not known; choose another scheduler"
            )
        alphas = torch.as_tensor(alphas).double().cpu().numpy()
        with np.errstate(divide="ignore"):  # the noisiest level may be noise only
            return cls(kind, partial(_interpolate, np.sqrt((1 - alphas) / alphas)))

    @classmethod
    def _of_edm(cls, kind: str, sigma_data: float) -> "Prediction":
        """Karras et al. 2022, table 1: the network sees x / sqrt(sigma^2 + sigma_data^2) at the timestep ln(sigma) / 4.

        With x0 / sigma_data in the place of x0, what they call F is -v, and v where diffusers says `v_prediction`.
        """
        sign = -1 if kind == "epsilon" else 1
        return cls("v_prediction", lambda t: float(np.exp(4 * t)) / sigma_data, sign, sigma_data)

    def _levels(self, timestep: Any) -> tuple[float, float]:
        """Compute alpha and sigma at a timestep."""
        ratio = self.sigma_of_t(float(torch.as_tensor(timestep).flatten()[0]))
        if np.isinf(ratio):
            return 0.0, 1.0
        alpha = (1 + ratio**2) ** -0.5
        return alpha, ratio * alpha

    @property
    def reads_input(self) -> bool:
        """Whether the output of a call means something else with another input."""
        return self.kind not in ("epsilon", "flow_prediction")

    def to_epsilon(self, output: torch.Tensor, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        """Convert an output (B, C, H, W) to what a later call may reuse: epsilon, or a flow's velocity as it is.

        sample: the input (B, D, H, W), whose first channels are the latents where there are more (a mask, a picture).
        A predicted variance, channels after those of the input, stays as it is. Where there is no noise, a predicted
        sample says nothing of it: that epsilon is 0, and no call comes after it.
        """
        if not self.reads_input:
            return output
        alpha, sigma = self._levels(timestep)
        x, y, variance = _align(sample, output)
        y = self.sign * y
        if self.kind == "v_prediction":
            return torch.cat([alpha * y + sigma * x, variance], 1)
        return torch.cat([(x - alpha * y) / sigma if sigma else torch.zeros_like(x), variance], 1)

    def from_epsilon(self, quantity: torch.Tensor, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        """Convert it back to the output of a call at `timestep` with the input `sample` (B, D, H, W).

        Raises ValueError where the input is noise only, of which an epsilon says no picture.
        """
        if not self.reads_input:
            return quantity
        alpha, sigma = self._levels(timestep)
        if not alpha:
            raise ValueError(
                f"at timestep {_number(timestep)} the input is noise only (zero terminal SNR), so that no earlier "
                "call's estimate can take its place; a schedule must compute that call"
            )
        x, epsilon, variance = _align(sample, quantity)
        x0 = (x - sigma * epsilon) / alpha
        output = alpha * epsilon - sigma * x0 if self.kind == "v_prediction" else x0
        return torch.cat([self.sign * output, variance], 1).to(sample.dtype)

    def pred_original_sample(self, output: torch.Tensor, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        """Estimate x0 from an output (B, C, H, W): what a preview decodes. A flow's timestep counts thousandths.

        Raises ValueError where the model predicts noise and the input is nothing else.
        """
        if self.kind == "sample":
            return output
        if self.kind == "flow_prediction":
            return sample - float(torch.as_tensor(timestep).flatten()[0]) / 1000 * output
        alpha, sigma = self._levels(timestep)
        if self.kind == "v_prediction":
            x0 = alpha * sample.double() - sigma * self.sign * output.double()
            return (self.x0_scale * x0).to(sample.dtype)
        if not alpha:
            raise ValueError(
                f"at timestep {_number(timestep)} the input is noise only (zero terminal SNR), where a model that "
                "predicts the noise says nothing of the picture; it needs prediction_type v_prediction or sample"
            )
        return ((sample - sigma * output) / alpha).to(sample.dtype)


def _align(sample: torch.Tensor, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split what belongs together, in double precision: the latents of an input, the output for them, and the rest of
    the output."""
    channels = min(sample.shape[1], output.shape[1])
    return sample[:, :channels].double(), output[:, :channels].double(), output[:, channels:].double()


def _interpolate(levels: np.ndarray, t: float) -> float:
    """Read sigma / alpha at a timestep; between two training timesteps it is linear, as Euler's samplers have it."""
    if t == int(t) and 0 <= t < len(levels):  # an infinite neighbour would make it not a number
        return float(levels[int(t)])
    return float(np.interp(t, np.arange(len(levels)), levels))


def _number(timestep: Any) -> str:
    return f"{float(torch.as_tensor(timestep).flatten()[0]):g}"
