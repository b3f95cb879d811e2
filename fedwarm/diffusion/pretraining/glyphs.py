"""Endless captioned pictures of digits, rendered from fonts or written by a pen: the public data of the embedded foundation.

No data set is read: the shapes come from the fonts that matplotlib ships (DejaVu, STIX, Computer Modern) and from `pen`, bent,
thickened, blurred, placed and coloured at random, and the caption says what was drawn. All is a function of the generator given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.diffusion.sentences import WORDS

FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSerif",
    "DejaVuSerif-Italic", "DejaVuSerif-Bold", "STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol", "STIXGeneralBolIta",
    "cmr10", "cmss10", "cmtt10", "cmti10", "cmb10", "cmmi10",
)  # fmt: skip
CANVAS, SIZE = 64, 32
COLOURS = {
    "red": (0.85, 0.15, 0.15), "green": (0.15, 0.65, 0.25), "blue": (0.15, 0.3, 0.85), "yellow": (0.95, 0.85, 0.2),
    "purple": (0.55, 0.2, 0.7), "orange": (0.95, 0.55, 0.15), "cyan": (0.2, 0.8, 0.85), "pink": (0.95, 0.5, 0.7),
    "brown": (0.45, 0.28, 0.15),
}  # fmt: skip


@dataclass(frozen=True)
class Law:
    """How pictures are drawn.

    Attributes:
        written: share of those whose shape is one of the handwritten, which come after the fonts' in the masks.
        tilt: least and most angle, in radians to either side, of the quarter that is tilted.
        sides: sides in pixels of the grids through which pictures come, each as likely.
    """

    written: float = 0.0
    tilt: tuple[float, float] = (0.2, 0.5)
    sides: tuple[int, ...] = (8, 8, 10, 12, 16, 32, 32)


FONTS_ALONE = Law()  # of the embedded foundation until 28 November 2026, and of judges: near the tilts and grids of `digits`
BY_HAND = Law(0.6, (0.15, 0.8), (10, 12, 14, 16, 18, 20, 24, 28, 32, 32))


def font_masks() -> Tensor:
    """Every font's ten digits, filling the canvas: (fonts, 10, 64, 64) in [0, 1]."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(get_data_path()) / "fonts" / "ttf"
    masks = np.zeros((len(FONTS), 10, CANVAS, CANVAS), dtype=np.float32)
    for i, name in enumerate(FONTS):
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), 96)
        for digit in range(10):
            large = Image.new("L", (192, 192))
            ImageDraw.Draw(large).text((96, 96), str(digit), fill=255, font=font, anchor="mm")
            glyph = large.crop(large.getbbox())
            height = 44
            width = max(6, round(glyph.width * height / glyph.height))
            glyph = glyph.resize((width, height), Image.Resampling.LANCZOS)
            x, y = (CANVAS - width) // 2, (CANVAS - height) // 2
            masks[i, digit, y : y + height, x : x + width] = np.asarray(glyph, dtype=np.float32) / 255
    return torch.from_numpy(masks)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=generator)


def _bend(masks: Tensor, tilted: Tensor, tilt: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Random affine and smooth elastic maps: (n, 1, 64, 64) -> (n, 1, 64, 64)."""
    n = len(masks)
    angle = torch.where(tilted, _uniform(n, *tilt, generator), _uniform(n, -0.12, 0.12, generator))
    angle = angle * torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    scale_y = 1 / _uniform(n, 0.85, 1.4, generator)
    scale_x = 1 / (_uniform(n, 0.8, 1.45, generator))
    shear = _uniform(n, -0.3, 0.3, generator)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale_x * cos, scale_x * (shear * cos - sin)
    theta[:, 1, 0], theta[:, 1, 1] = scale_y * sin, scale_y * (shear * sin + cos)
    theta[:, :, 2] = torch.stack([_uniform(n, -0.16, 0.16, generator), _uniform(n, -0.12, 0.12, generator)], 1)
    grid = F.affine_grid(theta, [n, 1, CANVAS, CANVAS], align_corners=False)
    coarse = torch.randn(n, 2, 5, 5, generator=generator) * _uniform(n, 0.02, 0.14, generator).view(n, 1, 1, 1)
    field = F.interpolate(coarse, size=(CANVAS, CANVAS), mode="bicubic", align_corners=True)
    return F.grid_sample(masks, grid + field.permute(0, 2, 3, 1), align_corners=False)


def _stroke(masks: Tensor, kind: Tensor) -> Tensor:
    """Thin (0), as drawn (1) or thick (2, 3) strokes by grey morphology."""
    thin = -F.max_pool2d(-masks, 3, 1, 1)
    thin = torch.maximum(thin, 0.5 * masks)
    thick = F.max_pool2d(masks, 5, 1, 2)
    thicker = F.max_pool2d(thick, 3, 1, 1)
    stack = torch.stack([thin, masks, thick, thicker])
    return stack[kind, torch.arange(len(masks))]


def _blur(masks: Tensor, sides: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Down to 32x32 by way of a random coarser grid, as low-resolution scans are: (n, 1, 64, 64) -> (n, 1, 32, 32)."""
    pick = torch.randint(len(sides), (len(masks),), generator=generator)
    out = torch.empty(len(masks), 1, SIZE, SIZE)
    for i, side in enumerate(sides):
        chosen = pick == i
        if chosen.any():
            small = F.interpolate(masks[chosen], size=(side, side), mode="area")
            mode = "bicubic" if i % 2 else "bilinear"
            out[chosen] = F.interpolate(small, size=(SIZE, SIZE), mode=mode, align_corners=False)
    return out.clamp(0, 1)


def _shades(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, list[str]]:
    """Stroke and ground colours with a contrast an eye can read, and the words for them."""
    names = list(COLOURS)
    palette = torch.tensor(list(COLOURS.values()))
    grey = torch.rand(n, generator=generator)
    light = (0.72 + 0.28 * grey)[:, None].expand(n, 3)
    dark = (0.28 * torch.rand(n, generator=generator))[:, None].expand(n, 3)
    tint = 0.12 * torch.randn(n, 3, generator=generator)
    colour = torch.randint(len(names), (n,), generator=generator)
    vivid = palette[colour] + tint
    kind = torch.randint(6, (n,), generator=generator)
    fore, back, words = torch.empty(n, 3), torch.empty(n, 3), []
    for i in range(n):
        k, name = int(kind[i]), names[int(colour[i])]
        bright = float(vivid[i].mean()) > 0.45
        pairs = (
            (light[i], dark[i], "light on dark"),
            (dark[i], light[i], "dark on light"),
            (vivid[i], dark[i] if bright else light[i], f"{name} on {'dark' if bright else 'light'}"),
            (light[i] if not bright else dark[i], vivid[i], f"{'light' if not bright else 'dark'} on {name}"),
            (light[i] + 0.5 * tint[i], dark[i] + 0.5 * tint[i].flip(0), "light on dark"),
            (vivid[i] * 1.2 + 0.1, vivid[i].flip(0) * 0.35, f"{name} on dark"),
        )
        fore[i], back[i] = pairs[k][0], pairs[k][1]
        words.append(pairs[k][2])
    return fore.clamp(0, 1), back.clamp(0, 1), words


def _caption(digit: int, shade: str, thick: bool, tilted: bool, generator: torch.Generator) -> str:
    """The sentence for one picture; half of them say nothing but the digit."""
    draw = torch.rand(3, generator=generator)
    text = f"a photo of a {WORDS[digit] if draw[0] < 0.7 else digit}"
    if draw[1] < 0.5:
        return text
    parts = [text, shade] + (["thick strokes"] if thick else []) + (["tilted"] if tilted else [])
    return ", ".join(parts)


def _hands(masks: Tensor, n: int, law: Law, generator: torch.Generator) -> Tensor:
    """Which font or hand each of n pictures has."""
    if not law.written:
        return torch.randint(len(masks), (n,), generator=generator)
    fonts = len(FONTS)
    draw, by_hand = torch.rand(n, generator=generator), torch.rand(n, generator=generator) < law.written
    return torch.where(by_hand, fonts + draw * (len(masks) - fonts), draw * fonts).long()


def glyph_batch(masks: Tensor, n: int, generator: torch.Generator, law: Law = FONTS_ALONE) -> tuple[Tensor, list[str], Tensor]:
    """Draw n pictures.

    Args:
        masks: the result of `font_masks`, (fonts, 10, 64, 64), and after it that of `pen.pen_masks` where the law wants it.
        n: how many.
        generator: every random draw comes from it.
        law: how they are drawn.

    Returns:
        images (n, 3, 32, 32) in [-1, 1]; captions; digits (n,).
    """
    hand = _hands(masks, n, law, generator)
    digit = torch.randint(10, (n,), generator=generator)
    tilted = torch.rand(n, generator=generator) < 0.25
    stroke = torch.randint(4, (n,), generator=generator)
    shape = _bend(_stroke(masks[hand, digit][:, None].float(), stroke), tilted, law.tilt, generator)
    alpha = _blur(shape, law.sides, generator)
    gain = _uniform(n, 0.8, 1.5, generator).view(n, 1, 1, 1)
    alpha = (alpha * gain).clamp(0, 1)
    fore, back, shades = _shades(n, generator)
    image = back[:, :, None, None] * (1 - alpha) + fore[:, :, None, None] * alpha
    image = (image + 0.01 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    words = [
        _caption(int(d), s, bool(k >= 2), bool(t), generator) for d, s, k, t in zip(digit, shades, stroke, tilted, strict=True)
    ]
    return image * 2 - 1, words, digit
