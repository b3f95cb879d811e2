"""A data set: bright stripes whose number is the class, made when asked for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedwarm.data.settings import Data
from fedwarm.data.tables import Column, Rows, Table
from fedwarm.settings.fields import SettingError

CLASSES, EACH = ("one", "two", "three"), 40


def stripes(data: Data) -> Table:
    """Pictures of one to three stripes, 40 of each."""
    codes = np.arange(len(CLASSES) * EACH, dtype=np.int64) % len(CLASSES)
    size = data.image_size

    def images(rows: Rows) -> Tensor:
        pictures = torch.zeros(len(rows), 3, size, size, dtype=torch.uint8)
        for i, row in enumerate(rows):
            for stripe in range(int(codes[row]) + 1):
                pictures[i, :, (5 * stripe + int(row)) % size, :] = 200
        return pictures

    def column(name: str) -> Column:
        if name != "stripes":
            raise SettingError(f"{name!r} is no column of stripes; it has one, `stripes`")
        return Column(codes, CLASSES)

    return Table("stripes", Column(codes, CLASSES), ("stripes",), column, images)
