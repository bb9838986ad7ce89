"""What can be skipped in a denoiser, and what stops mattering when it is.

A denoiser is read as a short list of *layers* in the order they run (a resnet with its attention; a sampler; a
transformer block). The three granularities are that list contracted to stages, as it is, or expanded to modules.
What to skip is decided here on names and tables alone; `supernet` is where a network is touched.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

Granularity = Literal["stage", "layer", "module"]
Reuse = Literal["output", "residual"]
MAX_MACS = 10**15  # of a call, so that sums over a trajectory fit into 64 bits


class Forecast(NamedTuple):
    """What a skipped unit hands back: the polynomial through its last `order` + 1 computed values, over call indices,
    continued at most `reach` calls beyond the last of them (none: without limit)."""

    order: int = 0
    reach: int | None = None

    @classmethod
    def of(cls, settings: Any) -> "Forecast":
        """As a method's settings, or a file's header, have it."""
        return cls(settings.order, settings.reach)


class Unit(BaseModel):
    """The smallest piece that can be skipped on its own: one column of a schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    kind: Literal["stream", "branch"]  # a branch is added to a stream by its parent
    reuse: Reuse  # what a skipped unit hands back: its last output, or its input plus its last change
    macs: int = Field(default=0, ge=0, le=MAX_MACS)  # per call, one batch element, without attention products
    reads: tuple[int, ...]  # columns whose output it reads, all to its left

    @property
    def transparent(self) -> bool:
        """Whether its input is still read when it is skipped."""
        return self.kind == "branch" or self.reuse == "residual"


class BlockGraph:
    """Units in running order. The output of the network reads the last one; the rest is always run.

    `modules` says for each unit which modules of the network make it up, in running order; a graph that comes from a
    file has none. Raises ValueError if a unit reads itself or one to its right.
    """

    def __init__(
        self,
        units: Iterable[Unit],
        granularity: Granularity,
        macs_fixed: int = 0,
        modules: Iterable[tuple[str, ...]] = (),
    ):
        self.units, self.granularity, self.macs_fixed = tuple(units), granularity, macs_fixed
        self.modules = tuple(modules)
        for column, unit in enumerate(self.units):
            if any(not 0 <= read < column for read in unit.reads):
                raise ValueError(f"unit {unit.name} reads {unit.reads}, but may read only columns left of {column}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(unit.name for unit in self.units)

    @property
    def macs(self) -> np.ndarray:
        """MACs of each unit, int64 (U,)."""
        return np.array([unit.macs for unit in self.units], dtype=np.int64)

    @property
    def macs_per_call(self) -> int:
        return int(self.macs.sum()) + self.macs_fixed

    def demanded(self, keep: np.ndarray) -> np.ndarray:
        """bool (T, U): whose output somebody reads, if `keep` (T, U) runs. Backward reachability from the output."""
        demanded = np.zeros_like(keep, dtype=bool)
        demanded[:, -1] = True
        for column in reversed(range(len(self.units))):
            unit = self.units[column]
            passes_on = demanded[:, column] & (keep[:, column] | unit.transparent)
            for read in unit.reads:
                demanded[:, read] |= passes_on
        return demanded

    def close(self, keep: np.ndarray) -> np.ndarray:
        """The cascade: bool (T, U) of what really runs, because a unit that nobody reads does not."""
        return keep & self.demanded(keep)

    def cost(self, keep: np.ndarray) -> np.ndarray:
        """MACs of each call, int64 (T,), under a closed `keep` (T, U). A call in which no unit runs costs nothing."""
        return keep @ self.macs + self.macs_fixed * keep.any(axis=1)

    def falling(self, running: np.ndarray, column: int) -> np.ndarray:
        """bool (U,): what goes with a unit of a call in which `running` (U,) runs, itself included."""
        without = running.copy()
        without[column] = False
        if self.units[column].transparent:  # whose loss makes nothing else useless
            return running & ~without
        return running & ~self.close(without[None])[0]

    @cached_property
    def falls(self) -> np.ndarray:
        """bool (U, U): row by row, what falls with each unit of a whole call."""
        whole = np.ones(len(self.units), dtype=bool)
        return np.stack([self.falling(whole, column) for column in range(len(whole))])

    def saved(self, rank: np.ndarray) -> np.ndarray:
        """Share of a trajectory's MACs that the first k removals of `rank` (T, U) save, for k = 0 .. (T - 1) U."""
        order = np.argsort(rank, axis=None)[: rank.size - rank.shape[1]]
        macs = self.macs[order % rank.shape[1]]
        macs[rank[1:].max(axis=1)] += self.macs_fixed  # with its last unit a call is not entered at all
        return np.concatenate([[0.0], np.cumsum(macs)]) / (self.macs_per_call * len(rank))

    def left(self, score: np.ndarray, ratio: float) -> np.ndarray:
        """bool (T, U): what the removal order of `score` leaves when its prefix saves nearest to `ratio`."""
        rank = self.removal_order(score)
        return rank >= int(np.abs(self.saved(rank) - ratio).argmin())

    def removal_order(self, score: np.ndarray) -> np.ndarray:
        """int32 (T, U): the position at which each unit goes, the lowest `score` (T, U) first, call 0 last of all.

        Before a unit goes, what it alone had read goes, upstream first, so that every prefix of the order is closed.
        """
        keep, rank = np.ones(score.shape, dtype=bool), np.zeros(score.shape, dtype=np.int32)
        position = 0
        for index in np.argsort(score[1:], axis=None, kind="stable"):
            call, column = 1 + index // score.shape[1], index % score.shape[1]
            if not keep[call, column]:
                continue
            gone = self.falling(keep[call], column)
            for column_gone in np.flatnonzero(gone):  # columns are in running order, so upstream comes first
                rank[call, column_gone], position = position, position + 1
            keep[call] &= ~gone
        rank[0] = np.arange(position, position + score.shape[1])
        return rank


class Layer(NamedTuple):
    """One row of the walk over a denoiser: its stage, the modules that make it up and the layers it reads."""

    name: str
    stage: str
    modules: tuple[str, ...]
    reads: tuple[int, ...]
    keeps_shape: bool  # input and output have one shape, so that a change can be added to the input


def describe(denoiser: Any, granularity: Granularity = "layer", reuse: Reuse = "output") -> BlockGraph:
    """The units of a denoiser (MACs still 0: `cost.priced` fills them in).

    `reuse="residual"` holds for the stream units whose input and output have one shape; the others reuse their output.
    Raises ValueError for a class or granularity that is not known.
    """
    walk = WALKS.get(type(denoiser).__name__)
    if walk is None:
        raise ValueError(f"{type(denoiser).__name__} is not a known denoiser; known are {', '.join(WALKS)}")
    if granularity not in ("stage", "layer", "module"):
        raise ValueError(f"granularity {granularity!r} is unknown; choose stage, layer or module")
    layers = list(walk(denoiser))
    if granularity == "module":
        units = _modules(denoiser, layers, reuse)
        return BlockGraph(units, granularity, modules=((unit.name,) for unit in units))
    if granularity == "stage":
        layers = _contract(layers)
    units = (_stream(layer, reuse) for layer in layers)
    return BlockGraph(units, granularity, modules=(layer.modules for layer in layers))


def _stream(layer: Layer, reuse: Reuse) -> Unit:
    reuse = "residual" if reuse == "residual" and layer.keeps_shape else "output"
    return Unit(name=layer.name, kind="stream", reuse=reuse, reads=layer.reads)


def _contract(layers: list[Layer]) -> list[Layer]:
    """Neighbouring layers of one stage become one."""
    names = list(dict.fromkeys(layer.stage for layer in layers))
    stage_of = [names.index(layer.stage) for layer in layers]
    stages = []
    for index, name in enumerate(names):
        members = [layer for layer in layers if layer.stage == name]
        reads = {stage_of[read] for layer in members for read in layer.reads} - {index}
        inner = {layers.index(layer) for layer in members[:-1]}
        leaks = any(inner & set(layer.reads) for layer in layers if layer.stage != name)  # it hands out skips as well
        keeps_shape = all(layer.keeps_shape for layer in members) and not leaks
        stages.append(Layer(name, name, (name,), tuple(sorted(reads)), keeps_shape))
    return stages


def _modules(denoiser: Any, layers: list[Layer], reuse: Reuse) -> list[Unit]:
    """Each layer becomes the chain of its resnet or sampler and its attention and feed-forward branches."""
    units: list[Unit] = []
    last_of: list[int] = []  # per layer, the column of its last unit
    for layer in layers:
        reads = tuple(sorted({last_of[read] for read in layer.reads}))
        for path in layer.modules:
            branches = tuple(_branches(denoiser.get_submodule(path), path))
            for name in branches:
                units.append(Unit(name=name, kind="branch", reuse="output", reads=reads))
                reads = (len(units) - 1,)
            if not branches:
                keeps_shape = layer.keeps_shape or path != layer.modules[0]
                units.append(_stream(Layer(path, layer.stage, (path,), reads, keeps_shape), reuse))
                reads = (len(units) - 1,)
        last_of.append(len(units) - 1)
    return units


def _branches(module: Any, path: str) -> Iterator[str]:
    """Attention and feed-forward of a transformer block, or of all blocks of a small transformer."""
    for index, block in enumerate(getattr(module, "transformer_blocks", ())):
        yield from _branches(block, f"{path}.transformer_blocks.{index}")
    if hasattr(module, "attn1"):
        yield from (f"{path}.{part}" for part in ("attn1", "attn2", "ff") if getattr(module, part, None) is not None)


UNET_BLOCKS = {
    *("DownBlock2D", "CrossAttnDownBlock2D", "AttnDownBlock2D"),
    *("UNetMidBlock2D", "UNetMidBlock2DCrossAttn", "NoneType"),
    *("UpBlock2D", "CrossAttnUpBlock2D", "AttnUpBlock2D"),
}


def _unet(unet: Any) -> Iterator[Layer]:
    """Down blocks push their layers on a stack of skips, up blocks pop them (the stem's entry is no unit)."""
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        if type(block).__name__ not in UNET_BLOCKS:
            known = ", ".join(sorted(UNET_BLOCKS - {"NoneType"}))
            raise ValueError(f"{type(block).__name__} is not a known U-Net block; known are {known}")
    count, stream, skips = 0, (), [()]  # a read is a tuple of no or one layer index
    for index, block in enumerate(unet.down_blocks):
        for layer in _block(block, f"down_blocks.{index}"):
            yield layer._replace(reads=stream)
            stream, count = (count,), count + 1
            skips.append(stream)
    for layer in _middle(unet.mid_block):
        yield layer._replace(reads=stream)
        stream, count = (count,), count + 1
    for index, block in enumerate(unet.up_blocks):
        for layer in _block(block, f"up_blocks.{index}"):
            skip = () if "upsamplers" in layer.name else skips.pop()
            yield layer._replace(reads=tuple(sorted({*stream, *skip})))
            stream, count = (count,), count + 1


def _block(block: Any, stage: str) -> Iterator[Layer]:
    attentions = getattr(block, "attentions", None) or ()
    for index, resnet in enumerate(block.resnets):
        modules = (f"{stage}.resnets.{index}",)
        modules += (f"{stage}.attentions.{index}",) if index < len(attentions) else ()
        yield Layer(f"{stage}.layers.{index}", stage, modules, (), resnet.in_channels == resnet.out_channels)
    for kind in ("downsamplers", "upsamplers"):
        for index, _ in enumerate(getattr(block, kind, None) or ()):
            yield Layer(f"{stage}.{kind}.{index}", stage, (f"{stage}.{kind}.{index}",), (), False)


def _middle(block: Any) -> Iterator[Layer]:
    """The middle's attentions stand between its resnets: the last resnet is a layer of its own."""
    if block is None:
        return
    attentions = list(getattr(block, "attentions", None) or ())
    for index, _ in enumerate(block.resnets):
        modules = (f"mid_block.resnets.{index}",)
        if index < len(attentions) and attentions[index] is not None:
            modules += (f"mid_block.attentions.{index}",)
        yield Layer(f"mid_block.layers.{index}", "mid_block", modules, (), True)


def _dit(transformer: Any) -> Iterator[Layer]:
    """A chain of blocks of one width; each block is its own stage."""
    for index, _ in enumerate(transformer.transformer_blocks):
        name = f"transformer_blocks.{index}"
        yield Layer(name, name, (name,), (index - 1,) if index else (), True)


WALKS = {"UNet2DConditionModel": _unet, "UNet2DModel": _unet, "DiTTransformer2DModel": _dit}
