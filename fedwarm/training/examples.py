"""Gradients of single examples: of all at once by `torch.func`, of one after another, or of a batch that passes the net once.

A loss takes parameters by name and examples, tensors (b, ...), and gives their losses (b,), or a scalar for one.
"""

from __future__ import annotations

import logging
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
MADE_UP = 3
STIRRED = 0.05
EXACT, HALF = 1e-3, 0.1


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
    checkpoints as they are. Before the first batch the net is tried with made-up examples, and with weights that are stirred, as
    those of a new adapter are zero: where something of one reaches another's loss, or one alone has another gradient, they are
    found otherwise.

    Args:
        net: whose layers are called by the loss.
        most: examples that pass at a time.
        otherwise: for a net that does not take examples apart.

    Attributes:
        apart: whether it does; None: it was not tried yet.
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
                logging.getLogger("fedwarm").warning(
                    "single gradients come from one example after another: in a batch this net gives others"
                )
        if not self.apart:
            return self.otherwise(loss, parameters, examples)
        parts = [self._of(loss, parameters, part) for part in zip(*(t.split(self.most) for t in examples), strict=True)]
        return parts[0] if len(parts) == 1 else {name: torch.cat([part[name] for part in parts]) for name in parameters}

    def _of(self, loss: Loss, parameters: Weights, examples: tuple[Tensor, ...]) -> Found:
        with recording(self.net, parameters, len(examples[0])) as found:
            loss(dict(parameters), *examples).sum().backward()
        return {**_none(parameters, len(examples[0])), **found}

    def _takes_apart(self, loss: Loss, parameters: Weights, examples: tuple[Tensor, ...]) -> bool:
        """Whether each made-up example has the gradient that it has alone, and nothing of others reaches the first one's loss."""
        layers = [self.net.get_submodule(layer_of(name)) for name in parameters]
        plain = all(isinstance(layer, nn.Linear) and layer.bias is None and "forward" not in layer.__dict__ for layer in layers)
        if not plain or len(set(map(id, layers))) < len(layers):
            return False
        made_up = tuple(map(_made_up, examples))
        with stirred(parameters):
            return self._first_is_alone(loss, parameters, made_up) and self._are_alone(loss, parameters, made_up)

    def _first_is_alone(self, loss: Loss, parameters: Weights, made_up: tuple[Tensor, ...]) -> bool:
        """Exactly, in all that gradients tell; and they do tell of the first."""
        given = tuple(t.clone().requires_grad_(t.is_floating_point()) for t in made_up)
        losses = loss(dict(parameters), *given)
        if losses.shape != (MADE_UP,):
            return False
        found = torch.autograd.grad(losses[0], [t for t in given if t.requires_grad], allow_unused=True)
        told = [t for t in found if t is not None]
        return any(bool(t[0].any()) for t in told) and not any(bool(t[1:].any()) for t in told)

    def _are_alone(self, loss: Loss, parameters: Weights, made_up: tuple[Tensor, ...]) -> bool:
        """As far as the precision goes; a gradient that no layer's call brought counts as a difference."""
        before = {name: p.grad for name, p in parameters.items()}
        for p in parameters.values():
            p.grad = None
        try:
            together = self._of(loss, parameters, made_up)
            if any(p.grad is not None for p in parameters.values()):
                return False
        except RowsError:
            return False
        finally:
            for name, p in parameters.items():
                p.grad = before[name]
        wanted = one_by_one(loss, parameters, made_up)
        a, b = (torch.cat([gradient.flatten(1).double() for gradient in each.values()], 1) for each in (together, wanted))
        within = HALF if any(t.dtype in (torch.float16, torch.bfloat16) for t in made_up) else EXACT
        return bool(((a - b).norm(dim=1) <= within * b.norm(dim=1)).all()) and bool((b.norm(dim=1) > 0).all())


class RowsError(ValueError):
    """A layer was not given one row for each example."""


def _made_up(like: Tensor) -> Tensor:
    """Examples (3, ...) that tell nothing of those that are trained on."""
    made = torch.zeros_like(like[:1]).repeat(MADE_UP, *(1 for _ in like.shape[1:]))
    if made.is_floating_point():
        made.copy_(torch.randn(made.shape, generator=torch.Generator().manual_seed(0)))
    return made


@contextmanager
def stirred(parameters: Weights) -> Iterator[None]:
    """Small noise on the parameters for the block, so that none is zero; in place, as checkpoints compute with the net's own."""
    before = [p.detach().clone() for p in parameters.values()]
    draws = torch.Generator().manual_seed(1)
    try:
        with torch.no_grad():
            for p in parameters.values():
                p.add_(STIRRED * torch.randn(p.shape, generator=draws).to(p))
        yield
    finally:
        with torch.no_grad():
            for p, bits in zip(parameters.values(), before, strict=True):
                p.copy_(bits)


def layer_of(name: str) -> str:
    """The layer that a parameter's name belongs to."""
    return name.rpartition(".")[0]


@contextmanager
def recording(net: nn.Module, parameters: Weights, count: int) -> Iterator[Found]:
    """Has a backward pass put each example's gradient (count, out, in) of linear layers' weights into what is yielded.

    The parameters' `grad` stays as it is. A layer that is called more often has the sum.

    Raises:
        RowsError: in the backward pass; a layer had another number of rows.
    """
    found: Found = {}
    layers: dict[str, Any] = {name: net.get_submodule(layer_of(name)) for name in parameters}

    def keeper(name: str) -> Callable[[Tensor], None]:
        def keep(gradient: Tensor) -> None:
            if len(gradient) != count:
                raise RowsError(f"{layer_of(name)!r} had {len(gradient)} rows of {count} examples")
            given = gradient.to(parameters[name].dtype)
            found[name] = found[name].add_(given) if name in found else given

        return keep

    try:
        for name, layer in layers.items():
            layer.forward = _forward(layer, keeper(name))
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
