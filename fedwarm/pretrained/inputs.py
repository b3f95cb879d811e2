"""Pictures as pre-trained weights expect them: another size, and another mean and deviation of colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.settings.fields import SettingError

CHANNELS = 3
Colours = tuple[float, ...]


def colours(key: str, text: str, default: Sequence[float] | None) -> Colours | None:
    """Three numbers out of a setting's text `0.485,0.456,0.406`, or one for all channels; the default where it is empty.

    Raises:
        SettingError: it is no such text, or they are of other pixels.
    """
    if not text.strip():
        return None if default is None else tuple(default)
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    found = found * CHANNELS if len(found) == 1 else found
    if len(found) != CHANNELS or not all(0 <= number <= 1 for number in found):
        raise SettingError(
            f"{key} = {text!r} is not three numbers, of red, green and blue in [0, 1]; give e.g. '0.485,0.456,0.406'"
        )
    return found


class Expected:
    """A hook before a model's forward pass: pictures (n, 3, S, S) in [-1, 1] as the weights expect them.

    (x / 2 + 1 / 2 - mean) / deviation by channel, then S x S to size x size (bilinear, antialiased). It adds nothing to the
    model's state. Inputs of other shapes pass as they are.

    Args:
        mean, deviation: of pixels in [0, 1], by channel; None: 1/2 each, which is x itself.
        size: pixels; 0: as they come.
    """

    def __init__(self, mean: Colours | None, deviation: Colours | None, size: int = 0) -> None:
        half = (0.5,) * CHANNELS
        centre, scale = mean or half, deviation or half
        self.same = centre == half and scale == half
        self.factor = [0.5 / s for s in scale]
        self.offset = [(0.5 - m) / s for m, s in zip(centre, scale, strict=True)]
        self.size = size

    def __call__(self, model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        x = inputs[0]
        if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] != CHANNELS:
            return None
        if not self.same:
            factor, offset = (torch.tensor(v, dtype=x.dtype, device=x.device)[:, None, None] for v in (self.factor, self.offset))
            x = x * factor + offset
        if self.size and x.shape[-1] != self.size:
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        return (x, *inputs[1:])


def expect(model: nn.Module, mean: Colours | None, deviation: Colours | None, size: int) -> None:
    """Have a model be given pictures as its weights expect them; nothing is done where these are as they come.

    Raises:
        SettingError: a deviation is not above 0.
    """
    if any(s <= 0 for s in deviation or ()):
        raise SettingError("model.std has a number that is not above 0; give the deviations of the weights' training images")
    hook = Expected(mean, deviation, size)
    if not hook.same or size:
        model.register_forward_pre_hook(hook)
