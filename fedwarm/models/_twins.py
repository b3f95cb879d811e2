"""Copies of a module that share what it does not change and have tensors of their own: several times faster than to build it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType

import torch
from torch import Tensor, nn

from fedwarm.pretrained.inputs import Expected

TABLES = frozenset(vars(nn.Module())) - {"_forward_hooks", "_forward_pre_hooks"}
SHARED = (bool, int, float, str, type, type(None), torch.dtype, torch.device, BuiltinFunctionType, Expected)


def copies(module: nn.Module) -> bool:
    """Whether a twin is as good as a module that is built anew: all that a part knows is its state, parts and plain values."""
    parts = list(module.modules())
    own = (value for part in parts for name, value in vars(part).items() if name not in TABLES)
    return not any(part._non_persistent_buffers_set for part in parts) and all(map(_plain, own))


def forms(state: Mapping[str, Tensor]) -> dict[str, object]:
    """What tells whether a state is of a module: the shape and dtype of each tensor."""
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}


def twin(module: nn.Module, state: Mapping[str, Tensor], prefix: str = "") -> nn.Module:
    """The same module with tables (parameters, buffers, parts, hooks) of its own, and the tensors of `state`."""
    made = copy.copy(module)
    vars(made).update({name: table.copy() for name, table in vars(module).items() if isinstance(table, dict)})
    made._modules = {n: None if part is None else twin(part, state, f"{prefix}{n}.") for n, part in module._modules.items()}
    for name, parameter in module._parameters.items():
        if parameter is not None:
            made._parameters[name] = nn.Parameter(state[prefix + name], parameter.requires_grad)
    made._buffers.update({name: state[prefix + name] for name in module._buffers if prefix + name in state})
    return made


def _plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_plain, value))
    return value.__closure__ is None if isinstance(value, FunctionType) else isinstance(value, SHARED)
