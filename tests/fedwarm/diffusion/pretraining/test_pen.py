"""Handwritten digits by procedure: whole shapes, no two alike, and that one generator decides all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedwarm.core.seeds import generator
from fedwarm.diffusion.pretraining.glyphs import BY_HAND, CANVAS, FONTS, Law, font_masks, glyph_batch
from fedwarm.diffusion.pretraining.pen import WAYS, pen_masks, written
from fedwarm.diffusion.pretraining.recipe import noise_weight


@pytest.fixture(scope="module")
def masks() -> Tensor:
    return pen_masks(12, generator(0, "pen"))


def test_ten_digits_a_hand_that_fill_the_canvas(masks: Tensor) -> None:
    assert masks.shape == (12, 10, CANVAS, CANVAS) and masks.min() == 0 and masks.max() == 1
    rows = (masks > 0.1).any(3).sum(2)
    assert (rows >= 36).all() and (rows <= 60).all()
    covered = masks.float().mean((2, 3))
    assert covered.min() > 0.01 and covered.max() < 0.3


def test_a_hand_is_near_others_of_its_digit(masks: Tensor) -> None:
    """A digit's mean shape over hands is nearer than other digits', for most that are left out of the mean."""
    flat = torch.nn.functional.avg_pool2d(masks.float().flatten(0, 1)[:, None], 4).view(12, 10, -1)
    right = 0
    for i in range(12):
        mean = torch.cat([flat[:i], flat[i + 1 :]]).mean(0)
        right += int((torch.cdist(flat[i], mean).argmin(1) == torch.arange(10)).sum())
    assert right > 60


def test_one_generator_decides_all_and_no_two_are_alike(masks: Tensor) -> None:
    assert torch.equal(pen_masks(12, generator(0, "pen")), masks)
    flat = masks.float().transpose(0, 1).flatten(2)
    apart = torch.cdist(flat, flat) + 1e6 * torch.eye(12)
    assert (apart.amin((1, 2)) > 1).all()


def test_every_way_of_writing_is_used() -> None:
    for digit, ways in enumerate(WAYS):
        many = written(torch.full((16,), digit), generator(digit, "ways"))
        assert len(ways) >= 2 and torch.isfinite(many).all() and (many.amax((1, 2)) > 0.9).all()
        assert all(0 <= x <= 1 and 0 <= y <= 1 for way in ways for _, points in way for x, y in points)


def test_pictures_are_by_hand_in_the_share_that_is_asked_for(masks: Tensor) -> None:
    """With hands that are blank, as many pictures show nothing as the law has by hand."""
    both = torch.cat([font_masks().half(), torch.zeros_like(masks)])
    images, captions, digits = glyph_batch(both, 400, generator(0, "share"), BY_HAND)
    blank = (images.flatten(2).std(2).amax(1) < 0.05).float().mean()
    assert abs(blank - BY_HAND.written) < 0.1 and len(captions) == len(digits) == 400
    fonts = glyph_batch(both, 100, generator(0, "share"), Law(0.0, BY_HAND.tilt, BY_HAND.sides))[0]
    assert not torch.equal(fonts, images[:100]) and len(both) == len(FONTS) + 12


def test_noise_levels_are_weighed_by_min_snr() -> None:
    kept = torch.tensor([0.999, 5 / 6, 0.5, 0.01])
    snr = kept / (1 - kept)
    torch.testing.assert_close(noise_weight(kept, 5.0), snr.clamp(max=5.0) / snr)
    assert torch.equal(noise_weight(kept, 0.0), torch.ones(4))
