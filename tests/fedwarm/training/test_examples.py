"""Gradients of single examples: a batch that passes once gives what each example gives alone, or is not taken at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from fedwarm.core.seeds import generator, initialisation
from fedwarm.privacy.mechanisms.dp_sgd.gradient import Mechanism
from fedwarm.training.examples import Batched, Found, Loss, Singly, at_once, one_by_one

B, WIDTH = 5, 4


class Net(nn.Module):
    """Two matrices of which one is used twice, on rows and on an example as a whole; a third is never asked."""

    def __init__(self, between: str = "") -> None:
        super().__init__()
        self.first, self.second, self.unused = (
            KINDS.get(between, nn.Linear)(WIDTH, WIDTH, bias=between == "bias") for _ in range(3)
        )
        self.fixed, self.between = nn.Linear(WIDTH, WIDTH).requires_grad_(False), between
        if between == "gate":
            self.second.weight.data.zero_()

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        hidden: Tensor = checkpoint(self._hidden, x, use_reentrant=False) if self.between == "checkpoint" else self._hidden(x)
        if self.between == "gate":
            hidden = hidden - hidden.mean(0)
            return x + self.second(hidden)
        if self.between == "largest":
            hidden = hidden * hidden.detach().abs().amax()
        return hidden + self.second(beside)[:, None]

    def _hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(self.fixed(torch.tanh(self._rows(x)))) + self.first(x.mean(1))[:, None]

    def _rows(self, x: Tensor) -> Tensor:
        match self.between:
            case "mean":
                return self.first(x - 1e-3 * x.mean(0))
            case "flat":
                return self.first(x.flatten(0, 1)).view_as(x)
            case "positions first":
                return self.first(x.transpose(0, 1)).transpose(0, 1)
            case "turned":
                return self.first(x.flip(0)).flip(0)
            case "pairs":
                return torch.cat([self.first(part) for part in x.split(2)])
            case "weight itself":
                return F.linear(x, self.first.weight)
            case _:
                return self.first(x)


class Thrice(nn.Linear):
    """Has a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return 3 * super().forward(input)


KINDS = {"own forward": Thrice}
APART = ["", "checkpoint"]
NOT_APART = [
    "mean", "flat", "positions first", "turned", "pairs", "weight itself", "bias", "own forward", "gate", "largest",
]  # fmt: skip


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


@pytest.mark.parametrize("between", [*APART, *NOT_APART])
@pytest.mark.parametrize("most", [2, 8])
def test_a_batch_gives_what_each_example_gives_alone(between: str, most: int, caplog: pytest.LogCaptureFixture) -> None:
    """A net that brings examples together, or hides where one ends, is asked for one after another, and that is said."""
    net, other = net_of(between), Counted()
    weights = [p.detach().clone() for p in net.parameters()]
    wanted, singly = gradients(net, one_by_one, examples_of()), Batched(net, most, other)  # type: ignore[arg-type]
    for calls in (1, 2):
        found = gradients(net, singly, examples_of())
        assert other.calls == (0 if between in APART else calls)
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(p, before) for p, before in zip(net.parameters(), weights, strict=True))
    assert all(p.grad is None for p in net.parameters())
    assert caplog.text.count("one example after another") == (between in NOT_APART)


def test_tied_weights_are_not_taken_apart() -> None:
    net, other = net_of(), Counted()
    net.second.weight = net.first.weight
    wanted, found = (gradients(net, each, examples_of()) for each in (one_by_one, Batched(net, 8, other)))  # type: ignore[arg-type]
    assert other.calls == 1
    assert all(torch.equal(found[name], gradient) for name, gradient in wanted.items())


@pytest.mark.parametrize("between", ["", "positions first", "largest"])
def test_one_example_moves_a_private_sum_by_the_clip_at_most(between: str) -> None:
    """What a private step rests on, with a net that takes examples apart and with those that do not."""
    net, mechanism, clip = net_of(between), Mechanism(0.5, 0.0), 0.5
    trained = {n: p for n, p in net.named_parameters() if p.requires_grad}
    optimiser = torch.optim.SGD(trained.values(), 0.1)
    sums = []
    for examples in (examples_of(), tuple(t[1:] for t in examples_of())):
        mechanism.gradient(net, optimiser, trained, 1.0, 1.0, Batched(net, 8))(loss_of(net), examples)
        sums.append(torch.cat([p.grad.flatten() for p in trained.values() if p.grad is not None]))
    assert 0 < (sums[0] - sums[1]).norm() <= clip * (1 + 1e-9)


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
