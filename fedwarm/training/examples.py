"""Gradients of single examples: of all at once by `torch.func`, of one after another, or of a batch that passes the net once.

A loss takes parameters by name and examples, tensors (b, ...), and gives their losses (b,), or a scalar for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

Loss = Callable[..., Tensor]
Weights = Mapping[str, nn.Parameter]
Found = dict[str, Tensor]
Singly = Callable[[Loss, Weights, tuple[Tensor, ...]], Found]
"""Gives the gradient (b, *shape) of each example's own loss, by the parameter's name."""


def at_once(loss: Loss, parameters: Weights, examples: tuple[Tensor, ...]) -> Found:
    """By vmap: any net, but none with checkpoints, and its attention keeps every score."""
    if not len(examples[0]):
        return _none(parameters)
    each = vmap(
        grad(lambda weights, *one: loss(weights, *(t[None] for t in one)).sum()),
        in_dims=(None, *(0 for _ in examples)),
        randomness="different",
    )
    with sdpa_kernel(SDPBackend.MATH):
        found: Found = each({name: p.detach() for name, p in parameters.items()}, *examples)
    return found


def one_by_one(loss: Loss, parameters: Weights, examples: tuple[Tensor, ...]) -> Found:
    """By a pass of each example alone: any net."""
    named, weights, rows = dict(parameters), list(parameters.values()), []
    for i in range(len(examples[0])):
        value = loss(named, *(t[i : i + 1] for t in examples)).sum()
        rows.append(torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True))
    if not rows:
        return _none(parameters)
    return {name: torch.stack(column) for name, column in zip(named, zip(*rows, strict=True), strict=True)}


class Batched:
    """By one pass of a batch, where all that is trained are weights of linear layers: dW_i sums g_i x_i^T over positions.

    Goodfellow, "Efficient Per-Example Gradient Computations", arXiv 1510.01799. It takes a net's fused attention and its
    checkpoints as they are. Before the first batch the net is asked about two made-up examples; where something of one reaches
    the other's loss, or a layer does not see them one beside the other, the gradients are found otherwise.

    Args:
        net: whose layers are called by the loss.
        most: examples that pass at a time.
        otherwise: for a net that does not take examples apart.

    Attributes:
        apart: whether it does; None: it was not asked yet.
    """

    def __init__(self, net: nn.Module, most: int, otherwise: Singly = one_by_one) -> None:
        self.net, self.most, self.otherwise = net, most, otherwise
        self.apart: bool | None = None

    def __call__(self, loss: Loss, parameters: Weights, examples: tuple[Tensor, ...]) -> Found:
        if not len(examples[0]):
            return _none(parameters)
        if self.apart is None:
            self.apart = self._takes_apart(loss, parameters, examples)
        if not self.apart:
            return self.otherwise(loss, parameters, examples)
        parts = [self._of(loss, parameters, part) for part in zip(*(t.split(self.most) for t in examples), strict=True)]
        return {name: torch.cat([part[name] for part in parts]) for name in parameters}

    def _of(self, loss: Loss, parameters: Weights, examples: tuple[Tensor, ...]) -> Found:
        with recording(self.net, parameters) as found:
            loss(dict(parameters), *examples).sum().backward()
        none = _none(parameters, len(examples[0]))
        return {name: torch.stack(found[name]).sum(0) if name in found else none[name] for name in parameters}

    def _takes_apart(self, loss: Loss, parameters: Weights, examples: tuple[Tensor, ...]) -> bool:
        """Whether of two examples the second is nothing to the first one's loss: exactly, in all that a gradient tells."""
        layers = [self.net.get_submodule(layer_of(name)) for name in parameters]
        if not all(isinstance(layer, nn.Linear) and layer.bias is None for layer in layers):
            return False
        two = [torch.zeros_like(t[:1]).repeat(2, *(1 for _ in t.shape[1:])) for t in examples]
        for t in two:
            if t.is_floating_point():
                t.copy_(torch.randn(t.shape, generator=torch.Generator().manual_seed(0)))
        inputs = [t.requires_grad_() for t in two if t.is_floating_point()]
        with recording(self.net, parameters) as found:
            losses = loss(dict(parameters), *two)
            if losses.shape != (2,):
                return False
            alone = torch.autograd.grad(losses[0], inputs, retain_graph=True, allow_unused=True)
            losses.sum().backward()
        beside = all(len(gradient) == 2 for each in found.values() for gradient in each)
        return beside and not any(bool(t[1].any()) for t in alone if t is not None)


def layer_of(name: str) -> str:
    """The layer that a parameter's name belongs to."""
    return name.rpartition(".")[0]


@contextmanager
def recording(net: nn.Module, parameters: Weights) -> Iterator[dict[str, list[Tensor]]]:
    """Has a backward pass put each example's gradient of linear layers' weights into what is yielded, one for each call.

    The parameters' `grad` stays as it is.
    """
    found: dict[str, list[Tensor]] = {}
    layers: dict[str, Any] = {name: net.get_submodule(layer_of(name)) for name in parameters}

    def keeper(name: str, like: Tensor) -> Callable[[Tensor], None]:
        def keep(gradient: Tensor) -> None:
            found.setdefault(name, []).append(gradient.to(like.dtype))

        return keep

    try:
        for name, layer in layers.items():
            layer.forward = _forward(layer, keeper(name, parameters[name]))
        yield found
    finally:
        for layer in layers.values():
            layer.__dict__.pop("forward", None)


def _forward(layer: nn.Linear, keep: Callable[[Tensor], None]) -> Callable[[Tensor], Tensor]:
    def forward(inputs: Tensor) -> Tensor:
        said: Tensor = _Product.apply(inputs, layer.weight, keep)
        return said

    return forward


class _Product(torch.autograd.Function):
    """x W^T, whose backward pass keeps the gradient of W of each row of x, and gives W none."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, keep: Callable[[Tensor], None]) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.keep = keep
        return F.linear(inputs, weight.to(inputs.dtype))

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, None, None]:
        (above,), (inputs, weight) = given, ctx.saved_tensors
        rows = [t.reshape(len(t), -1, t.shape[-1]) for t in (above, inputs)]
        ctx.keep(torch.bmm(rows[0].mT, rows[1]))
        return above @ weight.to(above.dtype) if ctx.needs_input_grad[0] else None, None, None


def _none(parameters: Weights, count: int = 0) -> Found:
    return {name: p.new_zeros(count, *p.shape) for name, p in parameters.items()}
