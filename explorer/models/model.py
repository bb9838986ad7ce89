"""A model: a denoiser with everything that generating needs. Importing it loads no torch; using a model does."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from explorer.masks.block_graph import BlockGraph, Extrapolation, Granularity, Reuse
from explorer.masks.file_format import ModelRecord
from explorer.masks.schedule import Schedule
from explorer.masks.width import Widths
from explorer.models.architectures import build_block_graph, class_name, spec_of, unwrap_compiled
from explorer.models.pipeline_adapter import latent_size, split_guided
from explorer.models.pipelines import PIPELINES, find_denoiser, has_noise_levels

if TYPE_CHECKING:
    import torch

    from explorer.execution.channel_groups import ChannelGroups
    from explorer.execution.macs import Architecture, CallCost

_ENCODING = Lock()  # a tokenizer stores how it pads and truncates, also from one thread to another


class Model:
    """A denoiser with everything that generating needs. Without weights (`pipe` None) it still has units, MACs and
    parameters."""

    def __init__(
        self,
        id: str,
        pipeline: str,
        denoiser: Any,
        scheduler_config: Mapping[str, Any],
        text_length: int,
        pipe: Any = None,
        size: tuple[int, int] | None = None,
    ):
        self.id, self.pipeline, self.denoiser, self.pipe = id, pipeline, denoiser, pipe
        self.adapter, self.text_length = PIPELINES[pipeline], text_length
        self.latent_size = size or latent_size(denoiser, getattr(pipe, "vae", None))  # height and width
        own = self.adapter.sampling_settings(scheduler_config, denoiser, self.latent_size)
        self.scheduler_config = {**scheduler_config, **own}
        self.revision: str | None = None
        self._architectures: dict[tuple[str, str], Architecture] = {}
        self._channel_groups: dict[str, Any] | None = None  # once they were traced
        self._widths: Mapping[str, np.ndarray] = {}  # what was pruned already
        self._pruned: WeakKeyDictionary[Widths, Model] = WeakKeyDictionary()

    # -- arithmetic

    def architecture(self, granularity: Granularity = "layer", reuse: Reuse = "output") -> "Architecture":
        """Count MACs and parameters, also by unit. Raises ValueError for an unknown class or granularity."""
        if (granularity, reuse) not in self._architectures:
            graph = build_block_graph(self.denoiser, granularity, reuse)
            self._architectures[granularity, reuse] = self._call_cost().of(graph)
        return self._architectures[granularity, reuse]

    def _call_cost(self) -> "CallCost":
        """Count what a call costs; of a whole network it is counted once per process."""
        from explorer.execution.macs import build_on_meta, copy_to_meta, measure_call

        if any(hasattr(module, "base_layer") for module in self.denoiser.modules()):  # LoRA's layers run as well
            skeleton = copy_to_meta(self.denoiser)
            return measure_call(skeleton, self.example_inputs(skeleton))
        if not self._widths:
            kind: Any = type(self.denoiser)
            return _whole_call_cost(kind, self.denoiser.to_json_string(), self.latent_size, self.text_length)
        skeleton = build_on_meta(type(self.denoiser), dict(self.denoiser.config))
        self._prune_denoiser(skeleton, self._widths)
        return measure_call(skeleton, self.example_inputs(skeleton))

    def graph(self, granularity: Granularity = "layer", reuse: Reuse = "output") -> BlockGraph:
        """Build the graph of the denoiser's units, with their MACs. Raises ValueError as `architecture` does."""
        return self.architecture(granularity, reuse).graph

    def example_inputs(self, denoiser: Any) -> dict[str, Any]:
        """Build the arguments of a call for one batch element, on the device of `denoiser`."""
        return spec_of(denoiser).example_inputs(denoiser, self.latent_size, self.text_length)

    @property
    def record(self) -> ModelRecord:
        """How a mask file names this model."""
        dtype = str(self.denoiser.dtype).removeprefix("torch.")
        return ModelRecord(id=self.id, revision=self.revision, denoiser=class_name(self.denoiser), dtype=dtype)

    # -- generating

    def initial_latents(self, seeds: Sequence[int]) -> tuple["torch.Tensor", list["torch.Generator"]]:
        """Draw noise (B, C, H, W), one seed per picture; also returns the generators for a sampler that continues
        drawing."""
        import torch

        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        latents = self.adapter.initial_latents(self.denoiser, self.latent_size, generators)
        # a network that is offloaded lies in main memory, and computes elsewhere
        device = self.pipe._execution_device if self.pipe else self.denoiser.device
        return latents.to(device), generators

    def encode(self, prompts: Sequence[str], guidance: float) -> dict[str, Any]:
        """Encode a batch of prompts as the denoiser's conditioning inputs; doubled when guidance is above 1.

        Raises ValueError without weights, for a prompt that the model cannot take, and for a model whose pipeline does
        more than is known here.
        """
        import torch

        if self.pipe is None:
            raise ValueError(
                f"the weights of {self.id} are not here; its units, MACs, parameters and schedules still are"
            )
        with torch.no_grad(), _ENCODING:
            conditioning = self.adapter.encode(self.pipe, list(prompts), guidance > 1)
        self._check_own_loop(conditioning)
        return conditioning

    def _check_own_loop(self, conditioning: Mapping[str, Any]) -> None:
        """Raise ValueError where the pipeline of the model draws otherwise than `sampling.rollout.denoise` does."""
        spec, vae = spec_of(self.denoiser), getattr(self.pipe, "vae", None)
        known = {spec.sample, spec.timestep, *conditioning, *self.adapter.made_by_call}
        missing = [name for name in self.example_inputs(self.denoiser) if name not in known]
        channels = self.denoiser.config.in_channels // self.adapter.channels_per_token
        if vae is not None and channels != vae.config.latent_channels:
            missing.append("latents of a picture")
        if not has_noise_levels(self.scheduler_config):
            missing.append(f"the noise levels of {self.scheduler_config['_class_name']}")
        if missing:
            raise ValueError(
                f"{self.id} needs {', '.join(missing)}, which only its own pipeline makes; "
                "draw with that, inside `explorer.apply`"
            )

    def denoise(self, x: "torch.Tensor", t: Any, conditioning: dict[str, Any], guidance: float) -> "torch.Tensor":
        """Make one guided call: (B, C, H, W) for the input `x` (B, C, H, W) at timestep `t`."""
        return self.adapter.call(self.denoiser, x, t, conditioning, guidance)

    def conditional_half(self, output: "torch.Tensor", num_images: int) -> "torch.Tensor":
        """Take the part of a unit's output that saw the prompt, (num_images, ...): all of it without guidance."""
        return output if len(output) == num_images else split_guided(self.denoiser, output)[0]

    def decode(self, latents: "torch.Tensor") -> "torch.Tensor":
        """Decode latents to pictures (B, 3, H, W) in [0, 1], on the CPU."""
        import torch

        with torch.no_grad():
            return self.decode_differentiable(latents).clamp(0, 1).float().cpu()

    def decode_differentiable(self, latents: "torch.Tensor") -> "torch.Tensor":
        """Decode latents to pictures (B, 3, H, W) that are not clamped to [0, 1]."""
        return self.adapter.decode(self.pipe, latents)

    def with_shared_weights(self) -> "Model":
        """Copy the modules, but no weights, so that two schedules can run side by side."""
        shared: dict[int, Any] = {id(one): one for one in (*self.denoiser.parameters(), *self.denoiser.buffers())}
        if hook := getattr(self.denoiser, "_hf_hook", None):  # of offload, which refers to the other parts
            shared[id(hook)] = hook
        other = copy.copy(self)
        other.denoiser = copy.deepcopy(self.denoiser, shared)
        return other

    # -- pruning

    @contextmanager
    def under_schedule(self, schedule: Schedule, scheduler: Any) -> Iterator["Model"]:
        """Yield a copy with shared weights that runs under a schedule while `scheduler` counts its calls.

        Raises ValueError for a schedule that was made for something else.
        """
        other = self.with_shared_weights()
        with run_under(other.denoiser, schedule, scheduler):
            yield other

    def prunable_dims(self, channels: bool, adaln_channels: bool = False) -> dict[str, Any]:
        """List what can be pruned: heads and neurons (`width_gates.PrunableDim`), with AdaLN channels on request, and
        the channels of a U-Net (`channel_groups.ChannelGroup`).

        Raises ValueError for channels of a class without prunable channels, and for missing AdaLN channels.
        """
        from explorer.models.prunable_dims import find_prunable_dims

        dims: dict[str, Any] = dict(find_prunable_dims(self.denoiser, adaln_channels))
        if channels and self._channel_groups is None:
            self._channel_groups = self.channel_groups(self.denoiser).groups()
        return dims | ((self._channel_groups or {}) if channels else {})

    def prune_widths(self, widths: Widths) -> "Model":
        """Build a model without the elements that `widths` does not keep; this one stays whole.

        Its `pipe` holds the pruned denoiser. Raises ValueError for widths of another model, and where this one is
        pruned already.
        """
        if widths not in self._pruned:
            kinds = widths.header.kinds
            dims = self.prunable_dims("channels" in kinds, "adaln_channels" in kinds)
            widths.header.check_compatible(self.id, dims)
            self._pruned[widths] = self.without(widths.keep)
        return self._pruned[widths]

    def without(self, keep: Mapping[str, np.ndarray]) -> "Model":
        """Build a model that keeps these elements (dimension -> bool (size,)) only, as `prune_widths` does."""
        if self._widths:
            raise ValueError(f"{self.id} is pruned already; prune the whole model once")
        other = self.with_shared_weights()
        self._prune_denoiser(other.denoiser, keep)
        other._architectures, other._channel_groups = {}, None
        other._widths, other._pruned = dict(keep), WeakKeyDictionary()
        if self.pipe is not None:
            other.pipe = copy.copy(self.pipe)
            other.pipe.register_modules(**{self.adapter.denoiser: other.denoiser})
        return other

    def _prune_denoiser(self, denoiser: Any, keep: Mapping[str, np.ndarray]) -> None:
        from explorer.execution.cuttable import check_cuttable
        from explorer.execution.width_gates import prune_widths
        from explorer.models.prunable_dims import find_prunable_dims

        check_cuttable(denoiser)
        channels = {name: mask for name, mask in keep.items() if name.endswith(":channels")}
        others = {name: mask for name, mask in keep.items() if name not in channels}
        adaln_channels = any(name.endswith(":adaln_channels") for name in others)
        prune_widths(denoiser, find_prunable_dims(denoiser, adaln_channels), others)
        if channels:
            self.channel_groups(denoiser).prune_widths(channels)

    def channel_groups(self, denoiser: Any) -> "ChannelGroups":
        """Trace which channels of `denoiser`, this model's or its skeleton, hang together.

        Raises ValueError for a class whose channels cannot be pruned.
        """
        from explorer.execution.channel_groups import ChannelGroups
        from explorer.execution.cuttable import check_cuttable
        from explorer.models.prunable_dims import find_prunable_dims, head_and_neuron_producers

        sync = spec_of(denoiser).sync_channels
        if sync is None:
            raise ValueError(f"only the channels of U-Nets can be pruned, not those of a {type(denoiser).__name__}")
        check_cuttable(denoiser)
        excluded = head_and_neuron_producers(find_prunable_dims(denoiser))
        return ChannelGroups(denoiser, self.example_inputs(denoiser), excluded, sync)


@lru_cache(maxsize=32)
def _whole_call_cost(denoiser_class: Any, config: str, size: tuple[int, int], text_length: int) -> "CallCost":
    """Count what a call of the network with this configuration, JSON, costs."""
    from explorer.execution.macs import build_on_meta, measure_call

    skeleton = build_on_meta(denoiser_class, json.loads(config))
    return measure_call(skeleton, spec_of(skeleton).example_inputs(skeleton, size, text_length))


@contextmanager
def run_under(denoiser: Any, schedule: Schedule, scheduler: Any, pipe: Any = None) -> Iterator[None]:
    """Run a denoiser, compiled or not, under a schedule inside, while `scheduler` or a whole pipeline drives it.

    Raises ValueError for a schedule whose units are not the denoiser's.
    """
    from explorer.execution.prediction import Prediction
    from explorer.execution.supernet import SuperNet

    header, plain = schedule.header, unwrap_compiled(denoiser)
    graph = build_block_graph(plain, header.granularity, header.reuse)
    header.check_compatible(header.model.id, class_name(plain), header.calls, graph.units)
    extrapolation, prediction, cond_first = (
        Extrapolation.of(header),
        Prediction.of(scheduler),
        spec_of(plain).cond_first,
    )
    options = {"entry": denoiser, "pipe": pipe, "cond_first": cond_first, "coefficients": schedule.coefficient_table()}
    with SuperNet(plain, graph, schedule.keep, prediction, extrapolation, scheduler, **options):
        yield


@contextmanager
def run_with_widths(pipe: Any, widths: Widths) -> Iterator[None]:
    """Put a smaller denoiser into a diffusers pipeline inside. Raises ValueError for widths of another model."""
    attribute, whole = find_denoiser(pipe)
    kind = next(name for name, adapter in PIPELINES.items() if adapter.denoiser == attribute)
    text_length = getattr(getattr(pipe, "tokenizer", None), "model_max_length", 0)
    model = Model(widths.header.model.id, kind, unwrap_compiled(whole), dict(pipe.scheduler.config), text_length)
    pipe.register_modules(**{attribute: model.prune_widths(widths).denoiser})
    try:
        yield
    finally:
        pipe.register_modules(**{attribute: whole})
