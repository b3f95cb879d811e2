"""Supermasks: networks whose weights never change, and whose scores say which of them are on.

Ramanujan, Wortsman, Kembhavi, Farhadi, Rastegari, "What's Hidden in a Randomly Weighted Neural Network?", CVPR 2020,
arXiv 1911.13299. Weights of a layer are +-sqrt(2 / fan in), drawn from the seed; a share of them is on, those of the largest
scores by magnitude, and the gradient goes to scores straight through. Biases are 0, and normalisations have no scale and shift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fedwarm.coding.orders import Order, order_bytes, pack_order, unpack_order
from fedwarm.core.arrays import Arrays, from_module, load_module
from fedwarm.core.payload import PayloadError
from fedwarm.core.seeds import numpy_generator
from fedwarm.norms import LAYERS
from fedwarm.settings.fields import SettingError
from fedwarm.sparse.packing import Bytes, Reader, joined
from fedwarm.training.loop import Hook

Orders = dict[str, Order]
Numbers = dict[str, NDArray[np.float32]]
RANKED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def ranked(model: nn.Module) -> tuple[str, ...]:
    """Names of the weights that have scores: those of linear layers and convolutions that the architecture does not freeze.

    Raises:
        SettingError: something else is trained but biases of these layers and normalisations, or nothing is.
    """
    kinds = {name: part for name, part in model.named_modules() if isinstance(part, (*RANKED, *LAYERS))}
    found = []
    for name, parameter in model.named_parameters():
        layer, _, own = name.rpartition(".")
        if not parameter.requires_grad:
            continue
        if layer not in kinds or own not in ("weight", "bias"):
            raise SettingError(
                f"the model trains {name!r}, and scores are of weights of linear layers and convolutions alone (beside their "
                "biases and normalisations, which are not trained); use another model.name, or freeze it"
            )
        if own == "weight" and isinstance(kinds[layer], RANKED):
            found.append(name)
    if not found:
        raise SettingError("the model trains no weights of linear layers or convolutions, and scores are of these; use another")
    return tuple(found)


def on(scores: Tensor, count: int) -> Tensor:
    """Which weights are on: those of the `count` largest scores by magnitude, and of any as large as the last of them."""
    sizes = scores.detach().abs()
    flat, off = sizes.flatten(), scores.numel() - count
    edge = flat.kthvalue(off + 1).values if flat.device.type == "cpu" else flat.sort().values[off]  # kthvalue is the quicker
    return sizes >= edge


@dataclass(frozen=True)
class Supermask:
    """A network by its frozen weights, and the scores that it can have: always the same numbers, in another order.

    Attributes:
        weights: theta of each layer with scores.
        values: its first scores, in the order by which they rank (n,).
        first: the order in which they were drawn.
        others: the rest of the model's state.
        density: share of each layer's weights that is on.
        signed: whether scores rank by their value, and not by magnitude.
    """

    weights: Numbers
    values: Numbers
    first: Orders
    others: Arrays
    density: float
    signed: bool

    @staticmethod
    def of(model: nn.Module, density: float, signed: bool, seed: int) -> Supermask:
        """That of an architecture and a seed: the same at whoever has both.

        Raises:
            SettingError: see `ranked`.
        """
        weights, values, first, others = Numbers(), Numbers(), Orders(), from_module(model)
        for name in ranked(model):
            shape, draws = others.pop(name).shape, numpy_generator(seed, "supermask", name)
            inputs = prod(shape[1:])
            weights[name] = np.where(draws.random(shape) < 0.5, -1, 1).astype(np.float32) * np.float32(sqrt(2 / inputs))
            scores = draws.uniform(-1, 1, prod(shape)).astype(np.float32) / np.float32(sqrt(inputs))  # Kaiming's, a = sqrt(5)
            scores = scores if signed else np.abs(scores)
            first[name] = np.argsort(scores, kind="stable")
            values[name] = scores[first[name]]
        free = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        plain = {name: np.full_like(array, name.endswith(".weight")) for name, array in others.items() if name in free}
        return Supermask(weights, values, first, {**others, **plain}, density, signed)

    def count(self, name: str) -> int:
        """How many weights of a layer are on; at least one."""
        return max(1, round(self.density * self.weights[name].size))

    def scores(self, orders: Orders) -> Numbers:
        """The scores of these orders, each in its weight's shape."""
        found = {}
        for name, values in self.values.items():
            found[name] = np.empty_like(values)
            found[name][orders[name]] = values
            found[name] = found[name].reshape(self.weights[name].shape)
        return found

    def orders(self, scores: Numbers) -> Orders:
        """The order of each layer's scores, ascending; of equal ones the lower index comes first.

        Raises:
            PayloadError: they are not finite.
        """
        if name := next((name for name, values in scores.items() if not np.isfinite(values).all()), ""):
            raise PayloadError(f"the scores of {name} hold NaN or infinity; lower learning-rate")
        return {n: np.argsort((s if self.signed else np.abs(s)).reshape(-1), kind="stable") for n, s in scores.items()}

    def state(self, orders: Orders) -> Arrays:
        """The model of these orders as an ordinary state: theta where its score is on, 0 elsewhere."""
        masks = {name: on(torch.from_numpy(scores), self.count(name)).numpy() for name, scores in self.scores(orders).items()}
        return {**self.others, **{name: np.where(masks[name], theta, np.float32(0)) for name, theta in self.weights.items()}}

    @property
    def bytes(self) -> int:
        """Bytes of packed orders: sum over layers of ceil(n ceil(log2 n) / 8)."""
        return sum(order_bytes(theta.size) for theta in self.weights.values())

    def packed(self, orders: Orders) -> Bytes:
        """Orders as one array of bytes, layer by layer."""
        return joined([pack_order(orders[name]) for name in self.weights])

    def read(self, packed: NDArray[np.generic]) -> Orders:
        """What `packed` wrote.

        Raises:
            CodeError: it is no order of every layer.
        """
        reader = Reader(packed)
        found = {n: unpack_order(reader.take(order_bytes(theta.size)), theta.size) for n, theta in self.weights.items()}
        reader.end()
        return found


class _Switched(nn.Module):
    """theta m of scores s, with the gradient dL/ds = dL/d(theta m) theta sign(s), as if m were |s|."""

    def __init__(self, weights: Tensor, count: int) -> None:
        super().__init__()
        self.weights, self.count = weights, count

    def forward(self, scores: Tensor) -> Tensor:
        sizes = scores.abs()
        return self.weights * (on(scores, self.count) + (sizes - sizes.detach()))


class ScoreHook(Hook):
    """Scores are trained in the place of weights, and nothing else is.

    Attributes:
        scores: those of each layer, from its first ones on; trained after `finish`.
    """

    def __init__(self, network: Supermask, scores: Mapping[str, NDArray[np.float32]]) -> None:
        self.network, self.scores = network, dict(scores)

    def prepare(self, model: nn.Module) -> None:
        load_module(model, {**self.network.others, **self.scores})
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self.scores)
        self.trained = {name: model.get_parameter(name) for name in self.scores}
        for name, parameter in self.trained.items():
            theta = torch.from_numpy(self.network.weights[name]).to(parameter)
            layer = model.get_submodule(name.rpartition(".")[0])
            parametrize.register_parametrization(layer, "weight", _Switched(theta, self.network.count(name)))

    def finish(self, model: nn.Module) -> None:
        self.scores = {name: parameter.detach().float().cpu().numpy() for name, parameter in self.trained.items()}
