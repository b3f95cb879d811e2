"""Features of oriented edges, by what they must not see: which of stroke and ground is lighter, and how much."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedwarm.models.edges import CELLS, LENGTH, ORIENTATIONS, OrientedEdges


def bars(horizontal: bool) -> Tensor:
    """A picture (1, 3, 32, 32) in [-1, 1] with bars in one direction."""
    wave = torch.where(torch.arange(32) % 8 < 4, 1.0, -1.0)
    return (wave[:, None] if horizontal else wave[None, :]).expand(1, 3, 32, 32).clone()


def test_neither_polarity_nor_contrast_nor_brightness_counts() -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = OrientedEdges()(images)
    for other in (-images, 0.5 * images, images + 0.2):
        torch.testing.assert_close(OrientedEdges()(other), found, rtol=0.0, atol=0.005 * LENGTH)


def test_they_are_centred_and_of_one_length() -> None:
    found = OrientedEdges()(torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(1)))
    assert found.shape == (4, ORIENTATIONS * CELLS**2) and found.mean(dim=1).abs().max() < 1e-5
    assert found.norm(dim=1).tolist() == pytest.approx([LENGTH] * 4, rel=0.01)
    assert OrientedEdges()(torch.zeros(1, 3, 8, 8)).abs().max() < 1e-3


def test_directions_are_told_apart() -> None:
    level, upright = (OrientedEdges()(bars(way)).reshape(ORIENTATIONS, -1).sum(dim=1) for way in (True, False))
    assert int(upright.argmax()) == 0 and int(level.argmax()) == ORIENTATIONS // 2
