"""The denoisers that are known, one row each, and the graph of units that a row makes of a network. Loads no torch.

A denoiser is read as a short list of *layers* in the order they run (a resnet with its attention; a sampler; a
transformer block). The three granularities are that list contracted to stages, as it is, or expanded to modules.
"""

import re
from typing import Any

from explorer.masks.block_graph import BlockGraph, Granularity, Reuse, Unit
from explorer.models.chain import DIT, HUNYUAN, LUMINA, PIXART, SANA, WAN
from explorer.models.denoiser_spec import DenoiserSpec, Layer
from explorer.models.mmdit import FLUX, QWEN_IMAGE, SD3
from explorer.models.unet import UNET

DENOISERS: dict[str, DenoiserSpec] = {
    "UNet2DConditionModel": UNET,
    "UNet2DModel": UNET,
    "DiTTransformer2DModel": DIT,
    "PixArtTransformer2DModel": PIXART,
    "SD3Transformer2DModel": SD3,
    "FluxTransformer2DModel": FLUX,
    "HunyuanDiT2DModel": HUNYUAN,
    "SanaTransformer2DModel": SANA,
    "Lumina2Transformer2DModel": LUMINA,
    "QwenImageTransformer2DModel": QWEN_IMAGE,
    "WanTransformer3DModel": WAN,
}


def unwrap_compiled(denoiser: Any) -> Any:
    """Find the module that `torch.compile` was given, or return `denoiser` itself."""
    return getattr(denoiser, "_orig_mod", denoiser)


def class_name(denoiser: Any) -> str:
    """Name the class of a denoiser, compiled or not, or the known one that it is derived from."""
    kind = type(unwrap_compiled(denoiser))
    return next((one.__name__ for one in kind.__mro__ if one.__name__ in DENOISERS), kind.__name__)


def known_denoisers() -> str:
    """List the denoisers that are known, for a sentence: the names of their classes without what all have in common."""
    names = [re.sub("(Transformer)?[23]D(Condition)?Model$|Model$", "", name) for name in DENOISERS]
    return ", ".join(dict.fromkeys(names))


def spec_of(denoiser: Any) -> DenoiserSpec:
    """Look up the row of a denoiser's class. Raises ValueError for a class that is not known."""
    name = class_name(denoiser)
    if name not in DENOISERS:
        raise ValueError(f"{name} is not a known denoiser; known are {known_denoisers()}")
    return DENOISERS[name]


def build_block_graph(denoiser: Any, granularity: Granularity = "layer", reuse: Reuse = "output") -> BlockGraph:
    """Build the graph of a denoiser's units (MACs still 0: `execution.macs.measure_architecture` fills them in).

    `reuse="residual"` holds for the stream units whose input and output have one shape; the others reuse their output.
    Raises ValueError for a class or granularity that is not known.
    """
    spec = spec_of(denoiser)
    if granularity not in ("stage", "layer", "module"):
        raise ValueError(f"granularity {granularity!r} is unknown; choose stage, layer or module")
    layers = list(spec.walk(denoiser))
    if granularity == "stage":
        layers = _contract(layers)
    if granularity == "module":
        layers, units = _expand(spec, denoiser, layers, reuse)
    else:
        units = [_stream_unit(layer, reuse) for layer in layers]
    return BlockGraph(
        units,
        granularity,
        modules=(layer.modules for layer in layers),
        streams=(layer.streams for layer in layers),
        arguments=(spec.sample, spec.timestep),
    )


def _stream_unit(layer: Layer, reuse: Reuse) -> Unit:
    reuse = "residual" if reuse == "residual" and layer.same_shape else "output"
    return Unit(name=layer.name, kind="stream", reuse=reuse, reads=layer.reads)


def _contract(layers: list[Layer]) -> list[Layer]:
    """Make one layer of neighbouring layers of one stage."""
    names = list(dict.fromkeys(layer.stage for layer in layers))
    stage_of = [names.index(layer.stage) for layer in layers]
    stages = []
    for index, name in enumerate(names):
        members = [layer for layer in layers if layer.stage == name]
        reads = {stage_of[read] for layer in members for read in layer.reads} - {index}
        inner = {layers.index(layer) for layer in members[:-1]}
        leaks = any(inner & set(layer.reads) for layer in layers if layer.stage != name)  # it hands out skips as well
        same_shape = all(layer.same_shape for layer in members) and not leaks
        stages.append(Layer(name, name, (name,), tuple(sorted(reads)), same_shape, members[0].streams))
    return stages


def _expand(spec: DenoiserSpec, denoiser: Any, layers: list[Layer], reuse: Reuse) -> tuple[list[Layer], list[Unit]]:
    """Make each layer the chain of its resnet or sampler and its attention and feed-forward branches."""
    pieces: list[Layer] = []
    units: list[Unit] = []
    ends: list[tuple[int, ...]] = []  # per layer, the columns of its last units: one, or one per stream
    for layer in layers:
        reads = tuple(sorted({column for read in layer.reads for column in ends[read]}))
        for path in layer.modules:
            branches = tuple(spec.branches(denoiser.get_submodule(path), path))
            for beside in branches:
                is_end = layer is layers[-1] and beside is branches[-1]  # where the second stream is read no more
                names = beside[:1] if is_end else beside
                pieces += [Layer(name, layer.stage, (name,), reads, False) for name in names]
                units += [Unit(name=name, kind="branch", reuse="output", reads=reads) for name in names]
                reads = tuple(range(len(units) - len(names), len(units)))
            if not branches:
                same_shape = layer.same_shape or path != layer.modules[0]
                pieces.append(Layer(path, layer.stage, (path,), reads, same_shape, layer.streams))
                units.append(_stream_unit(pieces[-1], reuse))
                reads = (len(units) - 1,)
        ends.append(reads)
    return pieces, units
