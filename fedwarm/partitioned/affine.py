"""Random affine maps of images whose widths are learned: T = expm(sum_g u_g psi_g G_g), u ~ U[-1, 1]."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

GENERATORS: dict[str, tuple[tuple[int, int, float], ...]] = {
    "shift-x": ((0, 2, 1.0),),
    "shift-y": ((1, 2, 1.0),),
    "rotation": ((0, 1, -1.0), (1, 0, 1.0)),
    "scale-x": ((0, 0, 1.0),),
    "scale-y": ((1, 1, 1.0),),
    "shear": ((0, 1, 1.0), (1, 0, 1.0)),
}
"""Entries (row, column, value) of the generators of maps of the plane, in homogeneous coordinates from -1 to 1."""


def bases(names: tuple[str, ...]) -> Tensor:
    """The generators (G, 3, 3), float64."""
    found = torch.zeros(len(names), 3, 3, dtype=torch.float64)
    for matrix, name in zip(found, names, strict=True):
        for row, column, value in GENERATORS[name]:
            matrix[row, column] = value
    return found


def maps(widths: Tensor, names: tuple[str, ...], draws: Tensor) -> Tensor:
    """T (b, 3, 3) of half-widths (G,) and draws (b, G) from U[-1, 1]; a rotation is no wider than pi to each side."""
    limits = widths.new_tensor([pi if name == "rotation" else torch.inf for name in names])
    scaled = draws * widths.clamp(-limits, limits)
    found: Tensor = torch.linalg.matrix_exp(torch.einsum("bg,gij->bij", scaled, bases(names).to(scaled)))
    return found


def warped(images: Tensor, matrices: Tensor) -> Tensor:
    """Images (b, c, S, S) read at the points that T (b, 3, 3) maps theirs to; beyond the edge is what is at the edge."""
    grid = affine_grid(matrices[:, :2].to(images), list(images.shape), align_corners=False)
    found: Tensor = grid_sample(images, grid, padding_mode="border", align_corners=False)
    return found
