"""Examples as people have them, as the tensors that a model takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedwarm.core.inputs import Form
from fedwarm.data.given import input_tensor
from fedwarm.settings.fields import SettingError


def as_inputs(inputs: Any, size: int, background: str) -> Tensor:
    """A batch of examples.

    Args:
        inputs: images: a tensor or array (n, 3, size, size) of uint8, taken as it is; an array (n, height, width[, 3]) of
            uint8, PIL images, or paths, which are scaled.
        size: pixels of a side that images are scaled to.
        background: colour behind images that are transparent.

    Returns:
        a tensor (n, ...); images are uint8 (n, 3, size, size).

    Raises:
        SettingError: the shape or type is none of these.
    """
    if isinstance(inputs, Tensor):
        return _checked(inputs, size)
    if isinstance(inputs, np.ndarray):
        if inputs.ndim == 3 and inputs.shape[2] in (3, 4):
            raise SettingError(f"an array of shape {inputs.shape} is one image; give a list of it: predict([image])")
        if inputs.dtype != np.uint8 or inputs.shape[1:] == (3, size, size):
            return _checked(torch.from_numpy(np.ascontiguousarray(inputs)), size)
        if inputs.ndim == 3 or (inputs.ndim == 4 and inputs.shape[3] == 3):
            return _pictures(list(inputs), size, background)
        raise SettingError(f"images of shape {inputs.shape} cannot be read; give (n, height, width) or (n, height, width, 3)")
    if isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes)):
        return _pictures(inputs, size, background)
    raise SettingError(f"inputs are {type(inputs).__name__}; give a tensor, an array, or a list of PIL images or paths")


def like(form: Form, inputs: Any) -> Tensor:
    """A batch (n, *form.shape) of examples that are no pictures, out of numbers in a tensor, an array or lists.

    Raises:
        SettingError: they are no such numbers, or of another shape.
    """
    found = input_tensor(inputs, "predict")
    if tuple(found.shape[1:]) != form.shape:
        raise SettingError(f"inputs of shape {tuple(found.shape)} do not fit the model; it takes (n, {str(form.shape)[1:]}")
    return found.to(getattr(torch, form.dtype))


def _checked(inputs: Tensor, size: int) -> Tensor:
    if inputs.dtype != torch.uint8:
        kind = str(inputs.dtype).removeprefix("torch.")
        raise SettingError(
            f"images are {kind}, whose scale nobody knows; give uint8 from 0 to 255, e.g. (255 * images).round().astype('uint8') "
            "of an array, or .to(torch.uint8) of a tensor, whose values reach from 0 to 1"
        )
    if inputs.shape[1:] != (3, size, size):
        raise SettingError(f"images of shape {tuple(inputs.shape)} do not fit the model; it takes uint8 (n, 3, {size}, {size})")
    return inputs


def _pictures(images: Sequence[Any], size: int, background: str) -> Tensor:
    from fedwarm.data.pictures import colour, pixels

    if not images:
        return torch.zeros(0, 3, size, size, dtype=torch.uint8)
    return torch.stack([pixels(_opened(image), size, colour(background)) for image in images])


def _opened(image: Any) -> Any:
    from PIL import Image

    from fedwarm.data.pictures import opened

    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    if isinstance(image, (str, os.PathLike)):
        try:
            return opened({"bytes": None, "path": os.fspath(image)}).image
        except OSError as error:
            raise SettingError(f"image {os.fspath(image)!r} cannot be read: {error}; give the path of an image file") from error
    raise SettingError(f"an image is {type(image).__name__}; give PIL images, arrays, or paths")
