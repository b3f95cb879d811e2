"""Optimisers against torch's, and the setting that chooses one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

from fedwarm.catalogue import parse
from fedwarm.methods import refuse
from fedwarm.settings.fields import SettingError
from fedwarm.training.plan import Plan

PLAN = Plan(1, 8, 0.05, 0.8, 0.1)
Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
TORCHS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, betas=(0.8, 0.999), weight_decay=0.1),
}


def walk(optimiser: torch.optim.Optimizer, weight: nn.Parameter) -> torch.Tensor:
    for step in range(5):
        optimiser.zero_grad()
        (weight.sin() * (1 + step)).sum().backward()
        optimiser.step()
    return weight.detach()


@pytest.mark.parametrize("name", TORCHS)
def test_the_numbers_are_torchs(name: str) -> None:
    ours, theirs = (nn.Parameter(torch.linspace(-2, 2, 7)) for _ in range(2))
    plan = Plan(*(getattr(PLAN, field) for field in ("epochs", "batch_size", "learning_rate", "momentum", "weight_decay")), name)
    assert torch.equal(walk(plan.optimiser_of([ours]), ours), walk(TORCHS[name]([theirs]), theirs))


def test_the_setting_reaches_the_plan() -> None:
    assert Plan.of(parse({"optimiser": "adamw"}).run).optimiser == "adamw"
    assert Plan.of(parse({}).run).optimiser == Plan(1, 1, 1.0).optimiser == "sgd"
    with pytest.raises(SettingError, match=r"optimiser = 'adam' is not a known optimiser.*adamw"):
        parse({"optimiser": "adam"})


def test_scaffold_knows_steps_of_sgd_alone() -> None:
    with pytest.raises(SettingError, match=r"optimiser = 'adamw' cannot be used with method 'scaffold'.*steps of SGD"):
        refuse(parse({"method": "scaffold", "optimiser": "adamw"}))
    refuse(parse({"method": "scaffold"}))


CODE = '''
from dataclasses import dataclass
import torch
from fedwarm.settings.fields import Group, setting
from fedwarm.settings.registry import component

@dataclass(frozen=True)
class Sign(Group, prefix="sign"):
    scale: float = setting(2.0, "factor on the step")

@component(settings=Sign)
def sign(parameters, plan, settings=Sign()):
    """Steps of one length."""
    return torch.optim.Rprop(parameters, lr=plan.learning_rate * settings.scale)
'''


def test_one_from_elsewhere_gets_its_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "steps_from_elsewhere.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    run = parse({"optimiser": "steps_from_elsewhere:sign", "sign.scale": 4.0, "learning-rate": 0.25}).run
    assert Plan.of(run).optimiser_of([nn.Parameter(torch.ones(1))]).defaults["lr"] == 1.0
