"""A model: a denoiser with all that drawing needs. The only file that knows what diffusers pipelines do around it.

Importing it loads no torch; using a model does.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from explorer.files import ModelRecord
from explorer.graph import BlockGraph, Granularity, Reuse, describe

if TYPE_CHECKING:
    import torch

    from explorer.cost import Architecture

_ENCODING = Lock()  # a tokenizer keeps how it pads and cuts to itself, also from one thread to another


@dataclass(frozen=True)
class Family:
    """What differs between pipelines: where the denoiser lives, and how a prompt becomes the denoiser's inputs."""

    denoiser: str  # attribute of the pipeline and folder on disk
    encode: Callable[[Any, list[str], bool], dict[str, Any]]  # (pipe, prompts, guided) -> keyword arguments of a call
    conditional_first: bool = False  # which half of a guided batch comes first
    inverse_first: bool = False  # latents times 1/s instead of latents / s, which differ in the last bit


def _encode_sd(pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
    positive, negative = pipe.encode_prompt(prompts, pipe.device, 1, guided)
    return {"encoder_hidden_states": _cat([negative, positive]) if guided else positive}


def _encode_sdxl(pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
    encoded = pipe.encode_prompt(prompts, device=pipe.device, do_classifier_free_guidance=guided)
    positive, negative, pooled, negative_pooled = encoded
    size = pipe.default_sample_size * pipe.vae_scale_factor
    width = pipe.text_encoder_2.config.projection_dim
    ids = pipe._get_add_time_ids((size, size), (0, 0), (size, size), positive.dtype, width).to(pipe.device)
    ids = ids.repeat(len(prompts) * (2 if guided else 1), 1)
    text, pooled = (_cat([negative, positive]), _cat([negative_pooled, pooled])) if guided else (positive, pooled)
    return {"encoder_hidden_states": text, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}


def _encode_dit(pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
    import torch

    known = pipe.labels | {str(label): label for label in range(pipe.transformer.config.num_embeds_ada_norm)}
    unknown = [prompt for prompt in prompts if prompt not in known]
    if unknown:
        raise ValueError(f"this model draws classes, by name or number, and {unknown[0]!r} is none of them")
    labels = torch.tensor([known[prompt] for prompt in prompts], device=pipe.device)
    return {"class_labels": _cat([labels, torch.full_like(labels, 1000)]) if guided else labels}  # 1000: no class


def _encode_nothing(pipe: Any, prompts: list[str], guided: bool) -> dict[str, Any]:
    return {}


def _cat(tensors: list[Any]) -> Any:
    import torch

    return torch.cat(tensors)


FAMILIES = {
    "StableDiffusionPipeline": Family("unet", _encode_sd),
    "StableDiffusionXLPipeline": Family("unet", _encode_sdxl),
    "DiTPipeline": Family("transformer", _encode_dit, conditional_first=True, inverse_first=True),
    "DDPMPipeline": Family("unet", _encode_nothing),
}


class Model:
    """A denoiser with all that drawing needs. Without weights (`pipe` None) it still has units, MACs and parameters."""

    def __init__(self, id: str, pipeline: str, denoiser: Any, scheduler_config: dict, tokens: int, pipe: Any = None):
        self.id, self.pipeline, self.denoiser, self.pipe = id, pipeline, denoiser, pipe
        self.scheduler_config, self.tokens = scheduler_config, tokens
        self.family, self.size = FAMILIES[pipeline], denoiser.config.sample_size
        self.revision: str | None = None
        self._priced: dict[tuple[str, str], Architecture] = {}
        self._widths: Mapping[str, np.ndarray] = {}  # what was cut already

    # -- arithmetic

    def priced(self, granularity: Granularity = "layer", reuse: Reuse = "output") -> "Architecture":
        """Units with MACs and parameters. Raises ValueError for an unknown class or granularity."""
        from explorer import cost

        if (granularity, reuse) not in self._priced:
            skeleton = cost.on_meta(type(self.denoiser), dict(self.denoiser.config))
            self._narrow(skeleton, self._widths)
            graph = describe(self.denoiser, granularity, reuse)
            self._priced[granularity, reuse] = cost.price(skeleton, graph, self.size, self.tokens)
        return self._priced[granularity, reuse]

    def graph(self, granularity: Granularity = "layer", reuse: Reuse = "output") -> BlockGraph:
        return self.priced(granularity, reuse).graph

    @property
    def record(self) -> ModelRecord:
        """How a mask file names this model."""
        dtype = str(self.denoiser.dtype).removeprefix("torch.")
        return ModelRecord(id=self.id, revision=self.revision, denoiser=type(self.denoiser).__name__, dtype=dtype)

    # -- drawing

    def noise(self, seeds: Sequence[int]) -> tuple["torch.Tensor", list["torch.Generator"]]:
        """Latents (B, C, H, W), one seed each, and the generators for a sampler that goes on drawing noise."""
        import torch

        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        shape = (1, self.denoiser.config.in_channels, self.size, self.size)
        drawn = [torch.randn(shape, generator=generator, dtype=self.denoiser.dtype) for generator in generators]
        return torch.cat(drawn).to(self.denoiser.device), generators

    def encode(self, prompts: Sequence[str], guidance: float) -> dict[str, Any]:
        """The denoiser's conditioning inputs for a batch of prompts; doubled when guidance is above 1."""
        import torch

        self._need_weights()
        with torch.no_grad(), _ENCODING:
            return self.family.encode(self.pipe, list(prompts), guidance > 1)

    def denoise(self, x: "torch.Tensor", t: Any, conditioning: dict, guidance: float) -> "torch.Tensor":
        """The guided output of one call, (B, C, H, W): u + g (c - u), Ho & Salimans 2021, eq. 6 in g = w + 1."""
        guided = guidance > 1 and bool(conditioning)
        x = _cat([x, x]) if guided else x
        if self.family.conditional_first:
            t = t.expand(len(x)).to(x.device)
        output = self.denoiser(x, timestep=t, **conditioning, return_dict=False)[0]
        output = output[:, : x.shape[1]]  # DiT predicts a variance as well
        if not guided:
            return output
        given, empty = self._halves(output)
        return empty + guidance * (given - empty)

    def _halves(self, output: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
        """Of a guided batch: what saw the prompt, and what saw none."""
        first, second = output.chunk(2)
        return (first, second) if self.family.conditional_first else (second, first)

    def conditional(self, output: "torch.Tensor", pictures: int) -> "torch.Tensor":
        """The part of a unit's output that saw the prompt, (pictures, ...): all of it in a run without guidance."""
        return output if len(output) == pictures else self._halves(output)[0]

    def decode(self, latents: "torch.Tensor") -> "torch.Tensor":
        """Pictures (B, 3, H, W) in [0, 1], on the CPU."""
        import torch

        with torch.no_grad():
            return self.pictures(latents).clamp(0, 1).float().cpu()

    def pictures(self, latents: "torch.Tensor") -> "torch.Tensor":
        """Pictures (B, 3, H, W), differentiable, and so not cut off at 0 and 1."""
        import torch

        if vae := getattr(self.pipe, "vae", None):
            if vae.dtype == torch.float16 and vae.config.force_upcast:
                vae.to(torch.float32)
            latents, scale = latents.to(vae.dtype), vae.config.scaling_factor
            latents = 1 / scale * latents if self.family.inverse_first else latents / scale
            latents = vae.decode(latents, return_dict=False)[0]
        return latents / 2 + 0.5

    def twin(self) -> "Model":
        """A model that shares these weights but none of the modules, so that two schedules can run side by side."""
        shared = {id(tensor): tensor for tensor in (*self.denoiser.parameters(), *self.denoiser.buffers())}
        other = copy.copy(self)
        other.denoiser = copy.deepcopy(self.denoiser, shared)
        return other

    def sites(self, channels: bool, rows: bool = False) -> Mapping[str, Any]:
        """The places whose units can go: heads and neurons, with rows of AdaLN layers or without (`structure.Site`), or
        channels (`channels.Group`) as well.

        Raises ValueError for channels of anything but a U-Net, and for rows of anything but a FLUX.
        """
        from explorer.structure import sites

        return sites(self.denoiser, rows) | (self._channels(self.denoiser).groups() if channels else {})

    def smaller(self, widths: Mapping[str, np.ndarray]) -> "Model":
        """A model without the units that `widths` (site -> bool) does not keep; this one stays whole.

        Raises ValueError for widths of another model, and where this one is cut already.
        """
        if self._widths:
            raise ValueError(f"{self.id} is cut already; cut the whole model once")
        other = self.twin()
        self._narrow(other.denoiser, widths)
        other._priced, other._widths = {}, dict(widths)
        return other

    def _narrow(self, denoiser: Any, widths: Mapping[str, np.ndarray]) -> None:
        from explorer.structure import cut

        thinner = {name: keep for name, keep in widths.items() if name.endswith(":channels")}
        cut(denoiser, {name: keep for name, keep in widths.items() if name not in thinner})
        if thinner:
            self._channels(denoiser).cut(thinner)

    def _channels(self, denoiser: Any) -> Any:
        from explorer import cost
        from explorer.channels import Channels

        return Channels(denoiser, cost.example_inputs(denoiser, self.size, self.tokens))

    def _need_weights(self) -> None:
        if self.pipe is None:
            raise ValueError(
                f"the weights of {self.id} are not here; its units, MACs, parameters and schedules still are"
            )
