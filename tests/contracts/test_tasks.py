"""What every task keeps to; each check can be called for any, an installed package's own among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fedwarm.models import Model, build_model
from fedwarm.settings.kinds import TASKS
from fedwarm.settings.registry import Kind
from fedwarm.tasks import made
from fedwarm.training.evaluate import correct
from fedwarm.training.loop import fit
from fedwarm.training.plan import Plan

Check = Callable[[Kind[Any], str], None]
N, CLASSES, SIZE = 12, 3, 8


def data() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (N, 3, SIZE, SIZE), generator=draws).to(torch.uint8), torch.arange(N) % CLASSES


def net(name: str) -> Any:
    return build_model(Model(), made(name).width(CLASSES), SIZE, 0)


def check_loss(kind: Kind[Any], name: str) -> None:
    """A finite scalar, of any number of examples from 2 on, that every weight has a gradient of."""
    task, model, (images, labels) = made(name), net(name), data()
    for many in (2, N):
        outputs = task.outputs(model, images[:many] / 127.5 - 1, torch.Generator().manual_seed(1))
        loss = task.loss(outputs, labels[:many])
        assert loss.shape == () and loss.isfinite()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def check_right(kind: Kind[Any], name: str) -> None:
    """A count of examples, the same each time; nothing is drawn, and the model stays as it was."""
    task, model, (images, labels) = made(name), net(name), data()
    world, before = torch.get_rng_state(), {key: value.clone() for key, value in model.state_dict().items()}
    counts = {correct(model, images, labels, task) for _ in range(2)}
    assert len(counts) == 1 and 0 <= counts.pop() <= N
    assert torch.equal(torch.get_rng_state(), world)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def check_trains(kind: Kind[Any], name: str) -> None:
    """The loop trains it, to the same model from the same draws, with nobody else's random numbers."""
    ends = []
    for _ in range(2):
        model, world = net(name), torch.get_rng_state()
        fit(model, *data(), Plan(3, 6, 0.02, task=name), torch.Generator().manual_seed(2))
        assert torch.equal(torch.get_rng_state(), world)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    assert not all(torch.equal(ends[0][key], start) for key, start in net(name).state_dict().items())


CHECKS: tuple[Check, ...] = (check_loss, check_right, check_trains)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", TASKS)
def test_contract(name: str, check: Check) -> None:
    check(TASKS, name)
