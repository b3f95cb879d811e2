"""A layer's weights as whole numbers with their steps, as they are exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Coded:
    """One quantized weight: whole numbers `low` .. of its shape as uint16 above `low`, and its steps (1,) or (C,)."""

    codes: np.ndarray[Any, np.dtype[np.uint16]]
    low: int
    step: Tensor
