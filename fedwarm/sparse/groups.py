"""Groups of weights: all weights that one gate switches; and which numbers of a model are left once units are gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedwarm.core.arrays import Arrays
from fedwarm.core.inputs import Form
from fedwarm.models import Model, build_model
from fedwarm.sparse.sites import Site, found, singles

T = TypeVar("T", bound=np.generic)
Mask = NDArray[np.bool_]
Masks = dict[str, Mask]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Groups:
    """The groups of a model: those of its sites one behind another.

    Attributes:
        sites: where gates are.
        shapes: of all tensors of the model's state, by name.
    """

    sites: tuple[Site, ...]
    shapes: dict[str, tuple[int, ...]]

    @staticmethod
    def of(model: nn.Module, single: bool = False) -> Groups:
        """The groups of a model; `single`: every weight is one."""
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        return Groups(singles(model) if single else found(model), shapes)

    @cached_property
    def count(self) -> int:
        """G, the number of gates."""
        return sum(site.gates for site in self.sites)

    @cached_property
    def places(self) -> dict[str, tuple[Site, slice]]:
        """Each grouped tensor's site, and where its gates stand among all."""
        ends = np.cumsum([site.gates for site in self.sites]).tolist()
        return {site.weight: (site, slice(end - site.gates, end)) for site, end in zip(self.sites, ends, strict=True)}

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """|g| of each group (G,) while all units are there."""
        return self.sizes_of(self.live(np.ones(self.count, np.bool_)))

    def sizes_of(self, live: Masks) -> NDArray[np.int64]:
        """|g| of each group (G,), counting the numbers that are left."""
        parts = [self.rows(site, live[site.weight]).sum(1) for site in self.sites]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def rows(self, site: Site, array: NDArray[T]) -> NDArray[T]:
        """A site's weights as (gates, |g|)."""
        return array.T if site.inputs else array.reshape(site.gates, -1)

    def squares(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """||x_g||^2 of each group (G,)."""
        parts = [
            tensors[site.weight].square().sum(0) if site.inputs else tensors[site.weight].reshape(site.gates, -1).square().sum(1)
            for site in self.sites
        ]
        return torch.cat(parts)

    def spread(self, name: str, values: NDArray[T]) -> NDArray[T]:
        """Values of the gates (G,) so that they broadcast over a grouped tensor."""
        site, place = self.places[name]
        if site.single:
            return values[place].reshape(self.shapes[name])
        if site.inputs:
            return values[place][None, :]
        return np.repeat(values[place], site.units).reshape(-1, *[1] * (len(self.shapes[name]) - 1))

    def layers(self, values: NDArray[T]) -> dict[str, NDArray[T]]:
        """Values of the gates (G,) by layer."""
        return {site.layer: values[place] for site, place in self.places.values()}

    # What is left

    def closed(self, alive: Mask) -> Mask:
        """The gates that are alive (G,) without those that change nothing: maps that nothing reads, what reads none."""
        alive = alive.copy()
        for site, place in self.places.values():
            maker = self.places.get(f"{site.source}.weight") if site.inputs else None
            if maker is None or maker[0].inputs:
                continue
            made, units = maker
            inputs = alive[place].reshape(made.gates, made.units * site.spread)
            alive[units] &= inputs.any(1)
            alive[place] = (inputs & alive[units][:, None]).reshape(-1)
        return alive

    def live(self, alive: NDArray[T]) -> dict[str, NDArray[T]]:
        """Which numbers of each tensor are left where these gates (G,) are alive: no row, bias, column of a unit that is gone.

        Of probabilities in [0, 1] in place of yes and no: the least of those that a number hangs on.
        """
        left = {name: np.ones(shape, alive.dtype) for name, shape in self.shapes.items()}
        for site, place in self.places.values():
            left[site.weight] = np.minimum(left[site.weight], self.spread(site.weight, alive))
            if site.single:
                continue
            if not site.inputs:
                units = np.repeat(alive[place], site.units)
                self._rows(left, site.layer, units, norm=site.norm)
                self._columns(left, site.reader, units)
            elif site.source and site.spread == 1 and f"{site.source}.weight" in self.places and self._linear(site.source):
                self._rows(left, site.source, alive[place])
        return left

    def density(self, alive: NDArray[T]) -> float:
        """The share of the model's numbers that are left where these gates (G,) are alive, or are so probably."""
        return share(self.live(alive))

    def _linear(self, layer: str) -> bool:
        return self.places[f"{layer}.weight"][0].inputs

    def _rows(self, left: dict[str, NDArray[T]], layer: str, units: NDArray[T], norm: str = "") -> None:
        names = [f"{layer}.weight", f"{layer}.bias", *([f"{norm}.weight", f"{norm}.bias"] if norm else [])]
        for name in names:
            if name in left:
                left[name] = np.minimum(left[name], units.reshape(-1, *[1] * (left[name].ndim - 1)))

    def _columns(self, left: dict[str, NDArray[T]], layer: str, units: NDArray[T]) -> None:
        name = f"{layer}.weight"
        if left[name].ndim == 4:
            left[name] = np.minimum(left[name], units[None, :, None, None])
        else:
            left[name] = np.minimum(left[name], np.repeat(units, left[name].shape[1] // units.size)[None, :])

    def chosen(self, live: Masks, gates: Mask) -> Masks:
        """Of what is left, the numbers of these groups (G,) and those of no group."""
        return {name: mask & self.spread(name, gates) if name in self.places else mask for name, mask in live.items()}

    def switched(self, arrays: Arrays, gates: NDArray[np.floating]) -> Arrays:
        """The model that has each unit times its gate's value in [0, 1] (G,), as plain weights; as it was where all are 1.

        A map's gate stands behind its normalisation, so that scale and shift there are multiplied, else filter and bias; all of
        them where it is 0. An input's gate multiplies its column.
        """
        out = dict(arrays)
        for site, place in self.places.values():
            values = gates[place]
            if (values == 1).all():
                continue
            if site.inputs or site.single:
                out[site.weight] = _times(out[site.weight], self.spread(site.weight, gates))
                continue
            units, kept = (np.repeat(v, site.units) for v in (values, np.where(values > 0, 1.0, 0.0)))
            first, last = (kept, units) if site.norm else (units, kept)
            for layer, factor in ((site.layer, first), (site.norm, last)):
                for name in (f"{layer}.weight", f"{layer}.bias"):
                    if layer and name in out:
                        out[name] = _times(out[name], factor.reshape(-1, *[1] * (out[name].ndim - 1)))
        return out


def share(live: Mapping[str, NDArray[T]]) -> float:
    """The share of all numbers that are left, of what `Groups.live` says of each."""
    return float(sum(left.sum(dtype=np.float64) for left in live.values()) / sum(left.size for left in live.values()))


def _times(array: NDArray[np.generic], factor: NDArray[np.floating]) -> NDArray[np.generic]:
    return np.asarray(array.astype(np.float64) * factor).astype(array.dtype)


@lru_cache(maxsize=16)
def groups_of(settings: Model, classes: int, inputs: Form | int, single: bool = False) -> Groups:
    """The groups of a run's classifier; `single`: every weight is one."""
    with torch.device("meta"):
        return Groups.of(build_model(replace(settings, weights=""), classes, inputs, 0), single)
