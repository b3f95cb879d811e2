"""What layers draw in training follows from the training's generator, and leaves everybody's generator as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from fedwarm.privacy.mechanisms.dp_sgd.account import DpSgd
from fedwarm.privacy.mechanisms.dp_sgd.gradient import Mechanism, source_of
from fedwarm.training.dropout import draws, layers_draw
from fedwarm.training.loop import fit
from fedwarm.training.plan import Plan


def trained(seed: int, drop: float = 0.5, private: bool = False) -> Tensor:
    with torch.device("meta"):
        net = nn.Sequential(nn.Flatten(), nn.Dropout(drop), nn.Linear(12, 3))
    net.load_state_dict({"2.weight": torch.zeros(3, 12), "2.bias": torch.zeros(3)}, assign=True)
    images = torch.arange(96).reshape(8, 3, 2, 2).to(torch.uint8)
    mechanism = Mechanism(1e6, 0.0, 8, source_of(DpSgd(entropy="seeded"), 0)) if private else None
    fit(net, images, torch.arange(8) % 3, Plan(1, 4, 0.1), torch.Generator().manual_seed(seed), private=mechanism)
    weight: Tensor = net[2].weight.detach()
    return weight


def test_the_generator_alone_decides() -> None:
    before, first = torch.get_rng_state(), trained(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(trained(1), first) and not torch.equal(trained(2), first) and not torch.equal(trained(1, 0.0), first)


def test_the_card_of_the_model_is_the_one_that_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    current, seeded = [0], list[int]()

    @contextmanager
    def on(device: torch.device) -> Iterator[None]:
        current.append(device.index)
        yield
        current.pop()

    fork = torch.random.fork_rng
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: fork(devices=[]))
    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: seeded.append(current[-1]))
    with layers_draw(torch.Generator().manual_seed(1), torch.device("cuda", 1)):
        assert seeded == [1]


def test_private_training_draws_from_its_own_source() -> None:
    assert torch.equal(trained(1, private=True), trained(1, private=True))
    assert torch.equal(trained(1, private=True), trained(2, private=True)), "not from the order's generator"


def test_layers_that_draw_are_known_by_their_names() -> None:
    from torchvision.ops import StochasticDepth

    assert draws(nn.Sequential(nn.Dropout2d())) and draws(StochasticDepth(0.1, "row")) and not draws(nn.Linear(2, 2))
