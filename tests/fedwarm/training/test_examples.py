"""Gradients of single examples: a batch that passes once gives what each example gives alone, or is not taken at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from fedwarm.core.seeds import generator, initialisation
from fedwarm.training.examples import Batched, Found, Loss, Singly, at_once, one_by_one

B, WIDTH = 5, 4


class Net(nn.Module):
    """Two matrices of which one is used twice, on rows and on an example as a whole; a third is never asked."""

    def __init__(self, between: str = "") -> None:
        super().__init__()
        self.first, self.second, self.unused = (nn.Linear(WIDTH, WIDTH, bias=between == "bias") for _ in range(3))
        self.fixed, self.between = nn.Linear(WIDTH, WIDTH).requires_grad_(False), between

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        if self.between == "batch":
            x = x - 1e-3 * x.mean(0)
        if self.between == "flat":
            return torch.tanh(self.first(x.flatten(0, 1))).view_as(x) + self.first(x.mean(1))[:, None]
        hidden: Tensor = checkpoint(self._hidden, x, use_reentrant=False) if self.between == "checkpoint" else self._hidden(x)
        return hidden + self.second(beside)[:, None]

    def _hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(self.fixed(torch.tanh(self.first(x)))) + self.first(x.mean(1))[:, None]


def net_of(between: str = "", dtype: torch.dtype = torch.float64) -> Net:
    with initialisation(0, "singly"):
        return Net(between).to(dtype)


def examples_of(dtype: torch.dtype = torch.float64, count: int = B) -> tuple[Tensor, ...]:
    draws = generator(0, "singly-examples")
    shapes = ((count, 3, WIDTH), (count, WIDTH), (count, 3, WIDTH))
    return *(torch.randn(shape, generator=draws).to(dtype) for shape in shapes), torch.arange(count)


def loss_of(net: nn.Module) -> Loss:
    def loss(weights: dict[str, Tensor], x: Tensor, beside: Tensor, target: Tensor, number: Tensor) -> Tensor:
        said = functional_call(net, weights, (x, beside))
        return F.mse_loss(said, target, reduction="none").flatten(1).mean(1) * (number + 1)

    return loss


def gradients(net: nn.Module, singly: Singly, examples: tuple[Tensor, ...]) -> Found:
    return singly(loss_of(net), {n: p for n, p in net.named_parameters() if p.requires_grad}, examples)


class Counted:
    """Counts the batches that are found another way."""

    calls = 0

    def __call__(self, loss: Loss, parameters: dict[str, nn.Parameter], examples: tuple[Tensor, ...]) -> Found:
        self.calls += 1
        return one_by_one(loss, parameters, examples)


@pytest.mark.parametrize(
    ("between", "apart"),
    [("", True), ("checkpoint", True), ("batch", False), ("flat", False), ("bias", False)],
)
@pytest.mark.parametrize("most", [2, 8])
def test_a_batch_gives_what_each_example_gives_alone(between: str, apart: bool, most: int) -> None:
    """A net that brings examples together, hides where one ends, or has biases is asked about one after another."""
    net, other = net_of(between), Counted()
    wanted = gradients(net, one_by_one, examples_of())
    found = gradients(net, Batched(net, most, other), examples_of())  # type: ignore[arg-type]
    assert other.calls == (0 if apart else 1)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)
        assert bool(gradient.any()) != name.startswith("unused") or (between == "flat" and name.startswith("second"))


@pytest.mark.parametrize("singly", [at_once, one_by_one, None], ids=["vmap", "loop", "batch"])
def test_no_example_gives_no_gradient(singly: Singly | None) -> None:
    net = net_of()
    found = gradients(net, singly or Batched(net, 2), examples_of(count=0))
    assert {len(gradient) for gradient in found.values()} == {0}
    assert {name: gradient.shape[1:] for name, gradient in found.items()} == {
        name: p.shape for name, p in net.named_parameters() if p.requires_grad
    }


def test_vmap_gives_the_same() -> None:
    net = net_of()
    wanted = gradients(net, one_by_one, examples_of())
    for name, gradient in gradients(net, at_once, examples_of()).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-9, atol=1e-12)


def test_the_net_is_as_it_was() -> None:
    """An error on the way leaves its layers as they were, too."""
    net = net_of()
    before = gradients(net, one_by_one, examples_of())
    singly = Batched(net, 8)
    gradients(net, singly, examples_of())
    with pytest.raises(RuntimeError):
        gradients(net, singly, tuple(t[..., :2] if t.dim() == 3 else t for t in examples_of()))
    assert not any("forward" in module.__dict__ for module in net.modules())
    assert all(p.grad is None for p in net.parameters())
    after = gradients(net, one_by_one, examples_of())
    assert all(torch.equal(after[name], gradient) for name, gradient in before.items())


def test_an_example_that_is_no_number_stays_alone() -> None:
    net, examples = net_of(dtype=torch.float32), examples_of(torch.float32)
    wanted = gradients(net, one_by_one, examples)
    examples[0][2] = torch.nan
    for name, gradient in gradients(net, Batched(net, 8), examples).items():
        for i in (0, 1, 3, 4):
            torch.testing.assert_close(gradient[i], wanted[name][i], rtol=1e-4, atol=1e-6)
        assert bool(gradient[2].isnan().any()) == (not name.startswith("unused"))
