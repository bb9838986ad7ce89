"""Who judges pictures: an encoder that never conditioned what drew them, with captions and real pictures to compare."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from explorer import catalogue
from explorer.evidence import inception
from explorer.metrics import Judge, clip_score, ranks

JUDGE = catalogue.ASSETS / "emoji-judge"
REAL = "real.safetensors"  # features of real pictures
CLIP = "openai/clip-vit-base-patch16"  # torchmetrics' own choice for its CLIPScore


@dataclass
class Jury:
    """Clip score, rank of the own caption, and features for KID and FID, as far as there is somebody to judge."""

    judge: Judge | None = None
    name: str | None = None
    captions: list[str] = field(default_factory=list)  # among which the own one is looked for
    synonyms: list[list[int]] = field(default_factory=list)
    real: torch.Tensor | None = None  # (M, D) features of real pictures
    missing: list[str] = field(default_factory=list)  # sentences: what cannot be said here, and why
    eyes: Any = None  # the Inception network, where it makes the features instead of the judge
    asked: bool = True  # whether the model is asked for anything that its pictures could miss

    @classmethod
    def of(cls, model: Any, real: Path | None = None) -> "Jury":
        """The jury for a model: emoji-judge for the embedded ones, OpenAI's CLIP for others where it is on disk.

        With a folder of `real` pictures, KID and FID are those of Inception features. Raises ValueError where they
        cannot be had.
        """
        found = cls._of_emoji(model) if model.id in catalogue.EMBEDDED else cls._of_clip()
        if real is None:
            return found
        eyes = inception.load()
        missing = [said for said in found.missing if not said.startswith("no KID")]
        return replace(found, eyes=eyes, real=inception.features_of(eyes, real), missing=missing)

    @classmethod
    def _of_clip(cls) -> "Jury":
        folder = _cached(CLIP)
        if folder is None:
            return cls(missing=[f"no clip score: the weights of {CLIP} are not on this machine", _NO_REAL])
        return cls(Judge(folder), CLIP, missing=[_NO_NAMES, _NO_REAL])

    @classmethod
    def _of_emoji(cls, model: Any) -> "Jury":
        known = catalogue.vocabulary(model.id)
        asked = any(known["names"])
        captions, synonyms = list(known["names"]) if asked else [], []
        for name, words in known["also"].items():
            synonyms.append([captions.index(name), *range(len(captions), len(captions) + len(words))])
            captions += words
        own = catalogue.ASSETS / model.id / REAL
        file = own if own.is_file() else JUDGE / REAL
        real = load_file(file)["features"] if file.is_file() else None
        missing = [] if real is not None else ["no KID and FID: make the real pictures' features with `make train`"]
        missing += [] if asked else ["no clip score and no retrieval: this model is asked for nothing"]
        return cls(Judge(JUDGE), JUDGE.name, captions, synonyms, real, missing, asked=asked)

    def look(self, pictures: torch.Tensor, prompts: Sequence[str]) -> dict[str, Sequence[Any]]:
        """What it says of pictures (B, 3, H, W) in [0, 1]: `clip_score`, `rank` (None for captions it does not know
        among its own) and `features`; nothing without a judge and eyes."""
        seen = {} if self.eyes is None else {"features": list(inception.features(self.eyes, pictures).numpy())}
        if self.judge is None:
            return seen
        features = self.judge.pictures(pictures)
        if not self.asked:
            return {"features": list(features.numpy())} | seen
        own = self.judge.texts(prompts)
        rank: list[int | None] = [None] * len(prompts)
        known = [index for index, prompt in enumerate(prompts) if prompt in self.captions]
        if known:
            places = [self.captions.index(prompts[index]) for index in known]
            found = ranks(features[known], self.texts, places, self.synonyms).tolist()
            rank = [dict(zip(known, found, strict=True)).get(index) for index in range(len(prompts))]
        return {
            "clip_score": clip_score(features, own).numpy(),
            "rank": rank,
            "features": list(features.numpy()),
        } | seen

    @cached_property
    def texts(self) -> torch.Tensor:
        """Embeddings (N, D) of the captions."""
        return self.judge.texts(self.captions)


_NO_NAMES = "no retrieval: this model has no list of names to choose from"
_NO_REAL = "no KID and FID: name a folder of real pictures of this model's kind with --real"


def _cached(repo: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def keep_real(pictures: np.ndarray, judge: Judge, folder: Path) -> None:
    """Write the judge's features of real pictures, uint8 (N, H, W, 3), beside its weights, or beside those of a model
    whose pictures are of another kind."""
    shown = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    save_file({"features": judge.pictures(shown)}, folder / REAL)
