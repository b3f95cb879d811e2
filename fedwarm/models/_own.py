"""Modules that cannot travel: whose tensors have two names, no numbers that have a mean, or are computed from others."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from fedwarm.settings.fields import SettingError


def check_own(where: str, module: Any) -> None:
    """See that each name of a module's state stands for numbers of its own, as aggregation, codecs and noise take it.

    Args:
        where: what gave the module, for errors.

    Raises:
        SettingError: it is no module; a layer has a parametrization, a tensor two names, no shape yet or complex numbers; or
            there are none.
    """
    if not isinstance(module, nn.Module):
        raise SettingError(f"{where} gives {type(module).__name__}; return the torch module")
    for name, part in module.named_modules():
        if parametrize.is_parametrized(part):
            raise SettingError(
                f"{where} has a parametrization on layer {name!r} (weight_norm and the like), which cannot be trained here; "
                "leave it out, or compute the weight in forward"
            )
    if next(module.parameters(), None) is None:
        raise SettingError(f"{where} has no parameters, so that nothing can be trained; return a module with layers of its own")
    names: dict[int, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if is_lazy(tensor):
            raise SettingError(
                f"{where} has the tensor {name!r} without a shape, as of a lazy layer before its first input; give the sizes"
            )
        if tensor.is_complex():
            raise SettingError(
                f"{where} has complex numbers in {name!r}, and models travel as real ones; keep them as two, e.g. by "
                "torch.view_as_real, and join them in forward"
            )
        other = names.setdefault(id(tensor), name)
        if other != name:
            raise SettingError(
                f"{where} holds one tensor under two names, {other!r} and {name!r}; keep it under one, used twice in forward, "
                "e.g. as F.linear(x, self.embedding.weight)"
            )
