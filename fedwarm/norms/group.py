"""Group normalisation."""

from __future__ import annotations

from math import gcd

from torch import nn

from fedwarm.norms import replaced
from fedwarm.settings.fields import SettingError

GROUPS = 32


def group(model: nn.Module) -> None:
    """Group normalisation (Wu and He, arXiv 1803.08494) in place of others: at most 32 groups, of 4 channels or more.

    Raises:
        SettingError: the model has no layers of normalisation.
    """

    def new(layer: nn.Module, channels: int) -> nn.Module:
        groups = gcd(channels, min(GROUPS, max(1, channels // 4)))
        return layer if isinstance(layer, nn.GroupNorm) else nn.GroupNorm(groups, channels)

    if not replaced(model, new):
        raise SettingError("model.norm = 'group' finds no layer to replace; use model.norm='own' or another model.name")


COMPONENT = group
