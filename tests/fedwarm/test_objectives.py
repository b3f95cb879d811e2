"""Objectives by name, and when they set in."""

from __future__ import annotations

import pytest
import torch

from fedwarm.core.seeds import generator
from fedwarm.models.cnn import cnn
from fedwarm.objectives import OBJECTIVES, is_learned, learned_state, objective_hooks
from fedwarm.objectives.rq import RelaxedQuantization
from fedwarm.quantize.hooks import QuantizationRobust
from fedwarm.settings.config import Config, General
from fedwarm.settings.fields import SettingError
from fedwarm.training.loop import Plan, fit


def config(**given: object) -> Config:
    robust = QuantizationRobust(**given)  # type: ignore[arg-type]
    return Config({General: General(), QuantizationRobust: robust, RelaxedQuantization: RelaxedQuantization()})


def names(objective: str, number: int, **given: object) -> list[str]:
    return [type(hook).__name__ for hook in objective_hooks(objective, config(**given), number, generator(0))]


def test_every_objective_by_its_name() -> None:
    assert {o: names(o, 6) for o in OBJECTIVES} == {
        "plain": [], "kure": ["Kure"], "apqn": ["Apqn"], "qat": ["Qat"], "mqat": ["Mqat"], "rq": ["RelaxedObjective"],
    }  # fmt: skip
    with pytest.raises(SettingError, match="objective = 'mqta' is unknown.*mqat"):
        objective_hooks("mqta", config(), 1, generator(0))
    with pytest.raises(SettingError, match="is for qat"):
        objective_hooks("mqat", config(range="learned"), 1, generator(0))


def test_when_they_set_in() -> None:
    assert [names("kure", n, kure_warmup=5) for n in (1, 5, 6)] == [[], [], ["Kure"]]
    assert [names("kure", n) for n in (1, 2)] == [[], ["Kure"]]
    assert [names("kure", n, kure_warmup=0, start_round=3) for n in (2, 3)] == [[], ["Kure"]]
    assert [names("mqat", n, start_round=4) for n in (3, 4)] == [[], ["Mqat"]]
    assert names("plain", 1, clip=1.0) == ["ClipGradient"] and names("mqat", 1, clip=1.0) == ["Mqat", "ClipGradient"]


@pytest.mark.parametrize(("objective", "given"), [("qat", {"range": "learned"}), ("rq", {}), ("mqat", {}), ("kure", {})])
def test_what_is_learned_beside_the_weights(objective: str, given: dict[str, object]) -> None:
    model = cnn(3, 8)
    keys = list(model.state_dict())
    images, labels = torch.randint(0, 256, (12, 3, 8, 8)).to(torch.uint8), torch.arange(12) % 3
    hooks = objective_hooks(objective, config(**given), 6, generator(0))
    fit(model, images, labels, Plan(1, 6, 0.01), generator(0), hooks)
    found = learned_state(hooks)
    assert bool(found) == (objective in ("qat", "rq")) and all(is_learned(name) for name in found)
    assert list(model.state_dict()) == keys and not any(is_learned(name) for name in keys)
    again = objective_hooks(objective, config(**given), 7, generator(0), found)
    fit(model, images, labels, Plan(1, 6, 0.01), generator(0), again)
    assert learned_state(again).keys() == found.keys()
