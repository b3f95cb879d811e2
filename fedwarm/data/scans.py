"""scikit-learn's 1,797 scans of handwritten digits, and their strokes at any size; read without importing scikit-learn.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998: 8x8 pixels of 17 shades.
"""

from __future__ import annotations

import gzip

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.data.embedded import scikit_file
from fedwarm.data.tables import Rows

LEVELS = 16


def scans() -> tuple[Tensor, Rows]:
    """The scans as they are: uint8 (1797, 8, 8) in 0..16, and their digits (1797,)."""
    lines = gzip.decompress(scikit_file("digits.csv.gz", "the data set of digits").read_bytes()).decode().split()
    values = np.array([line.split(",") for line in lines], dtype=np.float64).astype(np.int64)
    return torch.from_numpy(values[:, :64].astype(np.uint8)).view(-1, 8, 8), values[:, 64]


def strokes(shades: Tensor, size: int, span: float, degrees: Tensor) -> Tensor:
    """How much of a pixel the stroke covers: (n, 8, 8) -> (n, 1, size, size) in [0, 1].

    Args:
        span: side of the picture in sides of the scan; above 1 it leaves a margin.
        degrees: how far each scan is turned (n,).
    """
    n, turn = len(shades), torch.deg2rad(degrees)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = span * turn.cos()
    theta[:, 1, 0] = span * turn.sin()
    theta[:, 0, 1] = -theta[:, 1, 0]
    grid = F.affine_grid(theta, [n, 1, size, size], align_corners=False)
    large = F.grid_sample(shades[:, None].float() / LEVELS, grid, mode="bicubic", align_corners=False)
    t = (1.2 * large).clamp(0, 1)
    return t * t * (3 - 2 * t)
