"""A fixed simplex equiangular tight frame: class vectors of length 1 that are all equally far apart.

Papyan, Han, Donoho, "Prevalence of Neural Collapse during the Terminal Phase of Deep Learning Training", PNAS 2020,
arXiv 2008.08186; as a head that is never trained: Yang, Chen, Li, Xie, Lin, Tao, "Inducing Neural Collapse in Imbalanced
Learning", NeurIPS 2022, arXiv 2203.09081.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fedwarm.core.seeds import numpy_generator
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.settings.registry import component

UNIT = "unit"


@dataclass(frozen=True)
class Simplex(Group, prefix="simplex"):
    """Settings of the head `simplex`."""

    temperature: float = setting(
        0.1, "tau: outputs are m_c u / tau; with features of length 1 they lie between -1 / tau and 1 / tau, and too large a tau "
        "cannot be fitted", low=1e-6,
    )  # fmt: skip
    features: str = setting(
        UNIT, "u, what class vectors are multiplied by; unit: features divided by their length; raw: as they are",
        choices=(UNIT, "raw"),
    )  # fmt: skip


@lru_cache(maxsize=16)
def frame(classes: int, features: int) -> NDArray[np.float64]:
    """M^T (classes, features) with M = sqrt(C / (C - 1)) Q (I - 1 1^T / C): products of its rows are 1, and -1 / (C - 1) of two.

    Q (features, classes) has orthonormal columns: that of the QR decomposition, with positive diagonal of R, of normal draws that
    belong to the shape. So all clients, seeds and runs have the same frame.
    """
    q, r = np.linalg.qr(numpy_generator(0, "simplex", classes, features).standard_normal((features, classes)))
    q *= np.sign(np.diag(r))
    found: NDArray[np.float64] = sqrt(classes / (classes - 1)) * (q - q.mean(1, keepdims=True)).T
    return found


class UnitLinear(nn.Linear):
    """W x / ||x|| + b over the last dimension."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(F.normalize(input, dim=-1), self.weight, self.bias)


@component(settings=Simplex, fixed=True, classed=True)
def simplex(layer: nn.Module, settings: Simplex) -> None:
    """A simplex equiangular tight frame, which nobody trains.

    Raises:
        SettingError: the layer is not linear, or has fewer inputs than outputs.
    """
    if type(layer) is not nn.Linear:
        raise SettingError(
            f"model.head = 'simplex' takes the place of a linear layer, and this model's last one is {type(layer).__name__}; use "
            "another model.name"
        )
    classes, features = layer.weight.shape
    if features < classes or classes < 2:
        raise SettingError(
            f"model.head = 'simplex' needs two classes and as many features as classes, and the last layer has {features} for "
            f"{classes}; use a model.name with a wider last layer (e.g. a larger mlp.width)"
        )
    weight = torch.from_numpy((frame(classes, features) / settings.temperature).astype(np.float32))
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.zero_()
    layer.requires_grad_(False)
    if settings.features == UNIT:
        layer.__class__ = UnitLinear


COMPONENT = simplex
