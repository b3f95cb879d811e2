"""One message's content: arrays of one kind, numbers and facts; and what is checked of arrays that came from outside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedwarm.core.arrays import Arrays

Kind = Literal["none", "weights", "adapter", "words"]


Fact = str | int | float | bool | list[str] | list[int] | list[float]


KINDS = ("none", "weights", "adapter", "words")


SHOWN = 60


@dataclass
class Payload:
    """One message's content.

    Attributes:
        kind: what the arrays are; `words` are code words, exact bytes as uint8; `none` where there are none.
        arrays: named numpy arrays.
        metrics: numbers, e.g. `num-examples`.
        facts: everything else; empty lists and texts do not travel.
    """

    kind: Kind = "none"
    arrays: Arrays = field(default_factory=dict)
    metrics: dict[str, int | float] = field(default_factory=dict)
    facts: dict[str, Fact] = field(default_factory=dict)

    def number(self, name: str) -> float:
        """A metric that must be there.

        Raises:
            PayloadError: it is not, or it is not finite.
        """
        if name not in self.metrics:
            raise PayloadError(f"metric {name!r} is missing")
        try:
            value = float(self.metrics[name])
        except OverflowError:
            value = math.inf
        if not np.isfinite(value):
            raise PayloadError(f"metric {name!r} is {value}")
        return value

    def count(self, name: str, low: int = 0, high: int | None = None) -> int:
        """A metric that must be a whole number in a range.

        Raises:
            PayloadError: it is not.
        """
        self.number(name)
        value = self.metrics[name]
        if value != int(value) or value < low or (high is not None and value > high):
            raise PayloadError(
                f"metric {name!r} is {value:g}; it must be a whole number from {low} to {'any' if high is None else high}"
            )
        return int(value)

    def text(self, name: str) -> str:
        """A text fact, empty where it is missing."""
        return str(self.facts.get(name, ""))


class PayloadError(ValueError):
    """A message that does not hold what it must."""


def short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        return "a number without end"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}.."


def check_arrays(arrays: Mapping[str, NDArray[np.generic]], like: Mapping[str, NDArray[np.generic]]) -> None:
    """Refuse arrays that cannot be combined with `like`.

    Raises:
        PayloadError: missing or extra names, another shape or dtype, NaN or infinity; the message names the array.
    """
    if arrays.keys() != like.keys():
        raise PayloadError(f"arrays differ in their names: {short(sorted(arrays.keys() ^ like.keys())[:3])}")
    for name, array in arrays.items():
        if array.shape != like[name].shape or array.dtype != like[name].dtype:
            raise PayloadError(f"{name} is {array.dtype}{list(array.shape)}, expected {like[name].dtype}{list(like[name].shape)}")
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            raise PayloadError(f"{name} holds NaN or infinity")
