"""What a file of widths says of its network: where units can go, and what goes with them. Loads no torch."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from explorer.files import Origin, Record, Share
from explorer.graph import MAX_MACS
from explorer.masks import MAX_UNITS

MAX_SIZE = 1_000_000  # units of one site
MAX_COUNTS = 100_000_000  # channels times layers, or times five sites, which an order over channels counts
KINDS = ("heads", "neurons", "rows", "channels")
Count = Annotated[int, Field(ge=0, le=10**9)]


class SiteRecord(Record):
    """A place with units that can go one by one, or so many at a time; see `structure.Site` and `channels.Group`."""

    name: str = Field(pattern=rf"^[\w.]+:({'|'.join(KINDS)})$", max_length=200)
    size: int = Field(ge=1, le=MAX_SIZE)
    params: Count = 0  # of one unit; what channels cost follows from `layers`
    rest: Count = 0  # that go with the last one
    macs: int = Field(0, ge=0, le=10**15)  # of one unit, in one call
    bunch: int = Field(1, ge=1, le=MAX_SIZE)  # what stays is a multiple of it

    @property
    def kind(self) -> str:
        return self.name.rpartition(":")[2]

    @property
    def can_vanish(self) -> bool:
        return self.kind != "channels"


class LayerRecord(Record):
    """A layer whose channels can go: kernel x outputs x inputs + bias x outputs parameters.

    As many MACs for each of its `positions` in a call; a norm has none.
    """

    kernel: Count
    bias: Count
    positions: Count
    outputs: dict[str, Count]  # site -> how often each of its channels occurs
    inputs: dict[str, Count]
    fixed_outputs: Count
    fixed_inputs: Count

    def params(self, left: Mapping[str, Any]) -> Any:
        """Parameters where so many channels of each site are left: numbers, or arrays of one shape."""
        outputs = self.fixed_outputs + sum(times * left[name] for name, times in self.outputs.items())
        inputs = self.fixed_inputs + sum(times * left[name] for name, times in self.inputs.items())
        return self.kernel * outputs * inputs + self.bias * outputs


class WidthHeader(Origin):
    """What the file says of itself. `model` and `sites` are what it may be used with."""

    sites: tuple[SiteRecord, ...] = Field(min_length=1, max_length=MAX_UNITS)
    layers: tuple[LayerRecord, ...] = Field((), max_length=MAX_UNITS)
    params: int = Field(ge=1, le=10**15)  # of the whole denoiser
    macs: int = Field(ge=1, le=MAX_MACS)  # of one whole call
    trace: tuple[tuple[int, Share], ...] = Field((), max_length=MAX_UNITS)  # timestep, loss as a share of the largest

    @model_validator(mode="after")
    def _of_a_network(self) -> "WidthHeader":
        known, units = {site.name for site in self.sites}, sum(site.size for site in self.sites)
        if self.layers and units * max(5 * len(self.sites), len(self.layers)) > MAX_COUNTS:
            raise ValueError(f"{units:,} channels of {len(self.sites)} sites are more than can be counted")
        if unknown := {name for layer in self.layers for name in (*layer.outputs, *layer.inputs)} - known:
            raise ValueError(f"a layer has channels of {unknown.pop()}, which is none of the sites")
        sizes = {site.name: site.size for site in self.sites}
        whole = [layer.params(sizes) for layer in self.layers]
        if sum(site.size * site.params + site.rest for site in self.sites) + sum(whole) > self.params:
            raise ValueError("the units have more parameters than the whole network")
        layered = sum(layer.positions * own for layer, own in zip(self.layers, whole, strict=True))
        if sum(site.size * site.macs for site in self.sites) + layered > self.macs:
            raise ValueError("the units have more MACs than the whole network")
        return self

    def lost(self, gone: np.ndarray) -> np.ndarray:
        """Parameters (K,) that go with `gone` (K, S) units of each site."""
        size, params, rest = (np.array([getattr(s, f) for s in self.sites]) for f in ("size", "params", "rest"))
        return gone @ params + (gone == size) @ rest + self._in_layers(0 * gone[:1])[0] - self._in_layers(gone)[0]

    def lost_macs(self, gone: np.ndarray) -> np.ndarray:
        """MACs (K,) of a call that go with `gone` (K, S) units of each site."""
        macs = np.array([site.macs for site in self.sites])
        return gone @ macs + self._in_layers(0 * gone[:1])[1] - self._in_layers(gone)[1]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the units that can go."""
        return tuple(kind for kind in KINDS if any(site.kind == kind for site in self.sites))

    def _in_layers(self, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Parameters and MACs (K,) of the layers that have channels."""
        left = {site.name: site.size - gone[:, number] for number, site in enumerate(self.sites)}
        params = macs = np.zeros(len(gone), dtype=np.int64)
        for layer in self.layers:
            own = layer.params(left)
            params, macs = params + own, macs + layer.positions * own
        return params, macs

    def refuse_unless(self, model_id: str, sites: Mapping[str, Any]) -> None:
        """Raise ValueError naming the first thing in which the model at hand differs from this file's."""
        if self.model.id != model_id:
            raise ValueError(f"this file is for the model {self.model.id}, not {model_id}; prune {model_id} itself")
        for site in self.sites:
            size = sites[site.name].size if site.name in sites else 0
            if size != site.size:
                raise ValueError(f"{site.name} has {site.size} units in this file, {size} in the model; prune it anew")
