"""What there is to know about one class of denoisers, and the layers that its walk yields. Loads no torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Layer(NamedTuple):
    """One row of the walk over a denoiser: its stage, the modules that make it up and the layers it reads."""

    name: str
    stage: str
    modules: tuple[str, ...]
    reads: tuple[int, ...]
    same_shape: bool  # input and output have one shape, so that a change can be added to the input
    streams: tuple[str, ...] = ()  # arguments that carry the hidden states, as returned; empty: the first argument


Branches = Callable[
    [Any, str], Iterator[tuple[str, ...]]
]  # (module, its path) -> modules side by side, in running order


def transformer_branches(module: Any, path: str) -> Iterator[tuple[str, ...]]:
    """Yield attention and feed-forward of a diffusers transformer block, or of all blocks of a small transformer."""
    for index, block in enumerate(getattr(module, "transformer_blocks", ())):
        yield from transformer_branches(block, f"{path}.transformer_blocks.{index}")
    if hasattr(module, "attn1"):
        yield from own_branches("attn1", "attn2", "ff")(module, path)


def own_branches(*names: str | tuple[str, ...], joined: str = "") -> Branches:
    """Make what yields those of a block's modules that exist: what each returns is added to a stream. Names side by
    side do not see each other's.

    A block with a module named `joined` adds all its parts in one layer, and so has no branches.
    """

    def branches(module: Any, path: str) -> Iterator[tuple[str, ...]]:
        for name in () if joined and hasattr(module, joined) else names:
            beside = (name,) if isinstance(name, str) else name
            if found := tuple(f"{path}.{one}" for one in beside if getattr(module, one, None) is not None):
                yield found

    return branches


@dataclass(frozen=True)
class DenoiserSpec:
    """One row per class of denoisers; `architectures.DENOISERS` is the table."""

    walk: Callable[[Any], Iterator[Layer]]  # the layers of a network in running order
    # (denoiser, latent size, text length) -> arguments of a call
    example_inputs: Callable[[Any, int | Sequence[int], int], dict[str, Any]]
    sample: str = "sample"  # the arguments of a call
    timestep: str = "timestep"
    cond_first: bool = False  # which half of a guided batch saw the prompt, in diffusers' pipelines of this class
    expand_timestep: bool = False  # whether the timestep must have one entry per batch element
    branches: Branches = transformer_branches  # of a module: what its block adds to a stream
    default_size: int | tuple[int, int] | None = None  # of the latents, where the configuration does not say
    sync_channels: Callable[[Any], None] | None = None  # after channels were pruned; None: they cannot be

    def timestep_for(self, sample: Any, timestep: Any) -> Any:
        """Shape a scheduler's timestep as the denoiser takes it for a batch (B, ...)."""
        return timestep.expand(len(sample)).to(sample.device) if self.expand_timestep else timestep


def latents_and_timestep(denoiser: Any, size: int | Sequence[int], sample: str) -> Mapping[str, Any]:
    """Build latents (1, C, H, W) and a timestep (1,), on the denoiser's device; a `size` of one number is both."""
    import torch

    shape = (1, denoiser.config.in_channels, *height_and_width(size))
    latents = torch.zeros(shape, device=denoiser.device, dtype=denoiser.dtype)
    return {sample: latents, "timestep": torch.ones(1, device=denoiser.device)}


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """Read a `sample_size`: a number, or height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
