"""What a file of widths says of its network: its prunable dimensions, and what is removed with their elements. Loads no
torch."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from explorer.masks.block_graph import MAX_MACS
from explorer.masks.file_format import FileHeader, Record, Share
from explorer.masks.schedule import MAX_UNITS

MAX_SIZE = 1_000_000  # elements of one dimension
MAX_COUNTS = 100_000_000  # channels times layers, or times five dimensions, which an importance of channels counts
KINDS = ("heads", "neurons", "adaln_channels", "channels")
Count = Annotated[int, Field(ge=0, le=10**9)]


def kind_title(kind: str) -> str:
    """Name a kind of KINDS in a sentence."""
    return "AdaLN channels" if kind == "adaln_channels" else kind


class PrunableDimRecord(Record):
    """A dimension with elements that are removed one by one, or so many at a time: heads, neurons, channels of a layer.

    See `execution.width_gates.PrunableDim` and `execution.channel_groups.ChannelGroup`.
    """

    name: str = Field(pattern=rf"^[\w.]+:({'|'.join(KINDS)})$", max_length=200)
    size: int = Field(ge=1, le=MAX_SIZE)
    params: Count = 0  # of one element; what channels cost follows from `layers`
    params_when_empty: Count = 0  # removed with the last element
    macs: int = Field(0, ge=0, le=10**15)  # of one element, in one call
    multiple_of: int = Field(1, ge=1, le=MAX_SIZE)  # the number of elements that stay

    @property
    def kind(self) -> str:
        return self.name.rpartition(":")[2]

    @property
    def may_be_empty(self) -> bool:
        return self.kind != "channels"


class LayerRecord(Record):
    """A layer whose channels can be removed: kernel x outputs x inputs + bias x outputs parameters.

    As many MACs for each of its `positions` in a call; a norm has none.
    """

    kernel: Count
    bias: Count
    positions: Count
    outputs: dict[str, Count]  # dimension -> how often each of its channels occurs
    inputs: dict[str, Count]
    fixed_outputs: Count
    fixed_inputs: Count

    def params(self, left: Mapping[str, Any]) -> Any:
        """Count the parameters where so many channels of each dimension are left: numbers, or arrays of one shape."""
        outputs = self.fixed_outputs + sum(times * left[name] for name, times in self.outputs.items())
        inputs = self.fixed_inputs + sum(times * left[name] for name, times in self.inputs.items())
        return self.kernel * outputs * inputs + self.bias * outputs


class WidthHeader(FileHeader):
    """The header of a file of widths. `model` and `dims` are what it may be used with."""

    prunes: ClassVar[Literal["widths"]] = "widths"

    dims: tuple[PrunableDimRecord, ...] = Field(min_length=1, max_length=MAX_UNITS)
    layers: tuple[LayerRecord, ...] = Field((), max_length=MAX_UNITS)
    params: int = Field(ge=1, le=10**15)  # of the whole denoiser
    macs: int = Field(ge=1, le=MAX_MACS)  # of one whole call
    trace: tuple[tuple[int, Share], ...] = Field((), max_length=MAX_UNITS)  # timestep, loss as a share of the largest

    @model_validator(mode="after")
    def _of_a_network(self) -> "WidthHeader":
        known, elements = {dim.name for dim in self.dims}, sum(dim.size for dim in self.dims)
        if self.layers and elements * max(5 * len(self.dims), len(self.layers)) > MAX_COUNTS:
            raise ValueError(f"{elements:,} channels of {len(self.dims)} dimensions are more than can be counted")
        if unknown := {name for layer in self.layers for name in (*layer.outputs, *layer.inputs)} - known:
            raise ValueError(f"a layer has channels of {unknown.pop()}, which is none of the dimensions")
        sizes = {dim.name: dim.size for dim in self.dims}
        whole = [layer.params(sizes) for layer in self.layers]
        if sum(dim.size * dim.params + dim.params_when_empty for dim in self.dims) + sum(whole) > self.params:
            raise ValueError("the elements have more parameters than the whole network")
        layered = sum(layer.positions * own for layer, own in zip(self.layers, whole, strict=True))
        if sum(dim.size * dim.macs for dim in self.dims) + layered > self.macs:
            raise ValueError("the elements have more MACs than the whole network")
        return self

    def removed_params(self, removed: np.ndarray) -> np.ndarray:
        """Count the parameters (K,) that are removed with `removed` (K, D) elements of each dimension."""
        fields = ("size", "params", "params_when_empty")
        size, params, when_empty = (np.array([getattr(dim, field) for dim in self.dims]) for field in fields)
        own = removed @ params + (removed == size) @ when_empty
        return own + self._in_layers(0 * removed[:1])[0] - self._in_layers(removed)[0]

    def removed_macs(self, removed: np.ndarray) -> np.ndarray:
        """Count the MACs (K,) of a call that are removed with `removed` (K, D) elements of each dimension."""
        macs = np.array([dim.macs for dim in self.dims])
        return removed @ macs + self._in_layers(0 * removed[:1])[1] - self._in_layers(removed)[1]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the elements that can be removed."""
        return tuple(kind for kind in KINDS if any(dim.kind == kind for dim in self.dims))

    def _in_layers(self, removed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Count parameters and MACs (K,) of the layers that have channels."""
        left = {dim.name: dim.size - removed[:, number] for number, dim in enumerate(self.dims)}
        params = macs = np.zeros(len(removed), dtype=np.int64)
        for layer in self.layers:
            own = layer.params(left)
            params, macs = params + own, macs + layer.positions * own
        return params, macs

    def check_compatible(self, model_id: str, dims: Mapping[str, Any]) -> None:
        """Raise ValueError naming the first thing in which the model at hand differs from this file's."""
        if self.model.id != model_id:
            raise ValueError(f"this file is for the model {self.model.id}, not {model_id}; prune {model_id} itself")
        for dim in self.dims:
            size = dims[dim.name].size if dim.name in dims else 0
            if size != dim.size:
                raise ValueError(
                    f"{dim.name} has {dim.size} elements in this file, {size} in the model; prune the model again"
                )
