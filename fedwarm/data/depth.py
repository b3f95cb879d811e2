"""More than 8 bits a channel: which value is white, found over a fixed sample of the data set or given by `data.bits`.

Scanners write 12 bits into files of 16, and programs write floats from 0 to 1: scaled by what the file could hold, both would be
nearly black. A function of the data set and the setting alone, so that every client that holds the same set scales alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

import numpy as np

from fedwarm.data.pictures import Picture
from fedwarm.settings.fields import SettingError

WHOLE_BITS = (1, 8, 10, 12, 14, 16)
REAL_TOPS = (1.0, 255.0)
UPPER_BITS = 16
SAMPLE = 256


class Depth:
    """The white of a data set's deep pictures.

    Args:
        bits: the setting; 0: found.
        sample: pictures that stand for the whole set; asked for once, when the first deep picture comes.
        where: how messages call the column.
    """

    def __init__(self, bits: int, sample: Callable[[], Iterable[Picture]], where: str) -> None:
        self.bits, self.sample, self.where = bits, sample, where
        self.tops: dict[str, float] = {}

    def top(self, picture: Picture, row: int) -> float:
        """The value of a picture's kind that is white.

        Raises:
            SettingError: the picture's values do not lie from 0 to there, or what is white cannot be told.
        """
        kind = picture.kind
        if kind == "plain":
            return 255.0
        if kind not in self.tops:
            self.tops[kind] = self._found(kind)
        top, (low, high) = self.tops[kind], extremes(picture)
        if low < 0:
            raise SettingError(f"{self.where}: row {row} holds values from {low:g} to {high:g}; bring them to 0 and more first")
        if high > top:
            raise SettingError(
                f"{self.where}: row {row} holds {high:g}, more than the {top:g} that is white "
                f"({'data.bits' if self.bits else f'found in {SAMPLE} pictures'}); set data.bits, e.g. {enough(high)}"
            )
        return top

    def remarks(self) -> list[str]:
        """What was found of deep pictures, for the record."""
        return [] if self.bits else [f"values of {kind} numbers: {top:g} is white" for kind, top in sorted(self.tops.items())
                                     if kind != "upper"]  # fmt: skip

    def _found(self, kind: str) -> float:
        if kind == "upper":
            return self._upper()
        if self.bits:
            return float(2**self.bits - 1)
        peak = self._peak(kind)
        tops = REAL_TOPS if kind == "real" else [float(2**bits - 1) for bits in WHOLE_BITS]
        if peak > tops[-1]:
            raise SettingError(
                f"{self.where}: {kind} numbers up to {peak:g} do not say which value is white; set data.bits, e.g. {enough(peak)}"
            )
        return next(top for top in tops if peak <= top)

    def _peak(self, kind: str) -> float:
        """The largest value of this kind in the sample."""
        peak = 0.0
        for picture in self.sample():
            if picture.kind == kind:
                with suppress(ValueError):
                    peak = max(peak, extremes(picture)[1])
        return peak

    def _upper(self) -> float:
        """Of colours in 16 bits PIL hands on the upper 8, which do for 16 bits and not for fewer."""
        bits = self.bits
        if not bits:
            peak = self._peak("upper")
            bits = next(b for b in WHOLE_BITS if peak < 2**b)
        if bits < UPPER_BITS:
            raise SettingError(
                f"{self.where}: its colour pictures have 16 bits a channel and use {bits} of them, of which only the upper 8 "
                "can be read; save them with 8 bits, or set data.bits=16 to take them as they are"
            )
        return float(2**UPPER_BITS)


def extremes(picture: Picture) -> tuple[float, float]:
    """The least and the largest value; ValueError where one is no number."""
    values = picture.values()
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError("it holds values that are no finite numbers")
    return low, high


def enough(peak: float) -> int:
    """The fewest bits that hold a value."""
    return max(1, int(np.ceil(np.log2(peak + 1))))
