"""A network with fewer units, the same on every input: what no other unit reads, or gives nothing but zeros, is not built.

Found by the weights alone, however they came to be zero: a map whose filter and bias, or scale and shift behind it, are zero, or
whose readers' weights are; an input of a linear layer whose column is zero.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fedwarm.core.arrays import Arrays, from_module
from fedwarm.core.inputs import Form
from fedwarm.models import to_input
from fedwarm.sparse.groups import Groups, Mask

Kept = dict[str, list[int]]


class Selected(nn.Module):
    """Some of the inputs (.., d) of a linear layer: (.., k)."""

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[..., self.get_buffer("kept")]


def used(groups: Groups, arrays: Arrays) -> Mask:
    """The gates (G,) whose units do something."""
    alive: Mask = np.ones(groups.count, np.bool_)
    while True:
        before, live = alive, groups.live(alive)
        found = {name: array * live[name] for name, array in arrays.items()}
        alive = groups.closed(before & _active(groups, found))
        if (alive == before).all():
            return alive


def _active(groups: Groups, arrays: Arrays) -> Mask:
    """The gates (G,) whose units are neither zero nor unread, by these weights."""
    active = np.ones(groups.count, np.bool_)
    for site, place in groups.places.values():
        weight = arrays[site.weight]
        if site.inputs:
            active[place] = (weight != 0).any(0)
            if site.source and f"{site.source}.weight" in groups.places and not groups.places[f"{site.source}.weight"][0].inputs:
                continue
            if site.source:
                active[place] = active[place] & _rows(arrays, site.source, site.gates)
        else:
            rows = _rows(arrays, site.norm or site.layer, site.gates * site.units)
            active[place] = (rows & _read(arrays[f"{site.reader}.weight"], len(rows))).reshape(site.gates, -1).any(1)
    return active


def _rows(arrays: Arrays, layer: str, units: int) -> Mask:
    """The units of a layer (units,) that are not zero whatever comes in."""
    parts = [arrays[name].reshape(units, -1) != 0 for name in (f"{layer}.weight", f"{layer}.bias") if name in arrays]
    rows: Mask = np.any(np.concatenate(parts, axis=1), axis=1)
    return rows


def _read(weight: np.ndarray[tuple[int, ...], np.dtype[np.generic]], units: int) -> Mask:
    """The units (units,) that a layer's weights (out, units or units times positions, ..) read."""
    found: Mask = np.any(weight.reshape(len(weight), units, -1) != 0, axis=(0, 2))
    return found


def kept_of(model: nn.Module) -> Kept:
    """The gates of each layer that do something, by the layers that have others; empty where all do."""
    groups, arrays = Groups.of(model), from_module(model)
    alive = groups.layers(used(groups, arrays))
    return {layer: np.flatnonzero(mask).tolist() for layer, mask in alive.items() if not mask.all()}


def shrunk(model: nn.Module, kept: Mapping[str, list[int]]) -> nn.Module:
    """The model with these gates' units alone, a new one; layers that `kept` does not name stay whole.

    A layer of which no gate is left keeps its first.
    """
    groups, small = Groups.of(model), copy.deepcopy(model)
    alive = np.ones(groups.count, np.bool_)
    for site, place in groups.places.values():
        if site.layer in kept:
            alive[place] = np.isin(np.arange(site.gates), kept[site.layer] or [0])
    for site, place in groups.places.values():
        if not site.inputs:
            _cut_maps(small, site.layer, np.repeat(alive[place], site.units), site.norm, site.reader)
    for site, place in groups.places.values():
        if site.inputs:
            made = groups.places.get(f"{site.source}.weight")
            maps = None if made is None or made[0].inputs else np.repeat(alive[made[1]], made[0].units * site.spread)
            rows = site.source if made is not None and made[0].inputs else ""
            _cut_inputs(small, site.layer, alive[place], maps, rows)
    return small


def _cut_maps(small: nn.Module, layer: str, units: Mask, norm: str, reader: str) -> None:
    if units.all():
        return
    keep = torch.from_numpy(np.flatnonzero(units))
    conv = small.get_submodule(layer)
    assert isinstance(conv, nn.Conv2d)
    _cut(conv, 0, keep)
    conv.out_channels = len(keep)
    if norm:
        part = small.get_submodule(norm)
        assert isinstance(part, nn.GroupNorm)
        part.num_groups = len(keep) * part.num_groups // part.num_channels
        part.num_channels = len(keep)
        _cut(part, 0, keep)
    after = small.get_submodule(reader)
    if isinstance(after, nn.Conv2d):
        _cut(after, 1, keep, bias=False)
        after.in_channels = len(keep)


def _cut_inputs(small: nn.Module, layer: str, inputs: Mask, maps: Mask | None, rows: str) -> None:
    """Take columns away, and the rows that made them, or pick them out of what is there."""
    there = np.ones_like(inputs) if maps is None else maps
    if inputs.all() and there.all():
        return
    linear = small.get_submodule(layer)
    linear = linear[-1] if isinstance(linear, nn.Sequential) else linear
    assert isinstance(linear, nn.Linear)
    keep = torch.from_numpy(np.flatnonzero(inputs))
    _cut(linear, 1, keep, bias=False)
    linear.in_features = len(keep)
    if rows:
        before = small.get_submodule(rows)
        before = before[-1] if isinstance(before, nn.Sequential) else before
        assert isinstance(before, nn.Linear)
        _cut(before, 0, keep)
        before.out_features = len(keep)
    elif not inputs[there].all():
        picked = torch.from_numpy(np.flatnonzero(inputs[there]))
        small.set_submodule(layer, nn.Sequential(Selected(picked), linear))


@torch.no_grad()
def _cut(part: nn.Module, axis: int, keep: Tensor, bias: bool = True) -> None:
    for name in ("weight", "bias") if bias else ("weight",):
        tensor = getattr(part, name, None)
        if tensor is not None:
            setattr(part, name, nn.Parameter(tensor.detach().index_select(axis, keep).clone(), tensor.requires_grad))


def multiply_adds(model: nn.Module, inputs: Form | int) -> int:
    """Multiplications with additions of convolutions and linear layers for one input; of a number, a picture of that side."""
    counts: list[int] = []

    def count(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        weight = layer.get_parameter("weight")
        places = made[0].numel() // weight.shape[0]
        counts.append(weight.numel() * places)

    layers = [part for part in model.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    handles = [part.register_forward_hook(count) for part in layers]
    with torch.no_grad():
        model.eval()(to_input(Form.at(inputs).empty(1)))
    for handle in handles:
        handle.remove()
    return sum(counts)
