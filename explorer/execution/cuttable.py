"""What a network must be like to lose heads, neurons or channels: looked at before the first layer is cut."""

from collections.abc import Iterator

import torch

QUANTISED = ("quant_state", "SCB", "tensor_impl")  # attributes of weights of bitsandbytes and torchao


def check_cuttable(denoiser: torch.nn.Module) -> None:
    """Raise ValueError, naming the layer and what to do, for a network whose weights cannot simply be cut."""
    for path, module in denoiser.named_modules():
        for obstacle, remedy in _obstacles(module):
            raise ValueError(f"{path} {obstacle}, so that it cannot be cut; {remedy}")
    seen: dict[int, str] = {}
    for path, parameter in denoiser.named_parameters(remove_duplicate=False):
        if (other := seen.setdefault(id(parameter), path)) != path:
            raise ValueError(f"{path} shares its weights with {other}, so that it cannot be cut; give it a copy first")


def _obstacles(module: torch.nn.Module) -> Iterator[tuple[str, str]]:
    if hasattr(module, "base_layer"):  # peft's layers
        yield "has an adapter (LoRA)", "merge it first: pipe.fuse_lora(), then pipe.unload_lora_weights()"
    if getattr(module, "fused_projections", False):
        yield "computes queries, keys and values at once", "undo that first: pipe.unfuse_qkv_projections()"
    if hasattr(module, "parametrizations"):
        yield "computes its weights anew at each call", "remove the parametrization first"
    weight = module._parameters.get("weight")
    if weight is not None and (not weight.is_floating_point() or any(hasattr(weight, one) for one in QUANTISED)):
        yield "is quantised", "load the model without quantisation"
