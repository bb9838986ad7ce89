"""A CLIP model that scores pictures: embeddings of pictures and texts."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F


class ClipEncoder:
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
        preprocessing = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        side = self.model.config.vision_config.image_size
        self.size = (side, side)
        self.mean = torch.tensor(preprocessing["image_mean"], device=device)[:, None, None]
        self.std = torch.tensor(preprocessing["image_std"], device=device)[:, None, None]
        self.device = device

    @torch.no_grad()
    def embed_pictures(self, pictures: torch.Tensor, batch: int = 64) -> torch.Tensor:
        """Embed pictures (B, 3, H, W) in [0, 1] of any size: (B, D) on the CPU, of length 1."""
        parts = [self._embed(part.to(self.device)) for part in pictures.split(batch)]
        return F.normalize(torch.cat(parts), dim=-1)

    def _embed(self, part: torch.Tensor) -> torch.Tensor:
        if tuple(part.shape[-2:]) != self.size:
            part = F.interpolate(part, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        vision = self.model.vision_model(pixel_values=(part - self.mean) / self.std)
        return self.model.visual_projection(vision.pooler_output).cpu()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str], batch: int = 256) -> torch.Tensor:
        """Embed texts: (N, D) on the CPU, of length 1; what is longer than the encoder reads is truncated."""
        parts = []
        for start in range(0, len(texts), batch):
            some = list(texts[start : start + batch])
            ids = self.tokenizer(some, padding="max_length", truncation=True, return_tensors="pt").input_ids
            text = self.model.text_model(input_ids=ids.to(self.device))
            parts.append(self.model.text_projection(text.pooler_output).cpu())
        return F.normalize(torch.cat(parts), dim=-1)
