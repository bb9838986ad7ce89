"""The metrics, one row each: evaluation, page and gallery read the rows. Loads no torch."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """One metric. `kind` says what it is computed from: a picture and its `reference`, the embeddings of a picture and
    its prompt by a second model (`encoder`), or the features of a whole `set` of pictures."""

    name: str
    label: str
    kind: Literal["reference", "encoder", "set"]
    unit: str
    digits: int
    higher_is_better: bool
    help: str
    best: float = float("inf")  # larger values are clamped to it, so that means stay finite
    on_page: bool = False  # whether it is fast enough for every picture of the page
    in_box: bool = False  # whether page and gallery give it inside the box of what is drawn
    needs: str | None = None  # a package that must be installed
    weights: str | None = None  # a file that must be among PyTorch's checkpoints

    @property
    def function(self) -> Callable[..., Any]:
        """The function of `measures.metrics` that computes it."""
        return getattr(import_module("explorer.measures.metrics"), self.name)

    def on_pictures(self, pictures: Any, references: Any) -> Any:
        """Compute it as page and gallery give it, of pictures (B, 3, H, W); (B,)."""
        from explorer.measures.metrics import in_foreground

        compute = partial(in_foreground, self.function) if self.in_box else self.function
        return compute(pictures, references).clamp(max=self.best)

    @property
    def page_column(self) -> str:
        """The column of an evaluation that page and gallery show."""
        return f"{self.name}_box" if self.in_box else self.name

    @property
    def missing(self) -> str | None:
        """Why it cannot be computed here; None where it can."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"{self.label} needs {self.needs}, which is not installed; the other metrics do without it"
        if self.weights and not (checkpoints() / self.weights).is_file():
            return f"{self.label} needs the file {self.weights} in {checkpoints()}; the other metrics do without it"
        return None

    def format(self, value: float | None) -> str:
        """Write a value with its digits and unit; a dash for none."""
        if value is None:
            return "–"
        return f"{value:.{self.digits}f}{' ' + self.unit if self.unit else ''}"


def checkpoints() -> Path:
    """Find the folder where PyTorch keeps weights that it has downloaded."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


_SSIM = "Structural similarity to the original: 1 is the same picture."
_PSNR = (
    "Distance to the original in decibels, inside the box of what is drawn: 6 dB more is half the error; above 40 dB "
    "no difference is visible."
)
_NAMED = "How often a second network, which never taught the first, has the right name among its five first guesses."
_CLIP = "How near picture and prompt are for a second network: 100 times the cosine of their features."
_LPIPS = "Learned perceptual distance (Zhang et al. 2018)."
ALEXNET = "alexnet-owt-7be5be79.pth"  # as torchvision.models.alexnet(weights="DEFAULT") downloads it
METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("ssim", "SSIM", "reference", "", 3, True, _SSIM, on_page=True),
        Metric("psnr", "PSNR", "reference", "dB", 1, True, _PSNR, best=100.0, on_page=True, in_box=True),
        Metric("ms_ssim", "MS-SSIM", "reference", "", 3, True, "SSIM over several scales (Wang et al. 2003)."),
        Metric("lpips", "LPIPS", "reference", "", 3, False, _LPIPS, needs="torchvision", weights=ALEXNET),
        Metric("clip_score", "CLIP score", "encoder", "", 1, True, _CLIP),
        Metric(
            "retrieval_top1",
            "recognised (top 1)",
            "encoder",
            "",
            3,
            True,
            _NAMED.replace("among its five first guesses", "as its first guess"),
        ),
        Metric("retrieval_top5", "recognised (top 5)", "encoder", "", 3, True, _NAMED),
        Metric("kid", "KID", "set", "", 4, False, "Kernel inception distance to real pictures."),
        Metric("fid", "FID", "set", "", 2, False, "Frechet inception distance to real pictures."),
    )
}
REFERENCE_METRICS = tuple(metric for metric in METRICS.values() if metric.kind == "reference")
PAGE_METRICS = tuple(metric for metric in METRICS.values() if metric.on_page)
