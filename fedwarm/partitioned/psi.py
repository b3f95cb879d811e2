"""Hyperparameters with a direct gradient: what they do to inputs, outputs and the likelihood of a network whose weights stay.

A hyperparameter that acts through the weights alone (weight decay, step size) has d log p(D | w, psi) / d psi = 0 and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, pi

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from fedwarm.partitioned.affine import GENERATORS, maps, warped
from fedwarm.settings.fields import SettingError

Floats = NDArray[np.float64]
THROUGH_WEIGHTS = ("weight-decay", "learning-rate", "learning-rate-decay", "momentum", "label-smoothing", "loss-weight")


class Hyperparameter:
    """One of them; as it stands it does nothing.

    Attributes:
        drawn: whether it draws random numbers.
    """

    drawn = False

    def first(self, shape: Sequence[int]) -> Floats:
        """Its values (m,) before training, for inputs of a shape (without the batch)."""
        return np.zeros(1)

    def labels(self, count: int) -> list[str]:
        """What its values are called; the same for all where they are alike."""
        return [""] * count

    def inputs(self, x: Tensor, psi: Tensor, draws: torch.Generator) -> Tensor:
        """Inputs (b, ..) as the network gets them."""
        return x

    def outputs(self, outputs: Tensor, psi: Tensor) -> Tensor:
        """The network's outputs (b, classes) as predictions are made of them."""
        return outputs

    def likelihood(self, outputs: Tensor, labels: Tensor, psi: Tensor) -> Tensor | None:
        """log p(y | x) of each (b,), in nats; None: by the softmax of the outputs."""
        return None


class Affine(Hyperparameter):
    """Half-widths of random affine maps (see `affine`), one a generator."""

    drawn = True

    def __init__(self, names: Sequence[str] = tuple(GENERATORS)) -> None:
        self.names = tuple(names)

    def first(self, shape: Sequence[int]) -> Floats:
        if len(shape) != 3:
            raise SettingError("affine maps are of images; learn 'mask', 'temperature' or 'noise-var' for other inputs")
        return np.full(len(self.names), 0.1)

    def labels(self, count: int) -> list[str]:
        return list(self.names)

    def inputs(self, x: Tensor, psi: Tensor, draws: torch.Generator) -> Tensor:
        uniform = 2 * torch.rand(len(x), len(self.names), generator=draws, dtype=torch.float64) - 1
        return warped(x, maps(psi, self.names, uniform.to(psi)))


class InputMask(Hyperparameter):
    """x * sigmoid(psi), one number for each input, or for each pixel of all colours."""

    def first(self, shape: Sequence[int]) -> Floats:
        return np.ones(int(np.prod(shape[-2:])))

    def inputs(self, x: Tensor, psi: Tensor, draws: torch.Generator) -> Tensor:
        return x * psi.sigmoid().to(x).view(x.shape[-2:] if x.dim() > 2 else x.shape[-1:])


class InputNoise(Hyperparameter):
    """x + exp(psi) e, e ~ N(0, 1) for each number."""

    drawn = True

    def first(self, shape: Sequence[int]) -> Floats:
        return np.array([log(0.1)])

    def inputs(self, x: Tensor, psi: Tensor, draws: torch.Generator) -> Tensor:
        return x + psi.exp().to(x) * torch.randn(x.shape, generator=draws, dtype=x.dtype).to(x.device)


class Temperature(Hyperparameter):
    """Logits / exp(psi)."""

    def outputs(self, outputs: Tensor, psi: Tensor) -> Tensor:
        return outputs / psi.exp().to(outputs)


class NoiseVariance(Hyperparameter):
    """N(y | f(x), exp(psi) I); y are targets (b, d), or classes as unit vectors."""

    def likelihood(self, outputs: Tensor, labels: Tensor, psi: Tensor) -> Tensor:
        wanted = one_hot(labels, outputs.shape[1]) if not labels.is_floating_point() else labels
        squared = (outputs - wanted.to(outputs)).square().sum(1)
        return (-0.5 * (squared / psi.exp() + outputs.shape[1] * (psi + log(2 * pi)))).to(outputs)


KNOWN: dict[str, Hyperparameter] = {
    "affine": Affine(), "rotation": Affine(("rotation",)), "shifts": Affine(("shift-x", "shift-y")), "mask": InputMask(),
    "input-noise": InputNoise(), "temperature": Temperature(), "noise-var": NoiseVariance(),
}  # fmt: skip


class Psi:
    """Several hyperparameters as one vector, in the order of their names.

    Args:
        names: of `KNOWN`.
        shape: of an input, without the batch.

    Raises:
        SettingError: a name is not known, or is of one that no direct gradient reaches.
    """

    def __init__(self, names: Sequence[str], shape: Sequence[int]) -> None:
        for name in names:
            refuse_unreachable(name)
        self.names = tuple(names)
        self.parts = [KNOWN[name] for name in names]
        firsts = [part.first(shape) for part in self.parts]
        self.sizes = [len(first) for first in firsts]
        self.first: Floats = np.concatenate([np.zeros(0), *firsts])

    @property
    def labels(self) -> list[str]:
        """What each value is called, e.g. `affine rotation`, `mask`."""
        told = zip(self.names, self.parts, self.sizes, strict=True)
        return [f"{name} {label}".strip() for name, part, size in told for label in part.labels(size)]

    @property
    def drawn(self) -> bool:
        return any(part.drawn for part in self.parts)

    @property
    def likelihood(self) -> bool:
        """Whether the loss is another than cross-entropy."""
        return "noise-var" in self.names

    def inputs(self, x: Tensor, psi: Tensor, draws: torch.Generator) -> Tensor:
        """See `Hyperparameter`; `psi` (m,) holds the values of all."""
        for part, own in zip(self.parts, psi.split(self.sizes), strict=True):
            x = part.inputs(x, own, draws)
        return x

    def outputs(self, outputs: Tensor, psi: Tensor) -> Tensor:
        """See `Hyperparameter`."""
        for part, own in zip(self.parts, psi.split(self.sizes), strict=True):
            outputs = part.outputs(outputs, own)
        return outputs

    def log_likelihood(self, outputs: Tensor, labels: Tensor, psi: Tensor) -> Tensor:
        """log p(y | outputs, psi) of each (b,), in nats; `outputs` as `self.outputs` gives them."""
        for part, own in zip(self.parts, psi.split(self.sizes), strict=True):
            if (found := part.likelihood(outputs, labels, own)) is not None:
                return found
        return -cross_entropy(outputs, labels, reduction="none")

    def loss(self, outputs: Tensor, labels: Tensor, psi: Tensor) -> Tensor:
        """-log p(y | outputs, psi), a mean over the batch."""
        return -self.log_likelihood(outputs, labels, psi).mean() if self.likelihood else cross_entropy(outputs, labels)


def refuse_unreachable(name: str) -> None:
    """See that a hyperparameter can be learned.

    Raises:
        SettingError: it cannot.
    """
    if name in THROUGH_WEIGHTS:
        raise SettingError(
            f"{name!r} acts through the weights alone, so that its gradient is 0 while the weights are fixed and "
            f"nothing can be learned; learn some of {', '.join(KNOWN)}, and tune {name!r} by a sweep"
        )
    if name not in KNOWN:
        raise SettingError(f"there is no hyperparameter {name!r} to learn; there are {', '.join(KNOWN)}")


def numbers(text: str) -> list[float]:
    """Numbers between commas.

    Raises:
        SettingError: it is something else.
    """
    try:
        found = [float(part) for part in text.split(",")] if text.strip() else []
    except ValueError as error:
        raise SettingError(f"{text[:60]!r} is not a list of numbers; separate them by commas") from error
    if not np.isfinite(found).all():
        raise SettingError(f"{text[:60]!r} holds a number that is not finite; give finite numbers")
    return found


def text_of(psi: Floats) -> str:
    """The inverse of `numbers`, to six digits."""
    return ",".join(f"{value:.6g}" for value in psi)
