"""Bytes of what autograd keeps, counted on nets without numbers: exact where attention is fused (its matrix is never stored).

What an operation takes for a moment is not in it, so a measured peak is higher.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _Fused(TorchFunctionMode):
    """Counts attention as its fused kernels store it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3]) if args else _Attention.apply(*(kwargs[n] for n in ("query", "key", "value")))
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """Only its memory is right: it keeps query, key, value, result and one number a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, rows = query.shape[:3]
        result = query.new_empty(batch, rows, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, result, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return result


def kept_bytes(net: nn.Module, forward: Callable[[], object]) -> int:
    """Bytes of the distinct tensors that a forward pass of a net on the device `meta` keeps, parameters left out."""
    weights = {p.untyped_storage()._cdata for p in net.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.device("meta"), torch.enable_grad(), hooks, _Fused():
        forward()
    return sum(t.untyped_storage().nbytes() for t in kept.values())
