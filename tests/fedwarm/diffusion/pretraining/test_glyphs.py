"""Rendered digits: what fonts and captions promise, and that one generator decides all."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from fedwarm.core.seeds import generator
from fedwarm.diffusion.pretraining.glyphs import CANVAS, COLOURS, FONTS, SIZE, font_masks, glyph_batch
from fedwarm.diffusion.sentences import WORDS

SHADE = "|".join(["light", "dark", *COLOURS])
CAPTION = re.compile(rf"a photo of a (?P<digit>\d|{'|'.join(WORDS)})(, ({SHADE}) on ({SHADE})(, thick strokes)?(, tilted)?)?")


@pytest.fixture(scope="module")
def masks() -> Tensor:
    return font_masks()


@pytest.fixture(scope="module")
def drawn(masks: Tensor) -> tuple[Tensor, list[str], Tensor]:
    return glyph_batch(masks, 600, generator(0, "glyphs"))


def test_masks_fill_the_canvas(masks: Tensor) -> None:
    assert masks.shape == (len(FONTS), 10, CANVAS, CANVAS) and masks.dtype == torch.float32
    assert masks.min() == 0 and masks.max() == 1
    rows = masks.amax(3) > 0.1
    assert ((rows.sum(2) >= 40) & (rows.sum(2) <= 44)).all()


def test_every_font_has_ten_distinct_digits(masks: Tensor) -> None:
    flat = masks.flatten(2)
    apart = torch.cdist(flat, flat) + 1e6 * torch.eye(10)
    assert (apart.amin((1, 2)) > 8).all()


def test_fonts_agree_on_which_digit_is_which(masks: Tensor) -> None:
    flat = masks.flatten(2)
    right = 0
    for i in range(len(FONTS)):
        others = torch.cat([flat[:i], flat[i + 1 :]]).mean(0)
        right += int((torch.cdist(flat[i], others).argmin(1) == torch.arange(10)).sum())
    assert right >= 0.95 * 10 * len(FONTS)


def test_shapes_and_range(drawn: tuple[Tensor, list[str], Tensor]) -> None:
    images, captions, digits = drawn
    assert images.shape == (600, 3, SIZE, SIZE) and images.dtype == torch.float32
    assert -1 <= images.min() < -0.9 and 0.9 < images.max() <= 1
    assert torch.isfinite(images).all()
    assert len(captions) == 600 and digits.shape == (600,) and digits.dtype == torch.int64
    assert set(digits.tolist()) == set(range(10))


def test_captions_say_which_digit(drawn: tuple[Tensor, list[str], Tensor]) -> None:
    _, captions, digits = drawn
    spelled = 0
    for caption, digit in zip(captions, digits.tolist(), strict=True):
        found = CAPTION.fullmatch(caption)
        assert found is not None, caption
        assert found["digit"] in (WORDS[digit], str(digit)), caption
        spelled += found["digit"] == WORDS[digit]
    assert 0.6 < spelled / 600 < 0.8
    assert 0.4 < sum("," in caption for caption in captions) / 600 < 0.6


def test_captions_say_what_lies_behind_the_stroke(drawn: tuple[Tensor, list[str], Tensor]) -> None:
    images, captions, _ = drawn
    grey = images.mean(1)
    ground = torch.cat([grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]], 1).median(1).values
    for words, sign in (("light on dark", -1), ("dark on light", 1)):
        rows = [i for i, caption in enumerate(captions) if words in caption]
        assert len(rows) > 30
        assert (sign * ground[rows] > 0).float().mean() > 0.95


def test_digits_stand_out(drawn: tuple[Tensor, list[str], Tensor]) -> None:
    images = drawn[0].flatten(2)
    contrast = (images.amax(2) - images.amin(2)).amax(1)
    assert (contrast > 0.3).all()


def test_one_generator_decides_all(masks: Tensor) -> None:
    state = torch.get_rng_state()
    first, again, other = (glyph_batch(masks, 40, generator(seed, "glyphs")) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and first[1] == again[1] and torch.equal(first[2], again[2])
    assert not torch.equal(first[0], other[0]) and first[1] != other[1]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_generator_goes_on(masks: Tensor) -> None:
    draws = generator(1, "glyphs")
    assert not torch.equal(glyph_batch(masks, 10, draws)[0], glyph_batch(masks, 10, draws)[0])
