"""Libraries of architectures that `model.name = 'LIBRARY:NAME'` takes models from.

A component is a function (name) -> `Named`: the factory of the library's model of that name. It goes before a module of the
library's name in `module:attribute`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, NoReturn

from torch import nn

from fedwarm.pretrained.inputs import Colours
from fedwarm.settings.fields import SettingError, near


class Named:
    """A factory of a library's model: (classes, image size) -> module with weights drawn at random."""

    def __init__(self, name: str) -> None:
        self.name = name

    @cached_property
    def expected(self) -> Any:
        """What the library says that its published weights expect, with `mean` and `std` of colours; None: nothing.

        Raises:
            SettingError: the library has no such model, or is not installed.
        """
        return None

    @property
    def mean(self) -> Colours | None:
        """Of the input that its published weights expect, by channel, of pixels in [0, 1]; None: the project's own."""
        return None if self.expected is None else tuple(self.expected.mean)

    @property
    def deviation(self) -> Colours | None:
        """As `mean`, the standard deviation."""
        return None if self.expected is None else tuple(self.expected.std)

    def __call__(self, classes: int, image_size: int) -> nn.Module:
        """The model for so many classes and RGB pictures of that side.

        Raises:
            SettingError: the library has no such model, or it cannot be built so.
        """
        raise NotImplementedError


def unknown(library: str, name: str, known: Iterable[str], how: str) -> NoReturn:
    """Refuse a name that a library does not know.

    Raises:
        SettingError: always, with the near names and `how` to list them.
    """
    raise SettingError(f"model.name = '{library}:{name}' is not a model of {library}{near(name, list(known))}; {how} lists them")


def build(told: str, size: int, make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` makes, its refusals as one line.

    Raises:
        SettingError: the model cannot be built.
    """
    try:
        return make()
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SettingError(
            f"model.name = {told!r} cannot be built for pictures of {size} pixels: {reason}; set model.input-size, e.g. 224"
        ) from error
