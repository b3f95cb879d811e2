"""What every optimiser keeps to; each check can be called for any, an installed package's own among them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedwarm.privacy.mechanisms.dp_sgd.account import DpSgd
from fedwarm.privacy.mechanisms.dp_sgd.gradient import Mechanism, source_of
from fedwarm.settings.kinds import OPTIMISERS
from fedwarm.settings.registry import Kind
from fedwarm.training.loop import fit
from fedwarm.training.plan import Plan

Check = Callable[[Kind[Any], str], None]
N, CLASSES, SIZE = 20, 3, 6


def plan(name: str, rate: float = 0.01) -> Plan:
    return Plan(2, 8, rate, 0.9, 0.01, name)


def model(scale: float = 0.1) -> nn.Module:
    with torch.device("meta"):  # nothing is drawn
        made = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, CLASSES))
    draws = torch.Generator().manual_seed(4)
    state = {key: scale * torch.randn(t.shape, generator=draws) for key, t in made.state_dict().items()}
    made.load_state_dict(state, assign=True)
    return made


def data() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (N, 3, SIZE, SIZE), generator=draws).to(torch.uint8), torch.arange(N) % CLASSES


def trained(name: str, private: bool = False) -> dict[str, Tensor]:
    net, mechanism = model(), Mechanism(1e6, 0.0, 8, source_of(DpSgd(entropy="seeded"), 0))
    fit(net, *data(), plan(name, 1e-3), torch.Generator().manual_seed(1), private=mechanism if private else None)
    return net.state_dict()


def check_repeats(kind: Kind[Any], name: str) -> None:
    """The same plan gives the same model, and nobody's random numbers are used up."""
    before = torch.get_rng_state()
    first, again = trained(name), trained(name)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)


def check_descends(kind: Kind[Any], name: str) -> None:
    """Steps lower a bowl; a parameter without a gradient stays, and no step size means no step."""
    here, still = nn.Parameter(torch.tensor([3.0, -2.0])), nn.Parameter(torch.ones(2))
    optimiser = plan(name).optimiser_of([here, still])
    for _ in range(30):
        optimiser.zero_grad()
        here.square().sum().backward()
        optimiser.step()
    assert here.detach().square().sum() < 13.0 and torch.equal(still.detach(), torch.ones(2))
    rested = nn.Parameter(torch.ones(2))
    optimiser = plan(name, 0.0).optimiser_of([rested])
    rested.sum().backward()
    optimiser.step()
    assert torch.equal(rested.detach(), torch.ones(2))


def check_own_state(kind: Kind[Any], name: str) -> None:
    """Two trainings have nothing in common: what one remembers of its steps is not the other's."""
    first = trained(name)
    optimiser = plan(name).optimiser_of([nn.Parameter(torch.ones(2))])
    assert not optimiser.state
    assert all(torch.equal(tensor, trained(name)[key]) for key, tensor in first.items())


def check_private(kind: Kind[Any], name: str) -> None:
    """It steps along a private gradient: without noise the gradients of batches that differ in who is drawn move every weight."""
    start, moved = model().state_dict(), trained(name, private=True)
    assert all(bool((moved[key] != start[key]).any()) and bool(moved[key].isfinite().all()) for key in start)


CHECKS: tuple[Check, ...] = (check_repeats, check_descends, check_own_state, check_private)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_contract(name: str, check: Check) -> None:
    check(OPTIMISERS, name)


@pytest.mark.parametrize("name", OPTIMISERS.own())
def test_torchs_compiler_stays_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    check_descends(OPTIMISERS, name)
