"""What scores pictures: an encoder that never conditioned what generated them, with captions and real pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from explorer.evaluation.inception import compute_features, folder_features, load_inception
from explorer.measures.clip_encoder import ClipEncoder
from explorer.measures.metrics import caption_ranks, clip_score
from explorer.models.catalogue import ASSETS, EMBEDDED, vocabulary
from explorer.models.model import Model

JUDGE = ASSETS / "emoji-judge"
REAL_FEATURES = "real.safetensors"  # features of real pictures
CLIP = "openai/clip-vit-base-patch16"  # torchmetrics' own choice for its CLIPScore
_NO_NAMES = "no retrieval: this model has no list of names to choose from"
_NO_REAL = "no KID and FID: name a folder of real pictures of this model's kind with --real-images"


@dataclass
class Scorers:
    """CLIP score, rank of the own caption, and features for KID and FID, as far as they can be computed here."""

    encoder: ClipEncoder | None = None
    name: str | None = None  # of the encoder
    captions: list[str] = field(default_factory=list)  # among which the own one is ranked
    synonyms: list[list[int]] = field(default_factory=list)
    real: torch.Tensor | None = None  # (M, D) features of real pictures
    missing: list[str] = field(default_factory=list)  # sentences: what cannot be computed here, and why
    inception: Any = None  # the Inception network, where it makes the features instead of the encoder
    uses_prompt: bool = True  # whether the model heeds the prompt

    @classmethod
    def of(cls, model: Model, real: Path | None = None) -> "Scorers":
        """Choose the scorers of a model: emoji-judge for the embedded ones, OpenAI's CLIP for others where it is on
        disk.

        With a folder of `real` pictures, KID and FID are those of Inception features. Raises ValueError where they
        cannot be computed.
        """
        scorers = cls._of_embedded(model) if model.id in EMBEDDED else cls._of_clip()
        if real is None:
            return scorers
        inception = load_inception()
        missing = [reason for reason in scorers.missing if not reason.startswith("no KID")]
        return replace(scorers, inception=inception, real=folder_features(inception, real), missing=missing)

    @classmethod
    def _of_clip(cls) -> "Scorers":
        folder = _cached_folder(CLIP)
        if folder is None:
            return cls(missing=[f"no clip score: the weights of {CLIP} are not on this machine", _NO_REAL])
        return cls(ClipEncoder(folder), CLIP, missing=[_NO_NAMES, _NO_REAL])

    @classmethod
    def _of_embedded(cls, model: Model) -> "Scorers":
        known = vocabulary(model.id)
        uses_prompt = any(known["names"])
        captions, synonyms = list(known["names"]) if uses_prompt else [], []
        for name, words in known["also"].items():
            synonyms.append([captions.index(name), *range(len(captions), len(captions) + len(words))])
            captions += words
        own = ASSETS / model.id / REAL_FEATURES
        file = own if own.is_file() else JUDGE / REAL_FEATURES
        real = load_file(file)["features"] if file.is_file() else None
        missing = [] if real is not None else ["no KID and FID: make the real pictures' features with `make train`"]
        missing += [] if uses_prompt else ["no clip score and no retrieval: this model is unconditional"]
        return cls(ClipEncoder(JUDGE), JUDGE.name, captions, synonyms, real, missing, uses_prompt=uses_prompt)

    def score(self, pictures: torch.Tensor, prompts: Sequence[str]) -> dict[str, Sequence[Any]]:
        """Score pictures (B, 3, H, W) in [0, 1]: `clip_score`, `rank` (None for prompts that are no captions) and
        `features`; nothing without an encoder and without Inception."""
        features: dict[str, Sequence[Any]] = {}
        if self.inception is not None:
            features = {"features": list(compute_features(self.inception, pictures).numpy())}
        if self.encoder is None:
            return features
        embeddings = self.encoder.embed_pictures(pictures)
        if not self.uses_prompt:
            return {"features": list(embeddings.numpy())} | features
        own = self.encoder.embed_texts(prompts)
        ranks: list[int | None] = [None] * len(prompts)
        known = [index for index, prompt in enumerate(prompts) if prompt in self.captions]
        if known:
            captions = [self.captions.index(prompts[index]) for index in known]
            found = caption_ranks(embeddings[known], self.caption_embeddings, captions, self.synonyms).tolist()
            ranks = [dict(zip(known, found, strict=True)).get(index) for index in range(len(prompts))]
        scores: dict[str, Sequence[Any]] = {"clip_score": clip_score(embeddings, own).tolist(), "rank": ranks}
        return scores | {"features": list(embeddings.numpy())} | features

    @cached_property
    def caption_embeddings(self) -> torch.Tensor:
        """Embeddings (N, D) of the captions."""
        if self.encoder is None:
            raise ValueError("there is no encoder of captions here")
        return self.encoder.embed_texts(self.captions)


def _cached_folder(repo: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def save_real_features(pictures: np.ndarray, encoder: ClipEncoder, folder: Path) -> None:
    """Write the encoder's features of real pictures, uint8 (N, H, W, 3), next to its weights, or next to those of a
    model whose pictures are of another kind."""
    batch = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    save_file({"features": encoder.embed_pictures(batch)}, folder / REAL_FEATURES)
