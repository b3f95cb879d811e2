"""timm's classifiers by name, e.g. `timm:vit_tiny_patch16_224`."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

from torch import nn

from fedwarm.libraries import Named, build, unknown
from fedwarm.settings.fields import SettingError


class Timm(Named):
    """A classifier of timm, without weights; these come by `model.weights`."""

    @cached_property
    def expected(self) -> Any:
        return self._library().models.get_pretrained_cfg(self.name)

    @property
    def head(self) -> str:
        """The name of the last layer; empty where timm names several or none."""
        named = self.expected.classifier
        return named if isinstance(named, str) else ""

    def __call__(self, classes: int, image_size: int) -> nn.Module:
        library = self._library()

        def make() -> nn.Module:
            try:  # transformers need the size of the pictures, others do not know the argument
                made: nn.Module = library.create_model(self.name, num_classes=classes, img_size=image_size)
            except TypeError:
                made = library.create_model(self.name, num_classes=classes)
            return made

        return build(f"timm:{self.name}", image_size, make)

    def _library(self) -> Any:
        try:
            import timm
        except ImportError as error:
            raise SettingError(
                f"model.name = 'timm:{self.name}' needs the package timm, which is not installed; pip install fedwarm[timm]"
            ) from error
        if not timm.is_model(self.name):
            unknown("timm", self.name, timm.list_models(pretrained=False), "`timm.list_models()`")
        return timm


@lru_cache(maxsize=16)
def timm(name: str) -> Timm:
    """Classifiers of timm (PyTorch Image Models; `pip install fedwarm[timm]`), by their name there."""
    return Timm(name)


COMPONENT = timm
