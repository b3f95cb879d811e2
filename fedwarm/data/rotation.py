"""Covariate shift: every client's images are turned by an angle of its own, those that it is tested on, too."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.core.seeds import numpy_generator
from fedwarm.data.settings import Data

AT_ONCE = 1024


def angle_of(data: Data, seed: int, partition: int) -> float:
    """A client's angle in degrees, counter-clockwise: uniform on [0, data.rotation), or one of `data.rotation-bins` multiples."""
    draws = numpy_generator(seed, "rotation", partition)
    if not data.rotation_bins:
        return float(draws.uniform(0.0, data.rotation))
    chances = 0.5 ** torch.arange(data.rotation_bins).double().numpy()
    chosen = int(draws.choice(data.rotation_bins, p=chances / chances.sum()))
    return data.rotation * chosen / data.rotation_bins


def rotated(images: Tensor, degrees: float) -> Tensor:
    """Images uint8 (n, 3, S, S) turned about their middle, bilinear; what comes in at the corners is the border's colour."""
    if not len(images) or not degrees:
        return images
    turn = math.radians(degrees)
    matrix = torch.tensor([[math.cos(turn), -math.sin(turn), 0.0], [math.sin(turn), math.cos(turn), 0.0]])
    return torch.cat([_turned(part, matrix) for part in images.split(AT_ONCE)])


def _turned(images: Tensor, matrix: Tensor) -> Tensor:
    grid = F.affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    found = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found.round().clamp(0, 255).to(torch.uint8)
