"""Classifiers by name, each a function (classes, image size) -> module; none of them uses batch statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from fedwarm.core.seeds import initialisation
from fedwarm.settings.config import Model, SettingError

PIXEL_MEAN, PIXEL_STD = 127.5, 127.5


def to_input(images: Tensor) -> Tensor:
    """uint8 images (n, 3, S, S) as the float input (n, 3, S, S) in [-1, 1] that every classifier takes."""
    return (images.float() - PIXEL_MEAN) / PIXEL_STD


def logistic(classes: int, image_size: int) -> nn.Module:
    """Multinomial logistic regression on the pixels; 30,730 parameters for 10 classes at 32x32."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size * image_size, classes))


def cnn(classes: int, image_size: int) -> nn.Module:
    """Two convolutions and one linear layer; 34,538 parameters for 10 classes at 32x32."""
    side = image_size // 4
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * side * side, classes),
    )  # fmt: skip


def lenet5(classes: int, image_size: int) -> nn.Module:
    """LeNet-5 (LeCun et al., 1998) with ReLU and max pooling, on colour images."""
    side = image_size // 4 - 3
    if side < 1:
        raise SettingError(f"lenet5 needs images of at least 16 pixels; data.image-size is {image_size}")
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * side * side, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes),
    )  # fmt: skip


class _Residual(nn.Module):
    """Two 3x3 convolutions with GroupNorm beside a shortcut (He et al., arXiv 1512.03385, section 4.2, option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(8, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x)).relu()
        summed: Tensor = self.norm2(self.conv2(y)) + self.shortcut(x)
        return summed.relu()


def resnet8(classes: int, image_size: int) -> nn.Module:
    """The ResNet for small images of He et al. (arXiv 1512.03385, section 4.2) with n = 1 and GroupNorm; 77,850 parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.GroupNorm(8, 16), nn.ReLU(),
        _Residual(16, 16, 1), _Residual(16, 32, 2), _Residual(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes),
    )  # fmt: skip


def resnet18(classes: int, image_size: int) -> nn.Module:
    """torchvision's ResNet-18 with GroupNorm, so that averages of weights are averages of the whole model."""
    from torchvision.models import resnet18 as build

    model: nn.Module = build(num_classes=classes, norm_layer=lambda c: nn.GroupNorm(min(32, c // 4), c))
    if image_size <= 64:
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model


MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "cnn": cnn, "lenet5": lenet5, "logistic": logistic, "resnet8": resnet8, "resnet18": resnet18,
}  # fmt: skip


def build_model(
    settings: Model, classes: int, image_size: int, seed: int, state: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """The classifier of a run with its shared initialisation: the same weights for the same settings and seed.

    Args:
        state: weights to take instead, without drawing any; the module keeps these tensors.

    Raises:
        SettingError: `model.weights` names no file, or one that does not fit.
        RuntimeError: `state` does not fit.
    """
    if state is not None:
        empty, shapes = _empty(settings.name, classes, image_size)
        if {name: tensor.shape for name, tensor in state.items()} == shapes:
            return _twin(empty, state)
        model = _twin(empty)
        model.load_state_dict(state, strict=True, assign=True)  # says what does not fit
        return model
    with initialisation(seed, "model"):
        model = MODELS[settings.name](classes, image_size)
    if settings.weights:
        _load_weights(model, Path(settings.weights))
    return model


@lru_cache(maxsize=4)
def _empty(name: str, classes: int, image_size: int) -> tuple[nn.Module, dict[str, torch.Size]]:
    """The classifier without numbers, to take twins of: several times faster than to build it; and the shapes of its state."""
    with torch.device("meta"):
        model = MODELS[name](classes, image_size)
    return model, {name: tensor.shape for name, tensor in model.state_dict().items()}


def _twin(module: nn.Module, state: Mapping[str, Tensor] | None = None, prefix: str = "") -> nn.Module:
    """The same module with tables (parameters, buffers, parts, hooks) of its own; tensors are shared, or those of `state`."""
    twin = copy.copy(module)
    vars(twin).update({name: table.copy() for name, table in vars(module).items() if isinstance(table, dict)})
    parts = {name: None if part is None else _twin(part, state, f"{prefix}{name}.") for name, part in module._modules.items()}
    twin._modules = parts
    if state is not None:
        for name, parameter in module._parameters.items():
            if parameter is not None:
                twin._parameters[name] = nn.Parameter(state[prefix + name], parameter.requires_grad)
        twin._buffers.update({name: state[prefix + name] for name in module._buffers if prefix + name in state})
    return twin


def _load_weights(model: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise SettingError(f"model.weights = {str(path)!r} is no file; give a safetensors file of the classifier's state")
    try:
        model.load_state_dict(load_file(path))
    except (RuntimeError, ValueError, SafetensorError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines())[:600]
        raise SettingError(f"model.weights = {str(path)!r} does not fit the classifier: {reason}") from error


def device_of(name: str) -> torch.device:
    """The device of the setting `device`.

    Raises:
        SettingError: CUDA is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingError("device = 'cuda', but torch finds no CUDA device here; use device = 'auto' or 'cpu'")
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))
