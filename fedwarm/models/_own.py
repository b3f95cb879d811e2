"""Modules that cannot travel: whose tensors have two names, or are computed from others outside of the forward pass."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from fedwarm.settings.fields import SettingError


def check_own(where: str, module: nn.Module) -> None:
    """See that each name of a module's state stands for numbers of its own, as aggregation, codecs and noise take it.

    Args:
        where: what gave the module, for errors.

    Raises:
        SettingError: a layer has a parametrization, or a tensor two names.
    """
    for name, part in module.named_modules():
        if parametrize.is_parametrized(part):
            raise SettingError(
                f"{where} has a parametrization on layer {name!r} (weight_norm and the like), which cannot be trained here; "
                "leave it out, or compute the weight in forward"
            )
    names: dict[int, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        other = names.setdefault(id(tensor), name)
        if other != name:
            raise SettingError(
                f"{where} holds one tensor under two names, {other!r} and {name!r}; keep it under one, used twice in forward, "
                "e.g. as F.linear(x, self.embedding.weight)"
            )
