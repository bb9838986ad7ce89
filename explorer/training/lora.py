"""Keeps of a training what LoRA can hold (Hu et al. 2022): of each linear layer's change its largest directions."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import FluxPipeline

from explorer.training import provenance
from explorer.training.export import replace_folder
from explorer.training.provenance import TrainingRun


def factor(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """Factor the change of each matrix (out, in) into lora_B (out, rank) lora_A (rank, in), the nearest there is by
    Eckart and Young; what else changed (biases, norms) stays as it was."""
    factors = {}
    for name, weight in before.items():
        if weight.ndim != 2:
            continue
        u, scale, v = torch.linalg.svd((after[name].to(weight.device) - weight).float(), full_matrices=False)
        root, layer = scale[:rank].sqrt(), name.removesuffix(".weight")
        factors[f"{layer}.lora_A.weight"] = root[:, None] * v[:rank]
        factors[f"{layer}.lora_B.weight"] = u[:, :rank] * root
    return factors


def export(factors: Mapping[str, torch.Tensor], out: Path, runs: list[TrainingRun]) -> None:
    """Write the factors as FluxPipeline.load_lora_weights reads them, in half precision, with the training record."""
    temporary = out.with_name(f".{out.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    half = {name: weight.half().contiguous() for name, weight in factors.items()}
    FluxPipeline.save_lora_weights(temporary, transformer_lora_layers=half)
    provenance.write(temporary, runs)
    replace_folder(temporary, out)
