"""What every task keeps to; each check can be called for any, an installed package's own among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedwarm.metrics import COUNTED, metric, metrics_for
from fedwarm.models import Model, build_model
from fedwarm.settings.kinds import TASKS
from fedwarm.settings.registry import Kind
from fedwarm.tasks import made
from fedwarm.training.evaluate import Measuring
from fedwarm.training.loop import fit
from fedwarm.training.plan import Plan

Check = Callable[[Kind[Any], str], None]
N, CLASSES, SIZE = 12, 3, 8


def data(name: str = "") -> tuple[Tensor, Tensor]:
    """Pictures, and targets such as a task has: classes where none is named."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (N, 3, SIZE, SIZE), generator=draws).to(torch.uint8)
    targets = {
        "classes": torch.arange(N) % CLASSES,
        "labels": (torch.arange(N * CLASSES).reshape(N, CLASSES) % 2).float(),
        "numbers": torch.linspace(-1, 1, N * CLASSES).reshape(N, CLASSES),
        "tokens": torch.arange(N * 4).reshape(N, 4) % CLASSES,
    }
    return images, targets[made(name).targets if name else "classes"]


class EachToken(nn.Module):
    """The same logits at each of four places."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x)
        return found[:, None].expand(-1, 4, -1)


def net(name: str) -> Any:
    task = made(name)
    model = build_model(Model(), task.width(CLASSES), SIZE, 0)
    return EachToken(model) if task.targets == "tokens" else model


def check_loss(kind: Kind[Any], name: str) -> None:
    """A finite scalar, of any number of examples from 2 on, that every weight has a gradient of."""
    task, model, (images, labels) = made(name), net(name), data(name)
    for many in (2, N):
        outputs = task.outputs(model, images[:many] / 127.5 - 1, torch.Generator().manual_seed(1))
        loss = task.loss(outputs, labels[:many])
        assert loss.shape == () and loss.isfinite()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def check_right(kind: Kind[Any], name: str) -> None:
    """The same each time, right answers no more than examples; nothing is drawn, and the model stays as it was."""
    task, model, (images, labels) = made(name), net(name), data(name)
    metrics = {each: metric(each) for each in metrics_for(task) if each != COUNTED or not task.counted}
    world, before = torch.get_rng_state(), {key: value.clone() for key, value in model.state_dict().items()}
    found = []
    for _ in range(2):
        measuring = Measuring(task, metrics, task.width(CLASSES))
        measuring.add(model, images, labels)
        found.append(measuring.done())
    assert found[0].examples == N and found[0].right == found[1].right and (found[0].right is None or 0 <= found[0].right <= N)
    assert all(np.array_equal(total, found[1].sums[part]) for part, total in found[0].sums.items())
    assert all(np.isfinite(total).all() for total in found[0].sums.values())
    assert torch.equal(torch.get_rng_state(), world)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def check_trains(kind: Kind[Any], name: str) -> None:
    """The loop trains it, to the same model from the same draws, with nobody else's random numbers."""
    ends = []
    for _ in range(2):
        model, world = net(name), torch.get_rng_state()
        fit(model, *data(name), Plan(3, 6, 0.02, task=name), torch.Generator().manual_seed(2))
        assert torch.equal(torch.get_rng_state(), world)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    assert not all(torch.equal(ends[0][key], start) for key, start in net(name).state_dict().items())


CHECKS: tuple[Check, ...] = (check_loss, check_right, check_trains)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", TASKS)
def test_contract(name: str, check: Check) -> None:
    check(TASKS, name)
