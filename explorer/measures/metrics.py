"""Metrics of pictures as float tensors (B, 3, H, W) with values in [0, 1]; `table` has a row for each of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_kernel

MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WHITE_TOLERANCE = 0.1  # what differs from white by less is background
MIN_BOX = 0.7  # of the side: a box in which every metric is defined


def ssim(pictures: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Compute the structural similarity of each picture with its reference, (B,), 1 for equal ones."""
    _check(pictures, references)
    return structural_similarity_index_measure(pictures, references, data_range=1.0, reduction="none").reshape(-1)


def psnr(pictures: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Compute the peak signal-to-noise ratio of each picture in dB, (B,), infinite for equal ones."""
    _check(pictures, references)
    return peak_signal_noise_ratio(pictures, references, data_range=(0.0, 1.0), reduction="none", dim=(1, 2, 3))


def ms_ssim(pictures: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Compute multi-scale SSIM (Wang et al. 2003), (B,), over as many of its five scales as the pictures are large
    enough for.

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
    """Compute LPIPS (Zhang et al. 2018, AlexNet), (B,). Needs torchvision and its AlexNet weights."""
    _check(pictures, references)
    from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity

    return learned_perceptual_image_patch_similarity(pictures, references, reduction="none", normalize=True).reshape(-1)


def foreground_box(picture: torch.Tensor) -> tuple[slice, slice]:
    """Find the rows and columns of what is not white in a picture (3, H, W); at least MIN_BOX of each side.

    White borders agree whatever the picture, so they flatter every metric; all of them are given inside this box too.
    """
    foreground = (picture < 1 - WHITE_TOLERANCE).any(dim=0)
    return _stretch(foreground.any(dim=1)), _stretch(foreground.any(dim=0))


def _stretch(occupied: torch.Tensor) -> slice:
    """Find the stretch from the first to the last True, widened around its middle to at least MIN_BOX."""
    size = len(occupied)
    where = occupied.nonzero().flatten()
    first, end = (int(where[0]), int(where[-1]) + 1) if len(where) else (0, size)
    missing = max(0, math.ceil(MIN_BOX * size) - (end - first))
    first = min(max(0, first - missing // 2), size - (end - first) - missing)
    return slice(first, max(end, first + math.ceil(MIN_BOX * size)))


def in_foreground(metric: Callable, pictures: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Compute a metric of each picture inside the foreground box of its reference, (B,)."""
    _check(pictures, references)
    parts = []
    for picture, reference in zip(pictures, references, strict=True):
        rows, columns = foreground_box(reference)
        parts.append(metric(picture[None, :, rows, columns], reference[None, :, rows, columns]))
    return torch.cat(parts)


def _check(pictures: torch.Tensor, references: torch.Tensor) -> None:
    if pictures.shape != references.shape or pictures.ndim != 4:
        raise ValueError(f"need two equal batches (B, 3, H, W), got {tuple(pictures.shape)}, {tuple(references.shape)}")


def clip_score(pictures: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Compute 100 x cosine of each picture's embedding with its caption's, both (B, D); (B,)."""
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
    """Rank each picture's own caption among all captions by cosine, and count how often it is among the first.

    `pictures` (B, D) and `texts` (N, D) are embeddings, `own` the caption index of each picture. Captions listed
    together in `synonyms` count as one, with the best cosine among them. A tie counts against the picture.
    """
    rank = caption_ranks(pictures, texts, own, synonyms)
    return Retrieval((rank < 1).double().mean().item(), (rank < 5).double().mean().item(), len(rank))


def caption_ranks(
    pictures: torch.Tensor, texts: torch.Tensor, own: Sequence[int], synonyms: Sequence[Sequence[int]] = ()
) -> torch.Tensor:
    """Count the captions that come before each picture's own, (B,) int; see `retrieval`."""
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
    """Find for each caption the index of the group it is merged into, groups numbered from 0."""
    leader = list(range(count))
    for group in synonyms:
        for member in group:
            leader[member] = leader[group[0]]
    return torch.unique(torch.tensor(leader), return_inverse=True)[1]


def kid(features: torch.Tensor, real: torch.Tensor) -> float:
    """Compute the kernel inception distance (Binkowski et al. 2018): unbiased squared MMD of features (N, D) and (M,
    D).

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
    """Compute the Frechet inception distance (Heusel et al. 2017) of features (N, D) and (M, D).

    None where either has fewer than 10 D rows: the covariance would be noise.
    """
    if min(len(features), len(real)) < 10 * features.shape[1]:
        return None
    moments = [(some.mean(0), some.T.cov()) for some in (features.double(), real.double())]
    return float(_compute_fid(*moments[0], *moments[1]))
