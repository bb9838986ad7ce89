"""What a picture is worth: measures of pictures as float tensors (B, 3, H, W) with values in [0, 1]."""

import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_kernel


def ssim(pictures: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each picture with its reference, (B,), 1 for equal ones."""
    _check(pictures, references)
    return structural_similarity_index_measure(pictures, references, data_range=1.0, reduction="none").reshape(-1)


def psnr(pictures: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each picture in dB, (B,), infinite for equal ones."""
    _check(pictures, references)
    return peak_signal_noise_ratio(pictures, references, data_range=(0.0, 1.0), reduction="none", dim=(1, 2, 3))


def ms_ssim(pictures: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Multi-scale SSIM (Wang et al. 2003), (B,), over as many of its five scales as the pictures are large enough for.

    Raises ValueError for pictures with a side of less than 11.
    """
    _check(pictures, references)
    side = min(pictures.shape[-2:])
    if side <= 10:
        raise ValueError(f"multi-scale SSIM needs pictures of at least 11 by 11, got a side of {side}")
    scales = max(count for count in range(1, 6) if side // max(1, count - 1) ** 2 > 10)  # torchmetrics' own condition
    weights = tuple(weight / sum(MS_WEIGHTS[:scales]) for weight in MS_WEIGHTS[:scales])
    return multiscale_structural_similarity_index_measure(
        pictures, references, data_range=1.0, reduction="none", betas=weights
    ).reshape(-1)


def lpips(pictures: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Learned perceptual distance (Zhang et al. 2018, AlexNet), (B,). Needs torchvision and its AlexNet weights."""
    _check(pictures, references)
    from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity

    return learned_perceptual_image_patch_similarity(pictures, references, reduction="none", normalize=True).reshape(-1)


def lpips_missing() -> str | None:
    """Why LPIPS cannot be measured here; None where it can."""
    if importlib.util.find_spec("torchvision") is None:
        return "LPIPS needs torchvision, which is not installed; the other measures do without it"
    return None


# measures of a picture against a reference picture: name -> function
IMAGE_MEASURES = {"ssim": ssim, "psnr": psnr}
EVERY_MEASURE = {**IMAGE_MEASURES, "ms_ssim": ms_ssim}  # of an evaluation; LPIPS comes to them where it can be had
MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
PAPER = 0.1  # what differs from white by less is taken for paper
LEAST_BOX = 0.7  # of the side: a box that every measure is defined in


def drawn_box(picture: torch.Tensor) -> tuple[slice, slice]:
    """Rows and columns of what is drawn on white in a picture (3, H, W); at least LEAST_BOX of each side.

    White borders agree whatever the drawing, so they flatter every measure; all of them are given inside this box too.
    """
    drawn = (picture < 1 - PAPER).any(dim=0)
    return tuple(_stretch(drawn.any(dim=dim)) for dim in (1, 0))


def _stretch(occupied: torch.Tensor) -> slice:
    """The stretch from the first to the last True, widened around its middle as far as the least box asks."""
    size = len(occupied)
    where = occupied.nonzero().flatten()
    first, end = (int(where[0]), int(where[-1]) + 1) if len(where) else (0, size)
    missing = max(0, math.ceil(LEAST_BOX * size) - (end - first))
    first = min(max(0, first - missing // 2), size - (end - first) - missing)
    return slice(first, max(end, first + math.ceil(LEAST_BOX * size)))


def boxed(measure: Callable, pictures: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """A measure of each picture inside the box of what its reference draws, (B,)."""
    _check(pictures, references)
    parts = []
    for picture, reference in zip(pictures, references, strict=True):
        rows, columns = drawn_box(reference)
        parts.append(measure(picture[None, :, rows, columns], reference[None, :, rows, columns]))
    return torch.cat(parts)


def _check(pictures: torch.Tensor, references: torch.Tensor) -> None:
    if pictures.shape != references.shape or pictures.ndim != 4:
        raise ValueError(f"need two equal batches (B, 3, H, W), got {tuple(pictures.shape)}, {tuple(references.shape)}")


def clip_score(pictures: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """100 x cosine of each picture's embedding with its caption's, both (B, D); (B,)."""
    if pictures.shape != texts.shape:
        raise ValueError(f"need as many captions as pictures, got {tuple(pictures.shape)} and {tuple(texts.shape)}")
    return 100 * F.cosine_similarity(pictures, texts, dim=-1)


@dataclass(frozen=True)
class Retrieval:
    """Shares of the pictures whose own caption came first, or among the first five, and their number."""

    top1: float
    top5: float
    n: int


def retrieval(
    pictures: torch.Tensor,
    texts: torch.Tensor,
    own: Sequence[int],
    synonyms: Sequence[Sequence[int]] = (),
) -> Retrieval:
    """Rank of each picture's own caption among all captions by cosine.

    `pictures` (B, D) and `texts` (N, D) are embeddings, `own` the caption index of each picture. Captions listed
    together in `synonyms` count as one, with the best cosine among them. A tie counts against the picture.
    """
    found = ranks(pictures, texts, own, synonyms)
    return Retrieval((found < 1).double().mean().item(), (found < 5).double().mean().item(), len(found))


def ranks(
    pictures: torch.Tensor, texts: torch.Tensor, own: Sequence[int], synonyms: Sequence[Sequence[int]] = ()
) -> torch.Tensor:
    """How many captions come before each picture's own, (B,) int; see `retrieval`."""
    if len(own) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures but {len(own)} caption indices")
    if len(pictures) == 0:
        raise ValueError("retrieval needs at least one picture")
    groups = _leaders(len(texts), synonyms)
    cosine = F.normalize(pictures.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T
    best = torch.full((len(pictures), int(groups.max()) + 1), -torch.inf)
    best.scatter_reduce_(1, groups.expand(len(pictures), -1), cosine, "amax")
    mine = best.gather(1, groups[list(own)][:, None])
    return (best >= mine).sum(1) - 1


def _leaders(count: int, synonyms: Sequence[Sequence[int]]) -> torch.Tensor:
    """For each caption the index of the group it is merged into, groups numbered from 0."""
    leader = list(range(count))
    for group in synonyms:
        for member in group:
            leader[member] = leader[group[0]]
    return torch.unique(torch.tensor(leader), return_inverse=True)[1]


def kid(features: torch.Tensor, real: torch.Tensor) -> float:
    """Kernel inception distance (Binkowski et al. 2018): unbiased squared MMD of features (N, D) and (M, D).

    The cubic kernel (f.g / D + 1)^3, over all pairs instead of random subsets, so that it has one value. It may be
    slightly negative. Raises ValueError for fewer than two of either.
    """
    if min(len(features), len(real)) < 2:
        raise ValueError(f"KID needs two pictures of each kind, got {len(features)} and {len(real)}")
    features, real = features.double(), real.double()
    inside = [kernel.sum() - kernel.trace() for kernel in (poly_kernel(features, features), poly_kernel(real, real))]
    n, m = len(features), len(real)
    across = poly_kernel(features, real).mean()
    return float(inside[0] / (n * (n - 1)) + inside[1] / (m * (m - 1)) - 2 * across)


def fid(features: torch.Tensor, real: torch.Tensor) -> float | None:
    """Frechet inception distance (Heusel et al. 2017) of features (N, D) and (M, D).

    None where either has fewer than 10 D rows: the covariance would be noise.
    """
    if min(len(features), len(real)) < 10 * features.shape[1]:
        return None
    moments = [(some.mean(0), some.T.cov()) for some in (features.double(), real.double())]
    return float(_compute_fid(*moments[0], *moments[1]))


class Judge:
    """A CLIP encoder of pictures and texts, loaded from a folder in CLIPModel layout (assets/emoji-judge).

    Raises FileNotFoundError if the folder holds no such model.
    """

    def __init__(self, folder: Path | str, device: str = "cpu"):
        from transformers import CLIPModel, CLIPTokenizer

        folder = Path(folder)
        if not (folder / "config.json").exists():
            raise FileNotFoundError(f"no CLIP encoder in {folder}")
        self.model = CLIPModel.from_pretrained(folder).to(device).eval().requires_grad_(False)
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        prepared = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        side = self.model.config.vision_config.image_size
        self.size = (side, side)
        self.mean = torch.tensor(prepared["image_mean"], device=device)[:, None, None]
        self.spread = torch.tensor(prepared["image_std"], device=device)[:, None, None]
        self.device = device

    @torch.no_grad()
    def pictures(self, pictures: torch.Tensor, batch: int = 64) -> torch.Tensor:
        """Embeddings (B, D) on the CPU, of length 1, of pictures (B, 3, H, W) in [0, 1] of any size."""
        parts = [self._embed(part.to(self.device)) for part in pictures.split(batch)]
        return F.normalize(torch.cat(parts), dim=-1)

    def _embed(self, part: torch.Tensor) -> torch.Tensor:
        if tuple(part.shape[-2:]) != self.size:
            part = F.interpolate(part, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        vision = self.model.vision_model(pixel_values=(part - self.mean) / self.spread)
        return self.model.visual_projection(vision.pooler_output).cpu()

    @torch.no_grad()
    def texts(self, texts: Sequence[str], batch: int = 256) -> torch.Tensor:
        """Embeddings (N, D) on the CPU, of length 1; what is longer than the encoder reads is cut."""
        parts = []
        for start in range(0, len(texts), batch):
            some = list(texts[start : start + batch])
            ids = self.tokenizer(some, padding="max_length", truncation=True, return_tensors="pt").input_ids
            text = self.model.text_model(input_ids=ids.to(self.device))
            parts.append(self.model.text_projection(text.pooler_output).cpu())
        return F.normalize(torch.cat(parts), dim=-1)
