"""Summarizes the rows of an evaluation: means with intervals, paired differences, speed-ups. Torch is for KID only."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from explorer.evaluation.results import SAMPLE

RESAMPLES = 2_000
NUM_HALVES = 50  # random halves of the pictures, from which the spread of KID is estimated
CANDIDATE = ("model", "method", "ratio", "settings", "sampler", "steps", "kept", "macs", "params")
NOT_MEASURES = {*CANDIDATE, *SAMPLE, "key", "batch", "error", "features", "rank", "loop_seconds", "seconds"}


class Interval(NamedTuple):
    """A mean and the 95 % bootstrap interval around it."""

    mean: float
    low: float
    high: float


def interval(values: np.ndarray, prompts: np.ndarray, seed: int = 0) -> Interval:
    """Compute the mean of `values` (N,) with a bootstrap over prompts: pictures of one prompt are resampled together.

    With a single prompt the pictures themselves are resampled.
    """
    _, owner = np.unique(prompts, return_inverse=True)
    owner = owner if owner.max() > 0 else np.arange(len(values))
    sums, counts = np.bincount(owner, values), np.bincount(owner)
    drawn = np.random.default_rng(seed).integers(0, len(counts), (RESAMPLES, len(counts)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return Interval(float(values.mean()), *(float(edge) for edge in np.percentile(means, [2.5, 97.5])))


class PairedDifference(NamedTuple):
    """One candidate minus another on the same pictures: mean with interval, and how often it is the higher one."""

    mean: float
    low: float
    high: float
    higher: int
    lower: int
    equal: int
    n: int


def paired_difference(rows: pd.DataFrame, one: str, other: str, measure: str) -> PairedDifference:
    """Compute `one` minus `other`, both keys. Raises ValueError where they share no picture."""
    sound = rows[rows.error.isna() & rows[measure].notna()]
    first, second = (sound[sound.key == key].set_index([*SAMPLE])[measure] for key in (one, other))
    both = pd.concat([first, second], axis=1, join="inner", keys=("one", "other"))
    if both.empty:
        raise ValueError(f"{one} and {other} have no picture in common that has the measure {measure}")
    values = (both.one - both.other).to_numpy(float)
    found = interval(values, both.index.get_level_values("prompt").to_numpy())
    higher, lower = int((values > 0).sum()), int((values < 0).sum())
    return PairedDifference(*found, higher, lower, int((values == 0).sum()), len(values))


def summarize(rows: pd.DataFrame, real: Any = None) -> pd.DataFrame:
    """Make one row per candidate, in the order in which they first appear.

    Columns: what it is; `n` pictures and how many `failed` (with the first `error`); the mean of each measure with
    `_low` and `_high`; `retrieval_top1` and `_top5` likewise; `kid` with `kid_spread`, and `fid`, against the features
    `real` (M, D); median `loop_seconds` and `seconds` per picture, and the median `speedup` of the loop over the full
    run of the same batch.
    """
    whole = rows[rows.method == "full"]
    return pd.DataFrame([_summarize_one(own, whole, real) for _, own in rows.groupby("key", sort=False)])


def _summarize_one(own: pd.DataFrame, whole: pd.DataFrame, real: Any) -> dict[str, Any]:
    sound, first = own[own.error.isna()], own.iloc[0]
    found = {name: first[name] for name in ("key", *CANDIDATE)}
    found |= {"n": len(sound), "failed": len(own) - len(sound), "error": next(iter(own.error.dropna()), None)}
    if sound.empty:
        return found
    prompts = sound.prompt.to_numpy()
    measures = {name: sound[name] for name in sound.columns if name not in NOT_MEASURES and sound[name].notna().any()}
    if "rank" in sound and sound["rank"].notna().any():
        ranked = sound["rank"].astype(float)
        measures |= {f"retrieval_top{k}": (ranked < k).where(ranked.notna()) for k in (1, 5)}
    for name, values in measures.items():
        there = values.notna().to_numpy()
        mean, low, high = interval(values.to_numpy(float)[there], prompts[there])
        found |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return found | _distances(sound, real) | _speed(sound, whole)


def _distances(sound: pd.DataFrame, real: Any) -> dict[str, float | None]:
    """Compute KID and FID to real pictures, where there are enough of both."""
    if real is None or "features" not in sound or len(sound) < 4:
        return {"kid": None, "kid_spread": None, "fid": None}
    import torch

    from explorer.measures import metrics

    features, rng = torch.from_numpy(np.stack(sound.features.to_list())), np.random.default_rng(0)
    # halves drawn without replacement vary as much as wholes would: sigma^2 / (n/2) (1 - 1/2) = sigma^2 / n
    halves = [rng.choice(len(features), len(features) // 2, replace=False) for _ in range(NUM_HALVES)]
    spread = float(np.std([metrics.kid(features[half], real) for half in halves], ddof=1))
    return {"kid": metrics.kid(features, real), "kid_spread": spread, "fid": metrics.fid(features, real)}


def _speed(sound: pd.DataFrame, whole: pd.DataFrame) -> dict[str, float | None]:
    by_batch, own = (some.groupby("batch").loop_seconds.median() for some in (whole, sound))
    ratio = (by_batch / own).dropna()
    return {
        "loop_seconds": float(sound.loop_seconds.median()),
        "seconds": float(sound.seconds.median()),
        "speedup": float(ratio.median()) if len(ratio) else None,
        "speedup_low": float(ratio.min()) if len(ratio) else None,
        "speedup_high": float(ratio.max()) if len(ratio) else None,
    }
