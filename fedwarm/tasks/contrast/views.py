"""Random views of images, by torchvision's transforms (v2): crop, flip, colour, grey, noise.

Every number is drawn beforehand from the generator that is handed over, and torchvision's functions are called with it, so that
nobody else's random numbers are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedwarm.settings.fields import Group, setting

LOW, HIGH = -1.0, 1.0  # as `models.to_input` has them
RATIO = (math.log(3 / 4), math.log(4 / 3))
DRAWN = 12  # numbers of a view: area, ratio, two offsets, flip, four of colour, their order, whether there is colour, grey


@dataclass(frozen=True)
class Views(Group, prefix="views"):
    """Settings of the two views of an image."""

    crop: float = setting(
        0.5, "smallest fraction of an image's area that a view shows, enlarged to the whole; 1: no crop", low=0.01, high=1.0
    )
    flip: str = setting(
        "auto",
        "mirroring of half of the views; yes; no; auto: yes, unless classes are digits, letters or words for numbers, "
        "which mirroring changes",
        choices=("auto", "yes", "no"),
    )  # fmt: skip
    jitter: float = setting(
        0.4, "largest relative change of brightness, contrast and saturation in a view; 0: none", low=0.0, high=1.0
    )
    hue: float = setting(0.0, "largest change of hue in a view, in turns of the colour circle; 0: none", low=0.0, high=0.5)
    jitter_share: float = setting(1.0, "fraction of the views whose colours are changed", low=0.0, high=1.0)
    grey: float = setting(0.0, "fraction of the views that are turned to grey", low=0.0, high=1.0)
    noise: float = setting(
        0.05, "standard deviation of the noise added to a view, as a fraction of the range of a pixel; 0: none", low=0.0
    )


def view(images: Tensor, settings: Views, flips: bool, draws: torch.Generator) -> Tensor:
    """A random view of each image, float (n, 3, S, S) in [-1, 1] to the same; on the images' device.

    Args:
        settings: what is done.
        flips: whether half of them are mirrored.
        draws: on the CPU.
    """
    numbers = torch.rand(len(images), DRAWN, generator=draws, dtype=torch.float64)
    noise = torch.randn(images.shape, generator=draws) if settings.noise else None
    scaled = (images[:, :1] if is_grey(images) else images).sub(LOW).div(HIGH - LOW)
    seen = torch.stack([_one(image, row, settings, flips) for image, row in zip(scaled, numbers.tolist(), strict=True)])
    seen = seen.expand_as(images)
    if noise is not None:
        seen = seen + settings.noise * noise.to(seen)
    return LOW + (HIGH - LOW) * seen.clamp(0, 1)


def _one(image: Tensor, numbers: list[float], settings: Views, flips: bool) -> Tensor:
    from torchvision.transforms.v2 import functional

    if settings.crop < 1:
        top, left, height, width = box(image.shape[-1], settings.crop, *numbers[:4])
        image = functional.resized_crop_image(image, top, left, height, width, list(image.shape[-2:]), antialias=True)
    if flips and numbers[4] < 0.5:
        image = functional.horizontal_flip_image(image)
    if numbers[10] < settings.jitter_share:
        image = _coloured(image, numbers[5:10], settings)
    grey = len(image) > 1 and numbers[11] < settings.grey
    return functional.rgb_to_grayscale_image(image, 3) if grey else image


def box(size: int, least: float, area: float, ratio: float, down: float, right: float) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop of a square, from four numbers in [0, 1), as of torchvision's RandomResizedCrop.

    Its area is uniform between `least` and 1, its ratio between 3/4 and 4/3 by logarithm; a side that is too long is cut.
    """
    pixels, shape = size * size * (least + (1 - least) * area), math.exp(RATIO[0] + (RATIO[1] - RATIO[0]) * ratio)
    width, height = (min(size, max(1, round(math.sqrt(part)))) for part in (pixels * shape, pixels / shape))
    return int(down * (size - height + 1)), int(right * (size - width + 1)), height, width


def _coloured(image: Tensor, numbers: list[float], settings: Views) -> Tensor:
    """Brightness, contrast, saturation and hue, begun anywhere in this circle, as of torchvision's ColorJitter."""
    from torchvision.transforms.v2 import functional

    if settings.jitter == settings.hue == 0:
        return image
    bright, contrast, saturation = (1 + settings.jitter * (2 * number - 1) for number in numbers[:3])
    steps: list[Callable[[Tensor], Tensor]] = [
        lambda seen: functional.adjust_brightness_image(seen, bright),
        lambda seen: functional.adjust_contrast_image(seen, contrast),
    ]
    if len(image) > 1:
        steps.append(lambda seen: functional.adjust_saturation_image(seen, saturation))
        if settings.hue:
            steps.append(lambda seen: functional.adjust_hue_image(seen, settings.hue * (2 * numbers[3] - 1)))
    first = int(numbers[4] * len(steps))
    for step in steps[first:] + steps[:first]:
        image = step(image)
    return image


def is_grey(images: Tensor) -> bool:
    """Whether all channels of images (n, 3, S, S) are alike, so that there is no colour to change."""
    return bool((images[:, :1] == images[:, 1:]).all())


NUMBERS = frozenset(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))


def flips(settings: Views, classes: tuple[str, ...]) -> bool:
    """Whether views are mirrored, given the names of the classes, where they are known; `auto` mirrors none of unknown ones."""
    if settings.flip != "auto":
        return settings.flip == "yes"
    return bool(classes) and not all(len(name) == 1 or name.lower() in NUMBERS or name.isdecimal() for name in classes)
