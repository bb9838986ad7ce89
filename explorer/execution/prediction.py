"""What a denoiser's output means, so that an output of one call can be used at another.

A noise prediction that is reused as it is makes a skipped call exactly a step of a coarser DDIM. A v-prediction or a
prediction of the sample has to be expressed anew for the timestep and the input of the current call.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Prediction:
    """What a denoiser's output means: x = alpha x0 + sigma epsilon, and the output is one of `KINDS` of it.

    Raises ValueError for a kind that is not known.
    """

    kind: str
    sigma_of_t: np.ndarray | None = None  # sigma / alpha for each training timestep, (1000,)

    KINDS = ("epsilon", "v_prediction", "sample", "flow_prediction")

    @classmethod
    def of(cls, scheduler: Any) -> "Prediction":
        """Read it from a diffusers scheduler. Raises ValueError for a prediction type that is not known."""
        if type(scheduler).__name__.startswith("FlowMatch"):
            return cls("flow_prediction")
        kind = scheduler.config.get("prediction_type", "epsilon")
        if kind not in cls.KINDS:
            raise ValueError(f"prediction type {kind!r} is unknown; known are {', '.join(cls.KINDS)}")
        alphas = scheduler.alphas_cumprod.double().cpu().numpy()
        return cls(kind, np.sqrt((1 - alphas) / alphas))

    def _levels(self, timestep: Any) -> tuple[float, float]:
        """Compute alpha and sigma at a timestep; between training timesteps sigma / alpha is linear, as in Euler's."""
        t = float(torch.as_tensor(timestep).flatten()[0])
        sigmas = self.sigma_of_t if self.sigma_of_t is not None else np.zeros(1)  # a flow needs none
        ratio = float(np.interp(t, np.arange(len(sigmas)), sigmas))
        alpha = (1 + ratio**2) ** -0.5
        return alpha, ratio * alpha

    def to_epsilon(self, output: torch.Tensor, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        """Convert an output (B, C, H, W) to what a later call may reuse: epsilon, or a flow's velocity as it is."""
        if self.kind in ("epsilon", "flow_prediction"):
            return output
        alpha, sigma = self._levels(timestep)
        x, y = sample.double(), output.double()
        return alpha * y + sigma * x if self.kind == "v_prediction" else (x - alpha * y) / sigma

    def from_epsilon(self, quantity: torch.Tensor, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        """Convert it back to the output of a call at `timestep` with the input `sample` (B, C, H, W)."""
        if self.kind in ("epsilon", "flow_prediction"):
            return quantity
        alpha, sigma = self._levels(timestep)
        x0 = (sample.double() - sigma * quantity) / alpha
        return (alpha * quantity - sigma * x0 if self.kind == "v_prediction" else x0).to(sample.dtype)

    def pred_original_sample(self, output: torch.Tensor, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        """Estimate x0 from an output (B, C, H, W): what a preview decodes. A flow's timestep counts thousandths."""
        if self.kind == "flow_prediction":
            return sample - float(torch.as_tensor(timestep).flatten()[0]) / 1000 * output
        alpha, sigma = self._levels(timestep)
        return ((sample - sigma * self.to_epsilon(output, sample, timestep)) / alpha).to(sample.dtype)
