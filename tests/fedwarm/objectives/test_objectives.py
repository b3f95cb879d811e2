"""Objectives by name, when they set in, what they learn, and one of somebody else's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.core.seeds import generator
from fedwarm.models.cnn import cnn
from fedwarm.objectives import hooks_of, is_learned, learned_state
from fedwarm.relevance import idle
from fedwarm.rounds.objectives import check_objective
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.kinds import OBJECTIVES
from fedwarm.training.loop import Plan, fit
from tests.runs import run, same

OURS = ("plain", "class_weighted", "kure", "apqn", "qat", "mqat", "rq")


def config(objective: str, **given: Value) -> Config:
    own = {f"quantization-robust.{name.replace('_', '-')}": value for name, value in given.items()}
    return parse({"method": "fedavg", "objective": objective, **own})


def names(objective: str, number: int, **given: Value) -> list[str]:
    return [type(hook).__name__ for hook in hooks_of(config(objective, **given), number, generator(0))]


def test_every_objective_by_its_name() -> None:
    assert set(OURS) == set(OBJECTIVES.own()) and OBJECTIVES.own()[0] == "plain"
    assert {o: names(o, 6) for o in OURS} == {
        "plain": [], "class_weighted": ["Weighted"], "kure": ["Kure"], "apqn": ["Apqn"],
        "qat": ["Qat"], "mqat": ["Mqat"], "rq": ["RelaxedObjective"],
    }  # fmt: skip
    with pytest.raises(SettingError, match="objective = 'mqta' is not a known objective.*did you mean mqat"):
        config("mqta")
    for objective in ("kure", "mqat", "apqn", "rq"):
        with pytest.raises(SettingError, match=f"'learned' is for qat, not for {objective}"):
            names(objective, 6, range="learned")
    assert names("qat", 1, range="learned") == ["Qat"]


def test_the_variants_of_the_ready_method_are_all_but_plain() -> None:
    for name in OURS[1:]:
        assert parse({"method": "quantization_robust", "quantization-robust.variant": name}).run.objective == name
    with pytest.raises(SettingError, match="variant = 'plain' is unknown"):
        parse({"quantization-robust.variant": "plain"})


def test_when_they_set_in() -> None:
    assert [names("kure", n, kure_warmup=5) for n in (1, 5, 6)] == [[], [], ["Kure"]]
    assert [names("kure", n) for n in (1, 2)] == [[], ["Kure"]]
    assert [names("kure", n, kure_warmup=0, start_round=3) for n in (2, 3)] == [[], ["Kure"]]
    assert [names("mqat", n, start_round=4) for n in (3, 4)] == [[], ["Mqat"]]
    assert names("plain", 1, clip=1.0) == ["ClipGradient"] and names("mqat", 1, clip=1.0) == ["Mqat", "ClipGradient"]


@pytest.mark.parametrize(("objective", "given"), [("qat", {"range": "learned"}), ("rq", {}), ("mqat", {}), ("kure", {})])
def test_what_is_learned_beside_the_weights(objective: str, given: dict[str, Value]) -> None:
    model = cnn(3, 8)
    keys = list(model.state_dict())
    images, labels = torch.randint(0, 256, (12, 3, 8, 8)).to(torch.uint8), torch.arange(12) % 3
    hooks = hooks_of(config(objective, **given), 6, generator(0))
    fit(model, images, labels, Plan(1, 6, 0.01), generator(0), hooks)
    found = learned_state(hooks)
    assert bool(found) == (objective in ("qat", "rq")) and all(is_learned(name) for name in found)
    assert list(model.state_dict()) == keys and not any(is_learned(name) for name in keys)
    again = hooks_of(config(objective, **given), 7, generator(0), found)
    fit(model, images, labels, Plan(1, 6, 0.01), generator(0), again)
    assert learned_state(again).keys() == found.keys()


FOREIGN = '''"""Labels smoothed: Szegedy et al., arXiv 1512.00567."""

from dataclasses import dataclass

from fedwarm.objectives import Objective
from fedwarm.settings.fields import Group, setting
from fedwarm.training.loop import Hook


@dataclass(frozen=True)
class Smoothing(Group, prefix="smoothing"):
    """Settings of smoothed labels."""

    share: float = setting(0.1, "share of the uniform law in a label", low=0.0, high=1.0)


class Smoothed(Hook):
    """Adds the cross-entropy to the uniform law."""

    uses = "example"

    def __init__(self, settings):
        self.share = settings.share

    def loss(self, batch, loss):
        return (1 - self.share) * loss - self.share * batch.logits.log_softmax(1).mean()


smoothed = Objective("labels are smoothed", settings=Smoothing, hooks=(Smoothed,))
late = type("Late", (Objective,), {"begins": lambda self, config: 3})("never in two rounds")
together = Objective("looks at a batch", settings=Smoothing, hooks=(type("Together", (Smoothed,), {"uses": "batch"}),))
'''


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with somebody's objectives, in the current folder."""
    (tmp_path / "smoothing_of_mine.py").write_text(FOREIGN)
    monkeypatch.chdir(tmp_path)
    yield "smoothing_of_mine"
    sys.modules.pop("smoothing_of_mine", None)


def test_somebody_elses_objective_is_one_small_file(foreign: str, tmp_path: Path) -> None:
    fast: dict[str, Value] = {"num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 20, "model.name": "logistic"}
    named: dict[str, Value] = {**fast, "objective": f"{foreign}:smoothed"}
    plain = run("fedavg", tmp_path / "plain", fast, clients=2)
    neutral = run("fedavg", tmp_path / "neutral", {**named, "smoothing.share": 0.0}, clients=2)
    outcome = run("fedavg", tmp_path / "run", {**named, "evaluate.bit-widths": "4"}, clients=2)
    assert same(plain.model, neutral.model) and not same(plain.model, outcome.model)
    assert outcome.results["settings"]["smoothing.share"] == 0.1
    assert list(outcome.results["final"]["bit_widths"]) == ["w4", "w4a4"]
    assert idle(["evaluate.bit-widths", "quantization-robust.train-bits"], outcome.results["settings"], "fedavg") == [
        "quantization-robust.train-bits"
    ]


@pytest.mark.parametrize(
    ("named", "more", "message"),
    [
        ("late", {}, "begins after the last of 2 rounds; raise num-server-rounds"),
        ("together", {"privacy": "dp-sgd"}, "'dp-sgd' does not cover; .*it covers plain, apqn, kure, mqat, qat$"),
        ("Smoothed", {}, "names a type; bind a fedwarm.objectives.Objective"),
        ("absent", {}, "has no 'absent'"),
    ],
)
def test_somebody_elses_objective_is_refused_with_a_reason(
    foreign: str, named: str, more: dict[str, Value], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        check_objective(parse({"method": "fedavg", "num-server-rounds": 2, "objective": f"{foreign}:{named}", **more}))
