"""Batch normalisation."""

from __future__ import annotations

from typing import Any

from torch import nn

from fedwarm.norms import replaced
from fedwarm.settings.fields import SettingError


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` without a counter of steps: all of its state is float, and has a mean."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.num_batches_tracked = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        nn.Module._load_from_state_dict(self, *args, **kwargs)  # torch's own would ask for the counter


def batch(model: nn.Module) -> None:
    """Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) in place of others; its statistics travel like weights.

    Raises:
        SettingError: the model has no layers of normalisation.
    """
    if not replaced(model, lambda layer, channels: BatchNorm(channels)):
        raise SettingError("model.norm = 'batch' finds no layer to replace; use model.norm='own' or another model.name")


COMPONENT = batch
