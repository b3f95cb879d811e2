"""torchvision's classifiers by name, e.g. `torchvision:resnet18`."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

from torch import nn

from fedwarm.libraries import Named, build, unknown

SIZED = {"vision_transformer": "image_size", "maxvit": "input_size"}  # whose layers depend on the pictures' size
BRANCHED = ("googlenet", "inception")  # which answer by several outputs in training


class Torchvision(Named):
    """A classifier of torchvision, without weights; these come by `model.weights`."""

    @cached_property
    def expected(self) -> Any:
        from torchvision import models

        self._builder()
        return models.get_model_weights(self.name).DEFAULT.transforms()

    def __call__(self, classes: int, image_size: int) -> nn.Module:
        builder = self._builder()
        family = builder.__module__.rpartition(".")[2]
        more: dict[str, Any] = {"aux_logits": False, "init_weights": True} if family in BRANCHED else {}
        if family in SIZED:
            more[SIZED[family]] = image_size if SIZED[family] == "image_size" else (image_size, image_size)
        return build(f"torchvision:{self.name}", image_size, lambda: builder(weights=None, num_classes=classes, **more))

    def _builder(self) -> Any:
        from torchvision import models

        known = models.list_models(module=models)
        if self.name not in known:
            unknown("torchvision", self.name, known, "`torchvision.models.list_models(module=torchvision.models)`")
        return models.get_model_builder(self.name)


@lru_cache(maxsize=16)
def torchvision(name: str) -> Torchvision:
    """Classifiers of torchvision (`torchvision.models`), by their name there."""
    return Torchvision(name)


COMPONENT = torchvision
